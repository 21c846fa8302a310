"""Paragraphs and sentences of a text, each with its positions.

Contract: a sentence is read flat (:class:`Flat`): white space and line ends are one space, the frame of a comment or a box
(``#``, ``//``, ``*``) is left out, quotation marks are plain. What was found flat is given back as a range of the text itself.
Outside: languages other than English, and texts with words divided at line ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_FRAME_LEFT = re.compile(r"[ \t\f]*(?:(?:[*#%;|>]+|/\*+|/{2,})(?=\s|$)[ \t]*)*")
_FRAME_RIGHT = re.compile(r"(?:[ \t]+(?:[*|#]+|\*+/))?\s*$")
_NOTHING = re.compile(r"[\W_]*$")
_QUOTES = str.maketrans(
    "\u2018\u2019\u201a\u201b`\u00b4\u201c\u201d\u201e\u00ab\u00bb\u2010\u2011", "''''''\"\"\"\"\"--"
)
_END = re.compile(
    r"[.!?;:][\"')\]]* (?=(?:[a-z]|[ivx]{1,4}|\d{1,2})[.)] |\([a-z0-9]{1,4}\) )|[.!?][\"')\]]* (?=[\"'(\[]*[A-Z0-9])"
)
"""A stop before a capital letter or a figure, or any stop before the letter or number of a list."""
_NUMBER = re.compile(r"[\"'(]*(?:\d{1,2}(?:\.\d{1,2})*|[a-zA-Z]|[ivxIVX]{1,5})\)?$")
_INITIAL = re.compile(r"(?:^|[ (])(?:[A-Za-z]\.)*[A-Za-z]$")
_SHORT = re.compile(r"\b(?:inc|ltd|corp|co|no|nos|sec|art|vs|cf|dr|mr|ms|st|et al|e\.g|i\.e)$", re.IGNORECASE)


class Flat(NamedTuple):
    """A part of a text in one line."""

    text: str
    positions: list[int]
    """For each of its characters, where it is in the whole text."""

    def range(self, start: int, end: int) -> tuple[int, int]:
        """Where a part of it, not empty, is in the whole text."""
        return self.positions[start], self.positions[end - 1] + 1


def lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Ranges of the lines, their ends included."""
    while start < end:
        found = text.find("\n", start, end)
        stop = end if found < 0 else found + 1
        yield start, stop
        start = stop


def is_blank(line: str) -> bool:
    """Whether a line has no word: white space, rules, the frame of a box."""
    return _NOTHING.match(line) is not None


def paragraphs(text: str, start: int, end: int) -> Iterator[Flat]:
    """The paragraphs of a part, flat: blank lines divide them."""
    kept: list[tuple[int, int]] = []
    for line in lines(text, start, end):
        if not is_blank(text[slice(*line)]):
            kept.append(line)
        elif kept:
            yield flatten(text, kept)
            kept = []
    if kept:
        yield flatten(text, kept)


def flatten(text: str, ranges: list[tuple[int, int]]) -> Flat:
    """Lines in one."""
    characters: list[str] = []
    positions: list[int] = []
    for start, end in ranges:
        left, right = _inner(text[start:end])
        if characters and left < right:
            characters.append(" ")
            positions.append(start)
        for position in range(start + left, start + right):
            character = " " if text[position].isspace() else text[position]
            if character != " " or characters[-1:] != [" "]:
                characters.append(character)
                positions.append(position)
    return Flat("".join(characters).translate(_QUOTES), positions)


def sentences(flat: Flat) -> Iterator[tuple[int, int]]:
    """Ranges of the sentences in a flat paragraph."""
    start = 0
    for end in _END.finditer(flat.text):
        before = flat.text[start : end.start()]
        if _NUMBER.match(before) or _INITIAL.search(before) or _SHORT.search(before):
            continue
        yield start, end.end() - 1
        start = end.end()
    if start < len(flat.text):
        yield start, len(flat.text)


def _inner(line: str) -> tuple[int, int]:
    """What of a line is not its frame."""
    left = _FRAME_LEFT.match(line)
    right = _FRAME_RIGHT.search(line)
    start = left.end() if left else 0
    end = right.start() if right else len(line)
    while start < end and line[start].isspace():
        start += 1
    while start < end and line[end - 1].isspace():
        end -= 1
    return start, max(start, end)
