"""Answers as JSON."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer; what JSON cannot say (bytes, odd objects of a state) is written as text."""
    return web.Response(body=as_json(value), status=status, headers=headers, content_type="application/json")


def as_json(value: Any, more: int = 0) -> bytes:
    """JSON of a state; what JSON cannot say is written as text. ``more``: options of orjson."""
    return orjson.dumps(value, default=as_text, option=orjson.OPT_NON_STR_KEYS | more)


def as_text(value: Any) -> Any:
    """What JSON cannot say, as text."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return repr(value)
