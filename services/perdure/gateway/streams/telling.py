"""What a stream tells: one thing that a history document says, as clients of the Agent Server read it.

Contract: pure. A document always says the same things in the same order, whoever reads it and whenever, so the number of a thing
within its document is part of the id under which clients know it (ADR 29).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import orjson

from perdure.gateway.http.responses import as_text

ALWAYS: Final = ""
"""The mode of what every stream tells: the beginning, an error, the end."""
_PLACE: Final = re.compile(r"(\d{1,18})(?:([-+])(\d{1,18}))?", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """How far a reader got: everything before ``seq``, and of this document and the chunks after it so many.

    ``chunks`` above 0 means that everything the document says was told.
    """

    seq: int
    said: int = 0
    chunks: int = 0


BEGINNING: Final = Cursor(0)
WHOLE: Final = 2**62
"""As ``said``: everything that the document says."""


def read_cursor(text: str) -> Cursor | None:
    """The place that an event's id names; ``-1`` is the beginning. ``None``: no id of ours."""
    if text == "-1":
        return BEGINNING
    match = _PLACE.fullmatch(text)
    if match is None:
        return None
    seq, kind, number = int(match[1]), match[2], int(match[3] or 0)
    if kind is None:
        return Cursor(seq, WHOLE)
    return Cursor(seq, WHOLE, number) if kind == "+" else Cursor(seq, number)


class Json:
    """A value as JSON, made when it is first needed and shared by everything that holds it."""

    __slots__ = ("_made", "_value")

    def __init__(self, value: Any) -> None:
        self._value = value
        self._made: bytes | None = None

    @property
    def data(self) -> bytes:
        """The JSON."""
        if self._made is None:
            self._made = orjson.dumps(self._value, default=_held, option=orjson.OPT_NON_STR_KEYS)
            self._value = None
        return self._made


@dataclass(eq=False)
class Told:
    """One event of a stream."""

    mode: str
    """The stream mode that asks for it; ``ALWAYS`` where none is needed."""
    event: str
    """The event's name, without namespace."""
    ns: str
    """The namespace of the subgraph that said it, parts joined by ``|``; empty for the root graph."""
    content: Json
    whole: bool = False
    """Whether it stands for chunks: a reader that got them is not told."""
    number: int = field(default=0)
    """Its number within its document, from 1."""

    @property
    def data(self) -> bytes:
        """The event's data as JSON."""
        return self.content.data

    @cached_property
    def name(self) -> str:
        """The event's name as clients read it."""
        return f"{self.event}|{self.ns}" if self.ns else self.event


def told(mode: str, ns: str, value: Any, *, event: str | None = None, whole: bool = False) -> Told:
    """One event; the value may hold :class:`Json`."""
    return Told(mode, event or mode, ns, value if isinstance(value, Json) else Json(value), whole)


def numbered(events: Iterable[Told]) -> tuple[Told, ...]:
    """The events of one document with their numbers."""
    found = tuple(events)
    for number, one in enumerate(found, 1):
        one.number = number
    return found


@dataclass(frozen=True, slots=True)
class Said:
    """What one history document says."""

    seq: int
    run_id: str | None
    ns: str
    events: Sequence[Told]
    since: int = 0
    """Of a checkpoint: the sequence number since which its superstep was under way; chunks after it belong to the superstep."""
    ends: bool = False
    """Whether the run ends with it."""
    begins: bool = False
    """Whether the run, or a later owner of it, begins with it."""
    status: str | None = None
    """How the run ended."""
    nbytes: int = 0
    """About how much memory it holds, in bytes."""


def _held(value: Any) -> Any:
    return orjson.Fragment(value.data) if isinstance(value, Json) else as_text(value)
