"""How a list or a dict is cut into blocks (ADR 3).

Contract: pure functions of the length. Blocks hold 8^k items, k from 3 down to 0, aligned to their index: the base-8
digits of the length say which blocks exist. Appending one item therefore changes at most the small blocks at the end,
and each item moves into a larger block at most three times.

A block that is too large in bytes is cut into its eight children. The resulting *levels*, one byte a segment, are
stored; they give the item range of every segment. ``CONTINUED`` marks further pieces of a single item that is too
large for one segment. The cut is stored; never change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

BASE: Final = 8
TOP_LEVEL: Final = 3
BLOCK_LIMIT: Final = 256 * 1024
"""Serialized bytes of a block of more than one item, at most."""
PIECE_BYTES: Final = 4 * 1024 * 1024
"""Serialized bytes of a segment, at most: values never meet MongoDB's 16 MB document limit."""
CONTINUED: Final = 0xFF


def cut(length: int) -> Iterator[tuple[int, int, int]]:
    """The blocks of ``length`` items as ``(level, start, stop)``, in order."""
    start = 0
    for level in range(TOP_LEVEL, -1, -1):
        width = BASE**level
        while length - start >= width:
            yield level, start, start + width
            start += width


def children(level: int, start: int) -> Iterator[tuple[int, int, int]]:
    """The eight blocks that a block is cut into."""
    width = BASE ** (level - 1)
    for child in range(start, start + BASE**level, width):
        yield level - 1, child, child + width


def pieces(data: bytes) -> list[bytes]:
    """One serialized value in pieces that fit into a segment; at least one."""
    if len(data) <= PIECE_BYTES:
        return [data]
    return [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)]


def runs(levels: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Read stored levels: ``(start, stop, first, last)`` item range and segment range of each block, in order."""
    item = position = 0
    while position < len(levels):
        first = position
        stop = item + BASE ** levels[position]
        position += 1
        while position < len(levels) and levels[position] == CONTINUED:
            position += 1
        yield item, stop, first, position
        item = stop
