"""The stored shape of dead letters, in the collection ``dead_letters`` (ADR 11).

Contract: BSON documents as typed dictionaries. Outside: the record on a dead-letter topic (``perdure.schemas.deadletter``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, TypedDict

UNOWNED: Final = ""
"""The tenant of letters whose envelope names none: only callers that may act for any tenant see them."""


class DeadLetterDocument(TypedDict, total=False):
    """One dead record; ``_id`` is ``perdure.schemas.deadletter.letter_id`` of where it was."""

    _id: str
    tenant: str
    """Of its envelope; ``UNOWNED`` where that cannot be read."""
    topic: str
    """The topic that it was read from."""
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: list[list[Any]]
    """The original ones, as pairs of name and bytes, in their order."""
    size: int
    """Of the value, in bytes."""
    digest: str
    """Of key and value: another record at the same place (of a topic that was made anew) is another letter."""
    omitted: dict[str, Any]
    """Where the record was too large to be kept: the size and SHA-256 of its value. It cannot be redriven."""
    reason: str
    """``perdure.schemas.deadletter.Reason``."""
    detail: str
    consumer: str
    died_at: datetime
    type: str | None
    thread_id: str | None
    redriven_from: str | None
    """The letter that it was before it was redriven."""
    earlier_redrives: int
    """How often it had been redriven when it died here."""
    state: str
    """``perdure.schemas.deadletter.LetterState``."""
    redrives: int
    """How often this letter was redriven."""
    redriven_at: datetime
    redriven_by: str | None
    dropped_at: datetime
    dropped_by: str | None
    on_behalf_of: str | None
    """In whose name a known caller decided last, as the caller said."""
    claim: str
    """Of whoever redrives it now; it counts until ``claim_until``."""
    claim_until: datetime
    expires_at: datetime
    """When it is removed."""
