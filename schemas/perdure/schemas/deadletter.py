"""Dead letters: a record that could not be handled, kept with its original key, bytes and headers.

The dead-letter topic of ``t`` is ``t.dead``. The original headers are kept as they were; the headers named here are added.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from perdure.schemas.envelope import Header


class Reason(StrEnum):
    """Why a record is dead, as data."""

    ENVELOPE = "envelope"
    """A required attribute is missing or malformed."""
    UNKNOWN_TYPE = "unknown_type"
    """No handler of this topic reads this type."""
    UNKNOWN_VERSION = "unknown_version"
    """The type is known, this version of it is not: usually a reader older than the writer."""
    PAYLOAD = "payload"
    """The value is not JSON or does not fit the schema."""
    HANDLER = "handler"
    """The handler refused it for a reason that no retry will change."""


REASON = "perdure_dead_reason"
DETAIL = "perdure_dead_detail"
TOPIC = "perdure_dead_topic"
PARTITION = "perdure_dead_partition"
OFFSET = "perdure_dead_offset"
TIME = "perdure_dead_time"
CONSUMER = "perdure_dead_consumer"


def dead_headers(
    original: list[tuple[str, bytes]],
    *,
    reason: Reason,
    detail: str,
    topic: str,
    partition: int,
    offset: int,
    consumer: str,
    time: datetime,
) -> list[Header]:
    """The original headers followed by where the record came from and why it is dead (detail is cut at 2,000 characters)."""
    return [
        *original,
        (REASON, reason.value.encode()),
        (DETAIL, detail[:2000].encode()),
        (TOPIC, topic.encode()),
        (PARTITION, b"%d" % partition),
        (OFFSET, b"%d" % offset),
        (CONSUMER, consumer.encode()),
        (TIME, time.isoformat().encode()),
    ]
