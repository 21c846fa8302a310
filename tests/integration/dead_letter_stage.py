"""A stage for dead letters: a gateway and a scheduler, records to bury, and consumers that start at the end of a topic."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import confluent_kafka
import httpx
from pymongo.database import Database
from tests.support.polling import until

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.kafka.consumer import Consumer, Handler, Subscription
from perdure.chassis.kafka.producer import Producer
from perdure.local.services import Services
from perdure.schemas import topics
from perdure.schemas.commands import StartReason, StartRun
from perdure.schemas.deadletter import Reason, dead_headers
from perdure.schemas.envelope import Decoded, Record, encode

DEADLINE_S = 40.0
Letter = dict[str, Any]


class Place:
    """A gateway, a scheduler, and what they stand on."""

    def __init__(self, services: Services, uri: str, bootstrap: str) -> None:
        self.services = services
        self.bootstrap = bootstrap
        self.uri = uri
        self.http = httpx.Client(base_url=services.gateway_url, timeout=30)
        self.mongo = mongo.connect_blocking(uri)
        self.db: Database[Letter] = self.mongo[mongo.database_name(uri)]

    def letters(self, **query: Any) -> list[Letter]:
        return list(self.db.dead_letters.find(query).sort("died_at", 1))


@contextlib.asynccontextmanager
async def consuming(place: Place, topic: topics.Topic, types: Any, handler: Handler, group: str) -> AsyncIterator[None]:
    """A consumer that starts at the end of the topic."""
    producer = Producer(place.bootstrap, "consumer-under-test")
    reader = confluent_kafka.Consumer({"bootstrap.servers": place.bootstrap, "group.id": group})
    partitions = [confluent_kafka.TopicPartition(topic.name, n) for n in range(topic.partitions)]
    for partition in partitions:
        partition.offset = reader.get_watermark_offsets(partition, DEADLINE_S)[1]
    reader.commit(offsets=partitions, asynchronous=False)
    reader.close()
    consumer = Consumer(place.bootstrap, f"{group}-1", Subscription(topic, group, types), handler, producer)
    task = asyncio.create_task(consumer.run())
    try:
        yield
    finally:
        consumer.stop()
        await asyncio.wait({task}, timeout=DEADLINE_S)
        assert task.done()
        await producer.close()


def command(thread: str, run: str | None = None) -> Record:
    run = run or uuid.uuid4().hex
    message = StartRun(tenant="default", thread_id=thread, run_id=run, reason=StartReason.REGISTERED)
    return encode(message, id=run, source="test", correlation_id=run, time=now())


def thread_id() -> str:
    return f"dead-{uuid.uuid4().hex}"


async def nothing(batch: Sequence[Decoded]) -> None:
    """Handle everything."""


def buried(record: Record, place: Place, offset: int, **other: Any) -> Record:
    """What a service would write to the dead-letter topic of the commands."""
    said: dict[str, Any] = {
        "reason": Reason.PAYLOAD,
        "detail": "made for a test",
        "topic": topics.COMMANDS.name,
        "partition": 77,
        "offset": offset,
        "consumer": "test",
        "time": datetime.now(UTC),
    }
    return Record(record.key, record.value, dead_headers(record.headers, **(said | other)))


async def stored(place: Place, producer: Producer, *records: Record, count: int | None = None) -> list[Letter]:
    """Write dead records of one key; their letters."""
    for record in records:
        await producer.send(topics.COMMANDS.dead, record)
    found: list[Letter] = await until(
        lambda: letters if len(letters := place.letters(key=records[0].key)) == (count or len(records)) else None,
        "the letters",
    )
    return found


def record_at(place: Place, key: bytes) -> list[confluent_kafka.Message]:
    """All records of the commands' topic with this key, oldest first."""
    reader = confluent_kafka.Consumer(
        {"bootstrap.servers": place.bootstrap, "group.id": "look", "fetch.wait.max.ms": 50}
    )
    ends = {
        n: reader.get_watermark_offsets(confluent_kafka.TopicPartition(topics.COMMANDS.name, n), DEADLINE_S)
        for n in range(topics.COMMANDS.partitions)
    }
    reader.assign([confluent_kafka.TopicPartition(topics.COMMANDS.name, n, low) for n, (low, _) in ends.items()])
    left = sum(high - low for low, high in ends.values())
    found = []
    deadline = time.monotonic() + DEADLINE_S
    while left > 0:
        assert time.monotonic() < deadline
        batch = reader.consume(left, 0.2)
        left -= len(batch)
        found += [message for message in batch if message.key() == key]
    reader.close()
    return found
