"""How deep JSON may be nested: the parser takes more than can be written again."""

from __future__ import annotations

from typing import Any, Final

JSON_DEPTH: Final = 200
"""Levels of a request's body. orjson parses 1,024 and writes 254; a document of the gateway adds some of its own."""


def too_deep(data: bytes, value: Any) -> bool:
    """Whether a parsed value is nested deeper than ``JSON_DEPTH``; ``data`` is its JSON, which most often says no at once."""
    if data.count(b"[") + data.count(b"{") <= JSON_DEPTH:
        return False
    level = [value]
    for _ in range(JSON_DEPTH):
        level = [child for one in level for child in _children(one)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    """The containers within a container."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [one for one in inner if isinstance(one, dict | list)]
