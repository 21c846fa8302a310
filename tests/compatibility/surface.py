"""The surface of the Agent Server: its operations and the names of their parameters, from ``surface.toml``.

A parameter is written ``<place>.<name>``; the places are those of ``PLACES``.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

REFERENCE: Final = "langgraph-api"
REFERENCE_VERSION: Final = "0.16.7"
PLACES: Final = ("path", "query", "header", "body", "answer_header", "answer", "event")
FILE: Final = Path(__file__).with_name("surface.toml")


@dataclass(frozen=True)
class Operation:
    """One operation, ``POST /threads``.

    Attributes:
        parameters: In their order, each with its place.
        undescribed: Those that the reference's description does not name.

    """

    section: str
    name: str
    parameters: tuple[str, ...]
    undescribed: frozenset[str]

    @property
    def method(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def path(self) -> str:
        return self.name.partition(" ")[2]

    def matches(self, method: str, path: str) -> bool:
        return method == self.method and _pattern(self.path).fullmatch(path) is not None


@cache
def operations() -> tuple[Operation, ...]:
    """All operations, in the order of the file."""
    return tuple(
        Operation(
            section,
            name,
            tuple(f"{place}.{one}" for place in PLACES for one in places.get(place, "").split()),
            frozenset(places.get("undescribed", "").split()),
        )
        for section, table in tomllib.loads(FILE.read_text()).items()
        for name, places in table.items()
    )


def operation_of(method: str, path: str) -> Operation | None:
    """The operation of a request; of several that match the path the one with the fewest places."""
    found = [one for one in operations() if one.matches(method, path)]
    return min(found, key=lambda one: one.path.count("{"), default=None)


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))
