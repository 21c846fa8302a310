"""Finding out that items did not change, without serializing them again.

Contract: exact. :func:`watch` notes every immutable part of the items by identity; :func:`unchanged` is true only if
serializing them would give the same bytes. Items that cannot be watched (or that are serialized faster than they are
watched, such as plain dicts) give ``None``, and the caller serializes them. LangChain's own message classes are worth
it: their serialization is slow, depends on their fields alone, and chat histories are made of them. Subclasses may
serialize as they like and are not watched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, count
from operator import is_, is_not
from typing import Any, Final

_ATOMS = frozenset({str, int, float, bool, type(None), bytes})
_END: Final = object()


@dataclass(slots=True, frozen=True, eq=False)
class Watched:
    """What was seen: the items, or (``deep``) their parts in order, each container closed by a mark."""

    parts: tuple[Any, ...]
    deep: bool


class _NotWatchable(Exception):
    pass


def watch(items: Sequence[Any]) -> Watched | None:
    """Note the state of ``items``, or ``None`` where they have to be serialized to be compared."""
    if all(map(_immutable, items)):
        return Watched(tuple(items), deep=False)
    if not any(map(_is_message, items)):
        return None
    try:
        return Watched(tuple(_parts(items)), deep=True)
    except _NotWatchable:
        return None


def same_objects(before: Sequence[Any], items: Sequence[Any]) -> bool:
    """Whether ``items`` are the same objects, whatever became of what is in them."""
    return len(before) == len(items) and all(map(is_, before, items))


def same_beginning(before: Sequence[Any], items: Sequence[Any]) -> int:
    """How many items at the beginning are the same objects."""
    return next(compress(count(), map(is_not, before, items)), min(len(before), len(items)))


def unchanged(seen: Watched, items: Sequence[Any]) -> bool:
    """Whether ``items`` are the same objects in the same state."""
    if not seen.deep:
        return same_objects(seen.parts, items)
    try:
        parts = _parts(items)
    except _NotWatchable:
        return False
    return len(seen.parts) == len(parts) and all(map(is_, seen.parts, parts))


def _immutable(value: Any) -> bool:
    kind = type(value)
    return kind in _ATOMS or (kind is tuple and all(map(_immutable, value)))


def _is_message(value: Any) -> bool:
    return type(value).__module__.startswith("langchain_core.messages.")


def _parts(items: Sequence[Any]) -> list[Any]:
    parts: list[Any] = []
    for item in items:
        kind = type(item)
        if kind in _ATOMS:
            parts.append(item)
        elif _is_message(item):
            _message(item, parts)
        else:
            _container(item, parts)
    return parts


def _message(message: Any, parts: list[Any]) -> None:
    fields = message.__dict__
    parts.append(message)
    parts.extend(fields)
    for value in fields.values():
        if type(value) in _ATOMS:
            parts.append(value)
        else:
            _container(value, parts)
    if extra := message.__pydantic_extra__:
        _container(extra, parts)
    parts.append(_END)


def _container(value: Any, parts: list[Any]) -> None:
    kind = type(value)
    parts.append(value)
    if kind is dict:
        if not value:
            return
        parts.extend(value)
        inner: Any = value.values()
        if not all(type(name) in _ATOMS for name in value):
            raise _NotWatchable
    elif kind is list:
        inner = value
    elif _immutable(value):
        return
    else:
        raise _NotWatchable
    for one in inner:
        if type(one) in _ATOMS:
            parts.append(one)
        elif _is_message(one):
            _message(one, parts)
        else:
            _container(one, parts)
    parts.append(_END)
