"""Cursors of lists that are ordered by a moment and an id: opaque texts for clients, conditions for queries."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

Document = dict[str, Any]
Cursor = tuple[datetime, str]


def later_than(field: str, cursor: Cursor) -> Document:
    """The filter for what comes after a cursor in the order of ``field`` and id."""
    moment, identity = cursor
    return {"$or": [{field: {"$gt": moment}}, {field: moment, "_id": {"$gt": identity}}]}


def cursor_of(found: Sequence[Mapping[str, Any]], field: str, limit: int) -> str | None:
    """The cursor behind the first ``limit`` documents; ``None`` when there are no more."""
    if len(found) <= limit:
        return None
    last = found[limit - 1]
    return base64.urlsafe_b64encode(f"{last[field].isoformat()} {last['_id']}".encode()).decode()


def read_cursor(text: str) -> Cursor | None:
    """What :func:`cursor_of` wrote; ``None`` for anything else."""
    try:
        moment, found, identity = base64.b64decode(text, altchars=b"-_", validate=True).decode().partition(" ")
        cursor = datetime.fromisoformat(moment), identity
    except (binascii.Error, ValueError):
        return None
    return cursor if found and cursor[0].tzinfo is not None else None
