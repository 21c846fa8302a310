"""JSON as this code base writes it: orjson, with a fallback that never fails on a value a graph may produce."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import BaseModel

OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def _default(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    return repr(value)


def dumps(value: Any) -> bytes:
    """UTF-8 JSON of any value; what JSON cannot say is written as its ``repr``."""
    return orjson.dumps(value, default=_default, option=OPTIONS)


def dumps_strict(value: Any) -> bytes:
    """UTF-8 JSON; raises ``TypeError`` (orjson's ``JSONEncodeError``) where the value is not JSON."""
    return orjson.dumps(value)


def loads(data: bytes | str) -> Any:
    """Parse JSON; raises ``ValueError`` (orjson's ``JSONDecodeError``) with position."""
    return orjson.loads(data)
