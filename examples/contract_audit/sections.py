"""A text in sections, by the headings that legal texts have.

A heading is a line that is underlined; a numbered title, alone or before its text (``8. Limitation of Liability. In no event``);
or a line between blank ones whose words have capital letters (as those of Markdown do). Numbered paragraphs without a title
(``4. You may not copy``) belong to the section that they stand in.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypedDict

from sentences import flatten, is_blank, lines
from texts import line_of

WORDS, LENGTH = 12, 100
"""What a heading has at most."""

_NUMBERED = re.compile(
    r"(?:(?:section|article)\s+\w+[.):]*|(?:\d{1,2}(?:\.\d{1,2})*|[IVX]{1,5})[.):]|\d{1,2}(?:\.\d{1,2})+)\s+(?P<title>\S.*)$",
    re.IGNORECASE,
)
_RUN_IN = re.compile(r"(?P<title>[^.:]{3,80}?)[.:](?=\s|$)")
_RULE = re.compile(r"[\s*#|/]*([-=~])\1{2,}[-=~\s*#|/]*$")
_NO_HEADING = re.compile(r"copyright (?:\(c\)|©|\d)|\(c\)|©|@|://|\b(?:19|20)\d\d\b", re.IGNORECASE)
_SMALL = frozenset(
    ("a", "an", "and", "as", "at", "by", "for", "from", "in", "is", "of", "on", "or", "the", "this", "to", "with")
)


class Section(TypedDict):
    """A part of the text. The sections of a text follow each other without a gap."""

    heading: str
    """Empty before the first one."""
    start: int
    body: int
    """Where its text begins, behind the heading."""
    end: int
    line: int


class _Heading(NamedTuple):
    title: str
    start: int
    body: int


def split(text: str) -> list[Section]:
    """The sections of a text, in order; none of an empty one."""
    headings = _headings(text)
    if not headings or headings[0].start > 0:
        headings.insert(0, _Heading("", 0, 0))
    ends = [*(heading.start for heading in headings[1:]), len(text)]
    return [
        Section(heading=h.title, start=h.start, body=h.body, end=end, line=line_of(text, h.start))
        for h, end in zip(headings, ends, strict=True)
        if h.start < end
    ]


def _headings(text: str) -> list[_Heading]:
    ranges = [*lines(text, 0, len(text))]
    whole = ["", *(text[slice(*one)] for one in ranges), ""]
    neighbours = zip(ranges, whole, whole[1:], whole[2:], strict=False)
    return [found for line, *three in neighbours if (found := _heading(text, line, *three))]


def _heading(text: str, where: tuple[int, int], before: str, line: str, after: str) -> _Heading | None:
    """The heading that a line is or begins with, if it does; ``before`` and ``after`` are its neighbours."""
    if is_blank(line):
        return None
    flat = flatten(text, [where])
    title = flat.text.rstrip(".:")
    ends = is_blank(after)
    numbered = _NUMBERED.match(flat.text)
    if numbered:
        run_in = _RUN_IN.match(flat.text, numbered.start("title"))
        if run_in and run_in.end() < len(flat.text) and is_title(run_in["title"]):
            body = flat.range(0, run_in.end())[1]
            return _Heading(flat.text[: run_in.end() - 1], where[0], body)
        if (ends or flat.text.endswith(".")) and is_title(numbered["title"].rstrip(".:")):
            return _Heading(title, where[0], where[1])
    if not is_blank(before):
        return None
    underlined = _RULE.match(after) is not None and len(title) <= LENGTH
    lone = ends and not numbered and flat.text[-1] not in ".,;:" and is_title(title)
    return _Heading(title, where[0], where[1]) if underlined or lone else None


def is_title(title: str) -> bool:
    """Whether all but the small words begin with a capital letter, as in a heading."""
    words = re.findall(r"[^\W\d_][\w'-]*", title)
    if not words or len(title) > LENGTH or len(words) > WORDS or _NO_HEADING.search(title):
        return False
    return words[0][0].isupper() and all(word[0].isupper() or word in _SMALL for word in words)
