"""The producer on a real broker: records that come fast are gathered, in order, and none is lost; one alone is not kept back."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from confluent_kafka import Consumer, TopicPartition

from perdure.chassis.kafka import producer as module
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.clients import new_producer
from perdure.chassis.kafka.producer import BUSY, Producer
from perdure.schemas.envelope import Record
from perdure.schemas.topics import Topic

DEADLINE_S = 30.0


@pytest.fixture
async def topic(kafka_bootstrap: str) -> str:
    name = f"test.{uuid.uuid4().hex}"
    await TopicAdmin(kafka_bootstrap).apply([Topic(name, 1, {}, consumed=False, summary="A test.")])
    return name


@pytest.fixture
async def producer(kafka_bootstrap: str) -> AsyncIterator[Producer]:
    made = Producer(kafka_bootstrap, "test")
    yield made
    await made.close()


def record(number: int) -> Record:
    return Record(b"key", b"%d" % number, [])


def written(kafka_bootstrap: str, topic: str, count: int) -> list[int]:
    """What the topic holds, in order; reads ``count`` records."""
    consumer = Consumer({"bootstrap.servers": kafka_bootstrap, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = consumer.consume(count, DEADLINE_S)
    consumer.close()
    return [int(message.value() or b"") for message in found]


async def test_records_that_come_fast_are_gathered_in_order(
    producer: Producer, kafka_bootstrap: str, topic: str
) -> None:
    acknowledged: list[int] = []
    for number in range(1_000):
        producer.produce(topic, record(number), lambda number=number: acknowledged.append(number))  # type: ignore[misc]
    # Some may have gone into the window that began with the producer, and be acknowledged already.
    assert len(producer._gathered) >= 1_000 - 2 * BUSY, "the rest is kept back"
    assert producer.waiting >= len(producer._gathered)
    async with asyncio.timeout(DEADLINE_S):
        while len(acknowledged) < 1_000:
            producer.produce(topic, record(-1))
            await asyncio.sleep(0.001)
    assert acknowledged == [*range(1_000)]
    assert [one for one in written(kafka_bootstrap, topic, 1_000) if one >= 0] == [*range(1_000)]


async def test_a_record_that_comes_alone_is_not_kept_back(producer: Producer, topic: str) -> None:
    for number in range(3 * BUSY):
        producer.produce(topic, record(number))
    async with asyncio.timeout(DEADLINE_S):
        while producer._release is not None:  # until it has looked and found that few come
            await asyncio.sleep(0.01)
    producer.produce(topic, record(0))
    assert not producer._gathered


async def test_close_sends_what_was_gathered(kafka_bootstrap: str, topic: str) -> None:
    producer = Producer(kafka_bootstrap, "test")
    for number in range(500):
        producer.produce(topic, record(number))
    assert await producer.close() == 0
    assert written(kafka_bootstrap, topic, 500) == [*range(500)]


async def test_what_finds_no_room_is_refused_or_tried_again(
    monkeypatch: pytest.MonkeyPatch, kafka_bootstrap: str, topic: str
) -> None:
    """librdkafka's queue is smaller than what is gathered."""
    config = {"queue.buffering.max.messages": 40}
    monkeypatch.setattr(module, "new_producer", lambda kafka, name, given: new_producer(kafka, name, given | config))
    monkeypatch.setattr(module, "MAX_GATHERED", 300)
    producer = Producer(kafka_bootstrap, "test")
    sent = BUSY + 300
    for number in range(sent):
        producer.produce(topic, record(number))
    with pytest.raises(BufferError):
        producer.produce(topic, record(sent))
    assert await producer.close(DEADLINE_S) == 0
    assert written(kafka_bootstrap, topic, sent) == [*range(sent)]
