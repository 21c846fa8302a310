"""What is on ``perdure.stream`` about a run, read as a gateway would, and held against the thread's history."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import confluent_kafka
from tests.integration.worker_stage import Stage
from tests.support.polling import until

from perdure.schemas.envelope import decode
from perdure.schemas.stream import STREAM, StreamChunks
from perdure.schemas.topics import STREAM as TOPIC


class Reader:
    """Reads the whole topic."""

    def __init__(self, consumer: confluent_kafka.Consumer) -> None:
        self._consumer = consumer
        self._records: dict[str, list[StreamChunks]] = {}

    def of(self, run: Mapping[str, Any]) -> list[StreamChunks]:
        """The records of a run that were read so far, in order."""
        return self._records.get(run["_id"], [])

    async def read(self) -> None:
        """Read what has come."""
        for message in await asyncio.to_thread(self._consumer.consume, 1000, 0.05):
            assert message.error() is None, message.error()
            if "ce_type" not in dict(message.headers() or ()):
                continue  # other tests write what is none of ours
            decoded = decode(message.headers(), message.value(), STREAM).message
            assert isinstance(decoded, StreamChunks)
            assert message.key() == decoded.thread_id.encode()
            self._records.setdefault(decoded.run_id, []).append(decoded)

    async def until_chunk(self, run: Mapping[str, Any], text: str) -> None:
        """Read until a chunk of the run holds the text."""

        async def look() -> bool:
            await self.read()
            return any(text in str(chunk.data) for one in self.of(run) for chunk in one.chunks)

        await until(look, f"a chunk with {text!r}", every_s=0.01)

    async def until_end(self, run: Mapping[str, Any]) -> list[StreamChunks]:
        """All the records of a run that has ended."""

        async def look() -> bool:
            await self.read()
            return any(one.seq == run["ended_seq"] and not one.chunks for one in self.of(run))

        await until(look, f"the record of the end, number {run['ended_seq']}")
        return self.of(run)


@contextmanager
def reading(bootstrap: str) -> Iterator[Reader]:
    """A reader that begins at the beginning of the topic."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    )
    try:
        partitions = consumer.list_topics(TOPIC.name, timeout=20).topics[TOPIC.name].partitions
        consumer.assign(
            [confluent_kafka.TopicPartition(TOPIC.name, n, confluent_kafka.OFFSET_BEGINNING) for n in partitions]
        )
        yield Reader(consumer)
    finally:
        consumer.close()


async def history(stage: Stage, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of the run that events are made of, oldest first, without the state."""
    found = await stage.saver.notebook.store.find({"thread": run["thread_id"], "run": run["_id"], "seq": {"$gte": 0}})
    return sorted((one for one in found if one["kind"] != "f"), key=lambda one: one["seq"])


def superstep_chunks(records: Sequence[StreamChunks]) -> dict[int, list[Any]]:
    """The chunks that came before each sequence number of one owner; fails where the numbers are not as ADR 29 says.

    Every number of the owner is told once, in order, after all the chunks that it says there were since the one before.
    """
    assert len({one.epoch for one in records}) == 1
    told: dict[int, list[Any]] = {}
    since: list[Any] = []
    for one in records:
        if one.chunks:
            assert (one.seq, one.first) == (max(told), len(since) + 1)
            since += one.chunks
            continue
        assert not told or one.seq == max(told) + 1
        assert one.before == len(since)
        told[one.seq], since = since, []
    assert not since
    return told


def texts(chunks: Sequence[Any]) -> list[str]:
    """The contents of the messages among chunks."""
    return [chunk.data[0]["content"] for chunk in chunks if chunk.mode == "messages"]
