"""Keeping the dead letters: every record of every dead-letter topic becomes a document of ``dead_letters`` (ADR 11).

Contract: a record's offset is stored after its document is durable. Where the record had been is the document's id, so a repeat
(the same record buried or consumed twice) changes nothing. A record that was not buried properly is kept as well: nothing that a
dead-letter topic holds is passed over.

Outside: looking at them, redriving and dropping (the gateway). MongoDB removes them (``expires_at``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from prometheus_client import Counter, Gauge
from pymongo.errors import PyMongoError

from perdure.chassis.errors import UnavailableError
from perdure.chassis.kafka.deadletter import Origin
from perdure.chassis.kafka.isolation import describe
from perdure.chassis.kafka.raw import RawConsumer
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, is_outage
from perdure.chassis.telemetry import logger
from perdure.registry.dead_letters import Letters, shortened
from perdure.scheduler.settings import SchedulerSettings
from perdure.schemas import topics
from perdure.schemas.deadletter import LetterState
from perdure.schemas.documents import DEAD_LETTERS

log = logger(__name__)

GROUP: Final = "perdure.scheduler.dead-letters"
TOPICS: Final = tuple(topic.name for topic in topics.DEAD)
BATCH: Final = 50

STORED = Counter("perdure_dead_letters_stored_total", "Dead records stored, repeats too", ["topic"])
OPEN = Gauge(
    "perdure_dead_letters_open", "Dead letters that nobody has decided about; the same on every instance", ["topic"]
)


class DeadLetters:
    """Stores dead records, and counts those that nobody has decided about."""

    def __init__(self, db: Database, settings: SchedulerSettings) -> None:
        self._letters = db[DEAD_LETTERS]
        self._store = Letters(db, Availability())
        self._settings = settings

    async def consume(self, stopping: asyncio.Event) -> None:
        """Store what the dead-letter topics bring until ``stopping``."""
        settings = self._settings
        consumer = RawConsumer(settings, settings.instance, TOPICS, GROUP, self.store, self.give_up, batch=BATCH)
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
        try:
            letters = await self._store.store(records)
        except PyMongoError as error:
            if not is_outage(error):
                raise
            raise UnavailableError("MongoDB", DEAD_LETTERS, str(error)) from error
        for letter in letters:
            STORED.labels(letter["topic"]).inc()

    async def give_up(self, record: Origin, error: Exception) -> None:
        """Keep the place, size and digest of a dead record that cannot be stored as it is.

        Where even that is refused, nothing but the log knows it; the record is in its dead-letter topic for 30 days.
        """
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        log.critical("dead_letter.not_stored", **place, error=describe(error))
        try:
            await self._store.store([shortened(record)])
        except PyMongoError as refused:
            if is_outage(refused):
                raise UnavailableError("MongoDB", DEAD_LETTERS, str(refused)) from refused
            log.critical("dead_letter.lost", **place, error=describe(refused))

    async def count(self) -> None:
        """Set the gauge of open letters."""
        groups: list[dict[str, Any]] = [
            {"$match": {"state": LetterState.OPEN.value}},
            {"$group": {"_id": "$topic", "count": {"$sum": 1}}},
        ]
        found = {group["_id"]: group["count"] async for group in self._letters.aggregate(groups)}
        for name in {topic.name for topic in topics.PRIMARY if topic.consumed} | found.keys():
            OPEN.labels(name).set(found.get(name, 0))
