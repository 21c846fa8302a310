"""How much a JSON text would become, told from its bytes: before it is parsed, and in time linear in its length.

A list of empty lists takes fifty times its text in memory. So the values and keys of a text are counted first, by its commas,
colons and opening brackets outside of strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

PIECE_BYTES: Final = 256 * 1024
"""Bytes that are looked at in one go; other threads run in between."""
_MARKS: Final = b",:[{"
_NO_MARKS: Final = bytes(set(range(256)) - set(_MARKS))
_NEITHER: Final = bytes(set(range(256)) - set(_MARKS) - set(b'"'))
_STRING: Final = re.compile(rb'"[^"]*+"?')

_BACKSLASHES: Final = re.compile(rb"\\*+")


def too_many_values(text: bytes, limit: int) -> bool:
    """Whether a JSON text holds more than ``limit`` values and keys; of a text that is no JSON, its valid beginning counts."""
    if len(text) <= limit:
        return False
    most = 0
    for start in range(0, len(text), PIECE_BYTES):
        most += len(text[start : start + PIECE_BYTES].translate(None, _NO_MARKS))
        if most > limit:
            return _counted(text, limit) > limit
    return False


def _counted(text: bytes, limit: int) -> int:
    """The marks outside of strings; counting ends when they are more than ``limit``."""
    found, inside = 0, False
    for piece in _pieces(text):
        bare = piece.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NEITHER)
        if inside:
            bare = b'"' + bare
        inside = bare.count(b'"') % 2 == 1
        found += len(_STRING.sub(b"", bare))
        if found > limit:
            break
    return found


def _pieces(text: bytes) -> Iterator[bytes]:
    """A text in pieces, none of which ends between a backslash and what it escapes."""
    start = 0
    while start < len(text):
        end = min(start + PIECE_BYTES, len(text))
        if text[end - 1 : end] == b"\\" and (rest := _BACKSLASHES.match(text, end)) is not None:
            end = min(rest.end() + 1, len(text))
        yield text[start:end]
        start = end
