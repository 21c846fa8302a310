"""Redaction: what must not reach the index is dropped, masked or hashed before anything is written.

Contract: a rule names values by a JSONPath (names, indices, ``*``, slices and ``..``; no filters, no negative indices) and an
action; it holds for what the path selects and everything below. The same path is looked for in the state, in the metadata and
in the values of interrupts, each with its own root ``$``. Where it is in doubt whether a rule covers a piece of text, it does.

Outside: free text without a path, such as the message of an error.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from perdure.chassis import json

Path = tuple[str, ...]
Step = str | range

MASK: Final = "***"
_PARTS: Final = re.compile(r"[^.\[\]]+")
_STEP: Final = re.compile(r"\.((?:\\.|[^.\[\]\\])*)|\[(\d+)\]")
_UNESCAPE: Final = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_ESCAPE: Final = re.compile(r"\\(.)")
_KEY_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
ANY: Final = "*"
BELOW: Final = ".."

DROPPED: Final = object()


class Action(StrEnum):
    """What is done with a value."""

    DROP = "drop"
    """It is left out."""
    MASK = "mask"
    """``***`` stands in its place."""
    HASH = "hash"
    """A keyed digest stands in its place: equal values stay equal, and can be searched for by whoever has the key."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled rule.

    Attributes:
        pattern: A name, an index, a range of indices, ``ANY`` or ``BELOW`` (any number of steps) for each step.
        action: What is done.
        graph: The graph that it holds for; all if ``None``.

    """

    pattern: tuple[Step, ...]
    action: Action
    graph: str | None = None

    def covers(self, path: Path) -> bool:
        """Whether the value at ``path``, or one that it is part of, is selected.

        A name with dots or brackets in it, in the rule or in the path, is taken for one step and for several.
        """
        return _covers(self.pattern, path) or _covers(_apart(self.pattern), _apart(path))


def _covers(pattern: Sequence[Step], path: Sequence[Step]) -> bool:
    if not pattern:
        return True
    step = pattern[0]
    if step == BELOW:
        return any(_covers(pattern[1:], path[i:]) for i in range(len(path) + 1))
    if not path:
        return False
    name = path[0]
    in_range = isinstance(step, range) and isinstance(name, str) and name.isdecimal() and int(name) in step
    fits = in_range or step in {ANY, name}
    return fits and _covers(pattern[1:], path[1:])


def split_path(path: str) -> Path | None:
    """The steps of a path as events write it: ``$.messages[3].content`` is ``("messages", "3", "content")``.

    ``None`` where nothing says what the steps are: a key that an earlier version wrote without escapes.
    """
    steps: list[str] = []
    at = 1
    while at < len(path):
        if (found := _STEP.match(path, at)) is None:
            return None
        name, index = found.groups()
        steps.append(index if name is None else _KEY_ESCAPE.sub(lambda m: _UNESCAPE.get(m[1], m[1]), name))
        at = found.end()
    return tuple(steps) if path.startswith("$") else None


@lru_cache(maxsize=4096)
def _apart(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps with names that have dots or brackets in them taken apart."""
    found: list[Step] = []
    for step in steps:
        parts = _PARTS.findall(step) if isinstance(step, str) and step not in (ANY, BELOW) else ()
        found.extend(parts or (step,))
    return tuple(found)


class Redaction:
    """All rules. Pure; one instance serves the whole process."""

    def __init__(self, rules: Iterable[Rule] = (), key: bytes = b"") -> None:
        self._rules = tuple(rules)
        self._key = key

    def __bool__(self) -> bool:
        return bool(self._rules)

    def text(self, text: str, graph: str) -> str:
        """The values of an event's changed text, one a line, without their paths."""
        rules = self._of(graph)
        return "\n".join(value for line in text.split("\n") if (value := self._line(line, rules)) is not None)

    def value(self, value: Any, graph: str) -> Any:
        """A JSON value with all rules applied; ``None`` when it is dropped as a whole."""
        rules = self._of(graph)
        if not rules:
            return value
        found = self._walk(value, (), rules)
        return None if found is DROPPED else found

    def _of(self, graph: str) -> tuple[Rule, ...]:
        return tuple(rule for rule in self._rules if rule.graph in (None, graph))

    def _line(self, line: str, rules: tuple[Rule, ...]) -> str | None:
        path, tab, value = line.partition("\t")
        if not tab:
            return None  # cut inside the path: nothing says what it is
        if rules:
            if (steps := split_path(path)) is None:
                return None
            for rule in rules:
                if rule.covers(steps):
                    changed = self._changed(rule.action, _unescaped(value))
                    return None if changed is DROPPED else str(changed)
        return _unescaped(value)

    def _walk(self, value: Any, path: Path, rules: tuple[Rule, ...]) -> Any:
        for rule in rules:
            if rule.covers(path):
                return self._changed(rule.action, value)
        if isinstance(value, dict):
            items = ((key, self._walk(item, (*path, str(key)), rules)) for key, item in value.items())
            return {key: item for key, item in items if item is not DROPPED}
        if isinstance(value, list | tuple):
            walked = (self._walk(item, (*path, str(i)), rules) for i, item in enumerate(value))
            return [item for item in walked if item is not DROPPED]
        return value

    def _changed(self, action: Action, value: Any) -> Any:
        match action:
            case Action.DROP:
                return DROPPED
            case Action.MASK:
                return MASK
            case Action.HASH:
                raw = value.encode() if isinstance(value, str) else json.dumps(value)
                return "hmac:" + hmac.new(self._key, raw, sha256).hexdigest()[:32]


def _unescaped(value: str) -> str:
    return _ESCAPE.sub(lambda m: _UNESCAPE.get(m[1], m[0]), value) if "\\" in value else value
