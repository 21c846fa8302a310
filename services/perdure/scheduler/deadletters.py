"""Keeping the dead letters: every record of every dead-letter topic becomes a document of ``dead_letters`` (ADR 11).

Contract: a record's offset is stored after its document is durable. Where the record had been is the document's id, so a repeat
(the same record buried or consumed twice) changes nothing. A record that was not buried properly is kept as well: nothing that a
dead-letter topic holds is passed over.

Outside: looking at them, redriving and dropping (the gateway). MongoDB removes them (``expires_at``).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from prometheus_client import Counter, Gauge
from pymongo.errors import BulkWriteError, PyMongoError

from perdure.chassis.clock import now
from perdure.chassis.errors import UnavailableError
from perdure.chassis.kafka.deadletter import Origin
from perdure.chassis.kafka.raw import RawConsumer
from perdure.chassis.mongo import Database
from perdure.chassis.outage import is_outage
from perdure.chassis.telemetry import logger
from perdure.scheduler.settings import SchedulerSettings
from perdure.schemas import deadletter, topics
from perdure.schemas.deadletter import LetterState
from perdure.schemas.documents import DEAD_LETTERS, DeadLetterDocument
from perdure.schemas.moments import in_milliseconds

log = logger(__name__)

GROUP: Final = "perdure.scheduler.dead-letters"
TOPICS: Final = tuple(topic.name for topic in topics.DEAD)
BATCH: Final = 50
OPEN_KEPT: Final = timedelta(days=90)
"""How long a letter is kept that nobody decides about; one that is decided about is kept 30 days more."""
UNREADABLE: Final = "unreadable"
"""The reason of a record that was not buried as ``perdure.schemas.deadletter`` says."""

STORED = Counter("perdure_dead_letters_stored_total", "Dead records stored, repeats too", ["topic"])
OPEN = Gauge(
    "perdure_dead_letters_open", "Dead letters that nobody has decided about; the same on every instance", ["topic"]
)

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")


class DeadLetters:
    """Stores dead records, and counts those that nobody has decided about."""

    def __init__(self, db: Database, settings: SchedulerSettings) -> None:
        self._letters = db[DEAD_LETTERS]
        self._settings = settings

    async def consume(self, stopping: asyncio.Event) -> None:
        """Store what the dead-letter topics bring until ``stopping``."""
        settings = self._settings
        consumer = RawConsumer(
            settings.kafka_bootstrap_servers, settings.instance, TOPICS, GROUP, self.store, batch=BATCH
        )
        stopped = asyncio.create_task(stopping.wait())
        stopped.add_done_callback(lambda _: consumer.stop())
        try:
            await consumer.run()
        finally:
            stopped.cancel()

    async def store(self, records: Sequence[Origin]) -> None:
        """Make a batch durable.

        Raises:
            UnavailableError: the database does not answer; the batch is to be stored again.

        """
        letters = [letter_of(record, self._settings.tenant) for record in records]
        try:
            for taken in await self._insert(letters):
                await self._insert_beside(taken)
        except PyMongoError as error:
            if not is_outage(error):
                raise
            raise UnavailableError("MongoDB", DEAD_LETTERS, str(error)) from error
        for letter in letters:
            STORED.labels(letter["topic"]).inc()

    async def count(self) -> None:
        """Set the gauge of open letters."""
        groups: list[dict[str, Any]] = [
            {"$match": {"state": LetterState.OPEN.value}},
            {"$group": {"_id": "$topic", "count": {"$sum": 1}}},
        ]
        found = {group["_id"]: group["count"] async for group in self._letters.aggregate(groups)}
        for name in {topic.name for topic in topics.PRIMARY if topic.consumed} | found.keys():
            OPEN.labels(name).set(found.get(name, 0))

    async def _insert(self, letters: Sequence[DeadLetterDocument]) -> list[DeadLetterDocument]:
        """Insert what is new; those whose id is taken."""
        try:
            await self._letters.insert_many(letters, ordered=False)  # type: ignore[arg-type]
        except BulkWriteError as error:
            failures = error.details["writeErrors"] if error.details else []
            if is_outage(error) or any(failure["code"] != 11000 for failure in failures):
                raise
            return [letters[failure["index"]] for failure in failures]
        return []

    async def _insert_beside(self, letter: DeadLetterDocument) -> None:
        """Keep a record that died where another one had been: its topic was made anew, and counts from 0 again."""
        there = await self._letters.find_one({"_id": letter["_id"]}, {"digest": 1})
        if there is None or there["digest"] == letter["digest"]:
            return
        renamed: Any = letter | {"_id": f"{letter['_id']}:{letter['digest'][:16]}"}
        await self._insert([renamed])


def letter_of(record: Origin, default_tenant: str) -> DeadLetterDocument:
    """The document of a dead record."""
    headers = [(n, v if isinstance(v, bytes) else (v or "").encode(errors="replace")) for n, v in record.headers]
    original, added = deadletter.split_headers(headers)
    topic, partition, offset = _place(record, added)
    said = {name: value.decode(errors="replace") for name, value in original}
    tenant = said.get("ce_tenant", "")
    key, value = record.key or b"", record.value or b""
    return {
        "_id": deadletter.letter_id(topic, partition, offset),
        "tenant": tenant if _TENANT.fullmatch(tenant) else default_tenant,
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


def _place(record: Origin, added: dict[str, str]) -> tuple[str, int, int]:
    """Where the record was before it was buried; where it is now, if that is not said."""
    try:
        return added[deadletter.TOPIC], int(added[deadletter.PARTITION]), int(added[deadletter.OFFSET])
    except (KeyError, ValueError):
        return record.topic, record.partition, record.offset


def _moment(text: str | None) -> datetime:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return now()
    return in_milliseconds(found)
