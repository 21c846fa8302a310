"""Reading the end of a topic: what is wanted, what was written before, and after the broker was away."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.support.polling import until

from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.deadletter import Origin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.kafka.tail import Tail, partition_of, read_back
from perdure.local.stack import Stack
from perdure.schemas import topics
from perdure.schemas.envelope import Record

TOPIC = topics.STREAM.name


class Reading:
    """A tail whose records are kept."""

    def __init__(self, bootstrap: str, *keys: bytes) -> None:
        self.seen: list[tuple[bytes, bytes]] = []
        self.begun = 0
        self.tail = Tail(bootstrap, f"test-{uuid.uuid4().hex}", TOPIC, keys.__contains__, self._take)

    def _take(self, origins: Sequence[Origin]) -> None:
        self.begun += not origins
        self.seen += [(one.key or b"", one.value or b"") for one in origins]


async def write(bootstrap: str, *records: tuple[bytes, bytes]) -> None:
    producer = Producer(bootstrap, "test")
    for key, value in records:
        await producer.send(TOPIC, Record(key, value, []))
    await producer.close()


@pytest.fixture(name="bootstrap")
async def _bootstrap(kafka_bootstrap: str) -> str:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    return kafka_bootstrap


async def test_only_what_is_wanted_is_handed_over_in_order(bootstrap: str) -> None:
    mine, other = uuid.uuid4().hex.encode(), uuid.uuid4().hex.encode()
    await write(bootstrap, (mine, b"before"))
    reading = Reading(bootstrap, mine)
    assert not reading.tail.open
    reading.tail.start()
    assert await reading.tail.until_open(20)
    await write(bootstrap, *((key, b"%d" % n) for n in range(20) for key in (mine, other)))
    await until(lambda: len(reading.seen) >= 20, "twenty records are read")
    assert reading.seen == [(mine, b"%d" % n) for n in range(20)]
    await reading.tail.stop()
    assert not reading.tail.open


async def test_what_was_written_before_is_read_back_by_time(bootstrap: str) -> None:
    mine = uuid.uuid4().hex.encode()
    other = next(key for n in range(10_000) if partition_of(key := b"%d" % n, 6) == partition_of(mine, 6))
    await write(bootstrap, (mine, b"long ago"))
    await asyncio.sleep(1.1)  # the clock is what is tested
    since = time.time() - 0.5
    await write(bootstrap, *((key, b"%d" % n) for n in range(10) for key in (mine, other)))

    def read(**more: Any) -> tuple[list[bytes | None], bool]:
        limits = {"records": 1_000, "within_s": 20.0} | more
        found, complete = read_back(bootstrap, "test-back", TOPIC, mine, since, **limits)
        return [one.value for one in found], complete

    assert await asyncio.to_thread(read) == ([b"%d" % n for n in range(10)], True)
    assert (await asyncio.to_thread(lambda: read(records=0)))[1] is False
    nothing = await asyncio.to_thread(
        read_back, bootstrap, "test-back", TOPIC, mine, time.time() + 60, records=10, within_s=20
    )
    assert nothing == ([], True)


async def test_reading_goes_on_after_the_broker_was_away(own_stack: Callable[..., Stack]) -> None:
    stack = await asyncio.to_thread(own_stack, "kafka")
    bootstrap = stack.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]
    await TopicAdmin(bootstrap).apply(topics.ALL)
    reading = Reading(bootstrap, b"mine")
    reading.tail.start()
    assert await reading.tail.until_open(20)
    await asyncio.to_thread(stack.stop_server, "kafka", kill=True)
    await until(lambda: not reading.tail.open, "the outage is noticed")
    await asyncio.to_thread(stack.start, ("kafka",))
    await until(lambda: reading.tail.open and reading.begun >= 2, "it is read again")

    async def arrives() -> bool:
        """Write until one is read: the connection may break once more while the broker starts."""
        await write(bootstrap, (b"mine", b"after"))
        return (b"mine", b"after") in reading.seen

    await until(
        arrives, "what comes after the outage is read", explain=lambda: (reading.begun, reading.tail.open), every_s=0.5
    )
    assert {*reading.seen} == {(b"mine", b"after")}
    await reading.tail.stop()
