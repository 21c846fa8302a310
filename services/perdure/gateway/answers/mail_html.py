"""The text of an HTML mail: blocks on lines of their own, quotes behind ``> ``, nothing of scripts and styles. A pure function.

The standard library's parser takes quadratic time where somebody means it to; this one only looks forward, and makes no attempt at
what is not text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Final

HTML_LIMIT: Final = 1024 * 1024
"""Characters of HTML that are read."""
QUOTES: Final = 10
"""Quotes within quotes that are shown as such."""

_BLOCKS: Final = frozenset(
    {"p", "div", "br", "tr", "li", "h1", "h2", "h3", "h4", "h5", "h6", "table", "ul", "ol", "pre", "hr", "blockquote"}
)
_TAG: Final = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]{0,20})")
_SILENT: Final = frozenset({"script", "style", "head", "title", "template"})


def text_of_html(source: str) -> str:
    """The text; of the source ``HTML_LIMIT`` characters are read."""
    return _Reader().read(source[:HTML_LIMIT])


class _Reader:
    """Reads once from the beginning to the end."""

    def __init__(self) -> None:
        self._lines: list[str] = [""]
        self._quotes = 0

    def read(self, source: str) -> str:
        """The text of a whole source."""
        at = 0
        while (begin := source.find("<", at)) >= 0:
            self._text(source[at:begin])
            at = self._markup(source, begin)
        self._text(source[at:])
        return "\n".join(line.rstrip() for line in self._kept())

    def _markup(self, source: str, begin: int) -> int:
        """Take what begins with ``<``; where to read on. What never ends is left out."""
        if source.startswith("<!--", begin):
            return _behind(source, "-->", begin)
        name = _TAG.match(source, begin)
        if name is None:
            if source.startswith(("<!", "<?"), begin):
                return _behind(source, ">", begin)
            self._text("<")
            return begin + 1
        closing, tag = name[1] == "/", name[2].lower()
        end = _behind(source, ">", begin)
        if tag in _SILENT and not closing:
            return _behind(source, ">", _behind(source, f"</{tag}", end))
        if tag == "blockquote":
            self._quotes = max(0, self._quotes + (-1 if closing else 1))
        if tag in _BLOCKS and not (closing and tag == "br"):
            self._lines.append(self._margin)
        return end

    def _text(self, data: str) -> None:
        text = _unescaped(data)
        joined = " ".join(text.split())
        begins = text[:1].isspace() and self._lines[-1] not in ("", self._margin)
        self._lines[-1] += f"{' ' if begins and joined else ''}{joined}{' ' if joined and text[-1:].isspace() else ''}"

    def _kept(self) -> Iterator[str]:
        """The lines, no more than one empty one after the other."""
        before = ""
        for line in self._lines:
            bare = line.strip("> ")
            if bare or before:
                yield line
            before = bare

    @property
    def _margin(self) -> str:
        return "> " * min(self._quotes, QUOTES)


def _behind(text: str, what: str, at: int) -> int:
    """The place behind the next ``what``; the end where there is none."""
    found = text.find(what, at)
    return len(text) if found < 0 else found + len(what)


def _unescaped(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # the number of a character with thousands of digits
        return text
