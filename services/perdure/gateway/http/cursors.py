"""Cursors of lists that are ordered by a moment and an id: opaque texts for clients, conditions for queries.

There are two texts: that of :func:`cursor_of`, and that of :func:`cursor_at` for the lists of dead letters and deliveries. Clients
keep cursors between two releases, so that both stay.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from perdure.gateway.http.problems import invalid

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


def cursor_at(last: Mapping[str, Any], field: str) -> str:
    """The cursor behind the last document of a page."""
    place = orjson.dumps([last[field].isoformat(), last["_id"]])
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def require_cursor_at(text: str) -> Cursor:
    """What :func:`cursor_at` wrote.

    Raises:
        RequestProblem: ``invalid-request``: it is something else.

    """
    try:
        moment, identity = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        cursor = datetime.fromisoformat(moment)
    except (ValueError, TypeError, binascii.Error) as error:
        raise invalid("query:cursor", "is not a cursor that this list gave") from error
    return cursor, str(identity)
