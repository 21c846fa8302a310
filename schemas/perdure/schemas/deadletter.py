"""Dead letters: a record that could not be handled, kept with its original key, bytes and headers.

The dead-letter topic of ``t`` is ``t.dead``. The original headers are kept as they were; the headers named here are added at the
end. The scheduler keeps every dead record as a document of ``dead_letters``, where an operator may look at it, redrive it or drop
it (ADR 11). A redriven record has its original key, bytes and headers, and the two headers of :func:`redriven_headers`.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    SIGNATURE = "signature"
    """It gives a permission, and its signature is missing or wrong."""
    HANDLER = "handler"
    """The handler refused it, or raised an unexpected error for it each time."""


REASON = "perdure_dead_reason"
DETAIL = "perdure_dead_detail"
TOPIC = "perdure_dead_topic"
PARTITION = "perdure_dead_partition"
OFFSET = "perdure_dead_offset"
TIME = "perdure_dead_time"
CONSUMER = "perdure_dead_consumer"
ADDED = (REASON, DETAIL, TOPIC, PARTITION, OFFSET, CONSUMER, TIME)
"""In the order in which they are added."""

OMITTED = "perdure_dead_omitted"
"""In front of the headers of a letter that has none of the record's bytes: ``<size>:<SHA-256>`` of them. It cannot be redriven."""

REDRIVES = "perdure_redrives"
"""How often this record has been redriven, a number from 1."""
REDRIVEN_FROM = "perdure_redriven_from"
"""The id of the dead letter that it was."""


class LetterState(StrEnum):
    """What became of a dead letter."""

    OPEN = "open"
    """Nobody has decided yet."""
    REDRIVEN = "redriven"
    """Sent to its topic again. Where that fails, too, it is a new letter."""
    DROPPED = "dropped"
    """Given up."""


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
        (DETAIL, detail[:2000].encode(errors="replace")),
        (TOPIC, topic.encode()),
        (PARTITION, b"%d" % partition),
        (OFFSET, b"%d" % offset),
        (CONSUMER, consumer.encode()),
        (TIME, time.isoformat().encode()),
    ]


def letter_id(topic: str, partition: int, offset: int) -> str:
    """The id of a dead letter: where the record was. Stored and part of addresses; never change it."""
    return f"{topic}:{partition}:{offset}"


def split_headers(headers: Sequence[Header]) -> tuple[list[Header], dict[str, str]]:
    """The headers of a dead record as the original ones and what was added to them (as text; what is no UTF-8 is replaced).

    A record that nobody buried properly has no added ones: whatever it has is original.
    """
    start = len(headers) - len(ADDED)
    if start < 0 or tuple(name for name, _ in headers[start:]) != ADDED:
        return [*headers], {}
    return [*headers[:start]], {name: value.decode(errors="replace") for name, value in headers[start:]}


def split_omitted(original: Sequence[Header]) -> tuple[list[Header], dict[str, int | str] | None]:
    """The original headers of a dead record, and what is said of its bytes where they are left out (size, SHA-256)."""
    if not original or original[0][0] != OMITTED:
        return [*original], None
    size, _, digest = original[0][1].decode(errors="replace").partition(":")
    known = size.isdigit() and len(size) < 10
    return [*original[1:]], {"size": int(size) if known else 0, "digest": digest[:64]}


def redriven_headers(original: Sequence[Header], letter: str, redrives: int) -> list[Header]:
    """The headers of a redriven record.

    Args:
        original: The headers that it had.
        letter: The id of its dead letter.
        redrives: How often that letter was redriven before.

    """
    kept = [(name, value) for name, value in original if name not in (REDRIVES, REDRIVEN_FROM)]
    count = redrives_of(original) + redrives + 1
    return [*kept, (REDRIVES, b"%d" % count), (REDRIVEN_FROM, letter.encode())]


def redrives_of(headers: Sequence[Header]) -> int:
    """How often a record with these headers has been redriven."""
    found = dict(headers).get(REDRIVES, b"")
    return int(found) if found.isdigit() and len(found) < 10 else 0
