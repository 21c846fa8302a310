"""The stored shape of what a thread's document says about its archive object (ADR 15).

Contract: a BSON document as a typed dictionary. Its states are :class:`perdure.schemas.documents.ArchiveState`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict


class ArchiveMark(TypedDict, total=False):
    """What is known of a thread's archive object, and who works on it."""

    state: str
    """:class:`perdure.schemas.documents.ArchiveState`."""
    object: str
    """The key of the object in the archive store."""
    token: str
    """Of the attempt that works on it: whoever takes the work over changes it first, and every step compares it."""
    expires_at: datetime
    """By the database's clock: the work is taken over after that. Absent while nothing is to be done."""
    at: datetime
    """When the object was verified."""
    sha256: str
    """Of the object, hexadecimal."""
    bytes: int
    """Of the object."""
    documents: dict[str, int]
    """Documents in the object, by collection."""
    raw_bytes: dict[str, int]
    """Their size as BSON, by collection."""
    states: int
    """How many of them the search index has a document for."""
    ended_run_id: str
    """The thread's ``ended_run_id``, which is not there while it is away."""
    leftover: str
    """Of a thread that is being removed: the key of an object that it had, or was to have."""
    restore_by: str
    """Who asked for it back."""
    restore_on_behalf_of: str | None
    """In whose name a known caller asked, as the caller said."""
    trouble: str
    """Why it did not come back when that was last tried, for people."""
