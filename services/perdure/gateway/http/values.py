"""JSON values that can be stored: the limits of metadata, payloads and answers. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

METADATA_LIMIT = 64 * 1024
METADATA_DEPTH = 32
METADATA_PATH = 1_024
"""Characters of the keys that lead to a value: the index keeps them before each value, and takes 32 KiB of both."""
PAYLOAD_LIMIT = 512 * 1024
"""Bytes of JSON of a signal's payload, or of an answer."""
PAYLOAD_DEPTH = 64
_INT64 = range(-(2**63), 2**63)


def metadata_problem(metadata: Mapping[str, Any]) -> str | None:
    """Why this metadata cannot be stored; ``None`` if it can."""
    if len(orjson.dumps(metadata)) > METADATA_LIMIT:
        return f"larger than {METADATA_LIMIT} bytes as JSON; put large values into the input"
    return _value_problem(metadata, METADATA_DEPTH) or _keys_problem(metadata)


def payload_problem(payload: Any) -> str | None:
    """Why this payload or answer cannot be stored, whatever its size; ``None`` if it can."""
    return _value_problem(payload, PAYLOAD_DEPTH)


def _keys_problem(value: Any, before: int = 0) -> str | None:
    """Whether keys are too long; the depth is bounded already."""
    if isinstance(value, list):
        return next((found for item in value if (found := _keys_problem(item, before))), None)
    if not isinstance(value, dict):
        return None
    for key, inner in value.items():
        path = before + len(key) + 1
        if path > METADATA_PATH:
            return f"the keys that lead to {key[:40]!r} are longer than {METADATA_PATH} characters"
        if found := _keys_problem(inner, path):
            return found
    return None


def _value_problem(value: Any, limit: int, depth: int = 0) -> str | None:
    if depth == limit:
        return f"nested deeper than {limit} levels"
    if isinstance(value, dict):
        if any("\0" in key for key in value):
            return "a key holds a NUL character"
        return next((found for item in value.values() if (found := _value_problem(item, limit, depth + 1))), None)
    if isinstance(value, list):
        return next((found for item in value if (found := _value_problem(item, limit, depth + 1))), None)
    if type(value) is int and value not in _INT64:
        return f"{value} does not fit into 64 bits; write it as a string"
    return None
