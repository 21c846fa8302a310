r"""The changed part of a state as text, for the index.

Contract: one line per changed leaf, ``<json path>\t<value>``; cut at ``TEXT_LIMIT`` characters. Tabs and line ends are escaped by a
backslash; in the keys of the path dots and brackets are, too, so that a path can be taken apart into the keys it was made of.
A list or dict channel gives only the items that are new or replaced since the checkpoint before in this execution; the first
checkpoint of an execution gives the newest items that fit.

The work is bounded by the limit, not by the state: a state of megabytes costs what its change costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from itertools import compress
from operator import is_not
from typing import Any

from pydantic import BaseModel

from perdure.schemas.events import TEXT_LIMIT

HIDDEN = ("__", "branch:to:", "join:")
MAX_DEPTH = 12
LEAF_LIMIT = 8_192
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_KEY_ESCAPES = _ESCAPES | str.maketrans({".": "\\.", "[": "\\[", "]": "\\]"})


def is_internal(channel: str) -> bool:
    """Whether a channel is LangGraph's own."""
    return channel.startswith(HIDDEN)


class ChangedText:
    """Remembers the items of the channels of one execution, by identity, to tell what changed."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], Any] = {}

    def of(self, ns: str, values: Mapping[str, Any], channels: Iterable[str]) -> tuple[str, bool]:
        """The text of the changed channels and whether it was cut."""
        lines: list[str] = []
        room = TEXT_LIMIT
        for channel in channels:
            if channel not in values:
                continue
            for path, leaf in self._changed(ns, channel, values[channel]):
                line = f"{path}\t{leaf[:LEAF_LIMIT].translate(_ESCAPES)}"
                if len(line) >= room:
                    lines.append(line[:room])
                    return "\n".join(lines), True
                lines.append(line)
                room -= len(line) + 1
        return "\n".join(lines), False

    def _changed(self, ns: str, channel: str, value: Any) -> Iterator[tuple[str, str]]:
        before = self._before.get((ns, channel))
        root = f"$.{step(channel)}"
        if type(value) is list:
            self._before[ns, channel] = value.copy()
            known = before if type(before) is list else []
            for i in _changed_items(known, value):
                yield from leaves(f"{root}[{i}]", value[i])
        elif type(value) is dict:
            self._before[ns, channel] = value.copy()
            found = before if type(before) is dict else {}
            for key in reversed(value):
                if key not in found or found[key] is not value[key]:
                    yield from leaves(f"{root}.{step(key)}", value[key])
        else:
            yield from leaves(root, value)


def step(key: Any) -> str:
    """A key as one step of a path."""
    name = str(key)
    return name if name.isidentifier() else name.translate(_KEY_ESCAPES)


def _changed_items(before: list[Any], value: list[Any]) -> Iterator[int]:
    """The positions of the items that are new or other objects than before, last first."""
    both = min(len(before), len(value))
    yield from range(len(value) - 1, both - 1, -1)
    yield from reversed(list(compress(range(both), map(is_not, before, value))))


def leaves(path: str, value: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """The leaves of a value with their paths; objects by their fields.

    What is too deep or unknown is named by its type alone: its text would escape redaction by path.
    """
    if value is None or value == "":
        return
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, int | float):
        yield path, str(value)
    elif isinstance(value, bytes | bytearray | memoryview):
        yield path, f"<{len(value)} bytes>"
    elif depth >= MAX_DEPTH:
        yield path, f"<{type(value).__name__}>"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(f"{path}.{step(key)}", item, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for i, item in enumerate(value):
            yield from leaves(f"{path}[{i}]", item, depth + 1)
    elif isinstance(value, BaseModel):
        yield from leaves(path, value.__dict__, depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from leaves(path, {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}, depth + 1)
    else:
        yield path, f"<{type(value).__name__}>"
