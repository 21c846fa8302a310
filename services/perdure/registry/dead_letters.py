"""Dead letters as documents: what a record of a dead-letter topic becomes, and storing it, the same whoever stores it (ADR 11).

Contract: where the record had been is the document's id, so a repeat (the same record buried or consumed twice) changes nothing; a
different record of the same place (its topic was made anew) is kept beside it. :meth:`Letters.store` raises what the database
raises; :meth:`Letters.keep` waits out an outage.

Outside: reading the dead-letter topics (the scheduler), and redriving (the gateway).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from perdure.chassis.clock import now
from perdure.chassis.inserts import insert_new
from perdure.chassis.kafka.deadletter import Origin
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.schemas import deadletter
from perdure.schemas.deadletter import LetterState
from perdure.schemas.deadletter_documents import UNOWNED, DeadLetterDocument
from perdure.schemas.documents import DEAD_LETTERS
from perdure.schemas.moments import in_milliseconds

OPEN_KEPT: Final = timedelta(days=90)
"""How long a letter is kept that nobody decides about; one that is decided about is kept 30 days more."""
UNREADABLE: Final = "unreadable"
"""The reason of a record that was not buried as ``perdure.schemas.deadletter`` says."""
NUMBERS: Final = range(2**63)
"""Partitions and offsets that can be stored."""

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Letters:
    """Stores dead letters. Belongs to one event loop.

    Args:
        db: The database.
        availability: Who wants to know of an outage.

    """

    def __init__(self, db: Database, availability: Availability) -> None:
        self._letters = db[DEAD_LETTERS]
        self._availability = availability

    async def keep(self, record: Origin) -> None:
        """Store one dead record, however long the database is away."""
        await outlast(lambda: self.store([record]), self._availability)

    async def store(self, records: Sequence[Origin]) -> list[DeadLetterDocument]:
        """Store dead records, given as they are in a dead-letter topic; their documents."""
        letters = [letter_of(record) for record in records]
        for number in await insert_new(self._letters, letters):
            await self._insert_beside(letters[number])
        return letters

    async def _insert_beside(self, letter: DeadLetterDocument) -> None:
        """Keep a record that died where another one had been: its topic was made anew, and counts from 0 again."""
        there = await self._letters.find_one({"_id": letter["_id"]}, {"digest": 1})
        if there is None or there["digest"] == letter["digest"]:
            return
        renamed: Any = letter | {"_id": f"{letter['_id']}:{letter['digest'][:16]}"}
        await insert_new(self._letters, [renamed])


def letter_of(record: Origin) -> DeadLetterDocument:
    """The document of a dead record."""
    headers = [(n, v if isinstance(v, bytes) else (v or "").encode(errors="replace")) for n, v in record.headers]
    original, added = deadletter.split_headers(headers)
    original, omitted = deadletter.split_omitted(original)
    topic, partition, offset = _place(record, added)
    said = {name: value.decode(errors="replace") for name, value in original}
    tenant = said.get("ce_tenant", "")
    key, value = record.key or b"", record.value or b""
    letter: DeadLetterDocument = {
        "_id": deadletter.letter_id(topic, partition, offset),
        "tenant": tenant if _TENANT.fullmatch(tenant) else UNOWNED,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "key": key,
        "value": value,
        "headers": [[name, content] for name, content in original],
        "size": len(value),
        "digest": hashlib.sha256(b"%d:%b%b" % (len(key), key, value)).hexdigest(),
        "reason": added.get(deadletter.REASON, UNREADABLE),
        "detail": added.get(deadletter.DETAIL, f"written to {record.topic} by something that names no origin"),
        "consumer": added.get(deadletter.CONSUMER, ""),
        "died_at": _moment(added.get(deadletter.TIME)),
        "type": said.get("ce_type"),
        "thread_id": said.get("ce_subject") or None,
        "redriven_from": said.get(deadletter.REDRIVEN_FROM),
        "earlier_redrives": deadletter.redrives_of(original),
        "state": LetterState.OPEN.value,
        "redrives": 0,
        "expires_at": now() + OPEN_KEPT,
    }
    if omitted is not None:
        letter["omitted"] = omitted
    return letter


def shortened(record: Origin) -> Origin:
    """A dead record that cannot be stored as it is, with nothing but its place in the dead-letter topic, its size and digest."""
    value = record.value or b""
    omitted = f"{len(value)}:{hashlib.sha256(value).hexdigest()}".encode()
    return replace(record, key=None, value=None, headers=[(deadletter.OMITTED, omitted)])


def _place(record: Origin, added: dict[str, str]) -> tuple[str, int, int]:
    """Where the record was before it was buried; where it is now, if that is not said."""
    try:
        topic, partition, offset = (
            added[deadletter.TOPIC],
            int(added[deadletter.PARTITION]),
            int(added[deadletter.OFFSET]),
        )
    except (KeyError, ValueError):
        return record.topic, record.partition, record.offset
    known = partition in NUMBERS and offset in NUMBERS
    return (topic, partition, offset) if known else (record.topic, record.partition, record.offset)


def _moment(text: str | None) -> datetime:
    try:
        return in_milliseconds(datetime.fromisoformat(text or ""))
    except (ValueError, OverflowError):
        return now()
