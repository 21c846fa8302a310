"""The partition that a key has by Kafka's own partitioner; a reader that is started while another stops."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from confluent_kafka import Message
from tests.support.polling import until

from perdure.chassis.kafka.tail import Tail, partition_of


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    ],
)
def test_the_partition_is_that_of_kafka(key: str, hashed: int) -> None:
    """The values are those of ``UtilsTest.testMurmur2`` of Kafka."""
    assert partition_of(key.encode(), 12) == (hashed & 0x7FFFFFFF) % 12


class Topic:
    """Stands for the thread's reading of Kafka: each reader is counted, and takes a while to notice that it is stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reading = 0
        self.slow = threading.Event()
        self._lock = threading.Lock()
        monkeypatch.setattr("perdure.chassis.kafka.tail.new_consumer", lambda *_, **__: self)
        monkeypatch.setattr("perdure.chassis.kafka.tail._ends", lambda *_: {})
        monkeypatch.setattr("perdure.chassis.kafka.tail._messages", self._messages)

    def assign(self, _: object) -> None:
        with self._lock:
            self.reading += 1

    def close(self) -> None:
        with self._lock:
            self.reading -= 1

    def _messages(self, _: object) -> list[Message]:
        self.slow.wait(0.5)  # until the test has started the next reader
        time.sleep(0.01)
        return []


async def test_a_reader_that_is_started_while_another_stops_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    topic = Topic(monkeypatch)
    tail = Tail("nowhere", "test", "topic", lambda _: True, lambda _: None)
    tail.start()
    assert await tail.until_open(5)
    stopping = asyncio.create_task(tail.stop())
    await asyncio.sleep(0)
    assert not tail.open, "from the moment when it is asked to stop"
    tail.start()
    topic.slow.set()
    async with asyncio.timeout(5):
        await stopping
    assert await tail.until_open(5)
    await until(lambda: topic.reading == 1, "one reader is left")
    async with asyncio.timeout(5):
        await tail.stop()
    assert topic.reading == 0
    assert not tail.open
