"""When the hub of the streams reads Kafka, and when it stops; Kafka is left out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.deadletter import Origin
from perdure.gateway.http.problems import store_unavailable
from perdure.gateway.stores.store import Store
from perdure.gateway.streams import chunks, hub
from perdure.gateway.streams import reader as readers
from perdure.gateway.streams.asking import Asking
from perdure.gateway.streams.chunks import Passed
from perdure.gateway.streams.feed import Kept
from perdure.gateway.streams.history import History
from perdure.gateway.streams.hub import Streams
from perdure.gateway.streams.reader import Wanted
from perdure.gateway.streams.sse import event_bytes
from perdure.gateway.streams.telling import ALWAYS, BEGINNING, Said, numbered, told
from perdure.schemas.stream import StreamChunks


class SlowTail:
    """A tail of a topic that takes its time to stop."""

    made: list[SlowTail]
    may_stop: asyncio.Event

    def __init__(self, *given: Any) -> None:
        self.made.append(self)
        self.wanted, self.take = given[3:]
        self.reads = False
        self.stops = 0
        self.open = False
        self.opened_at = 0.0

    def start(self) -> None:
        self.reads = True

    async def until_open(self, _: float) -> bool:
        return self.open

    async def stop(self) -> None:
        self.reads = False
        self.stops += 1
        await self.may_stop.wait()


class Waiting:
    """Somebody who waits for ends of runs."""

    busy = False

    def wants(self, _: bytes) -> bool:
        return self.busy

    def soon(self, thread_id: str, run_id: str) -> None: ...


@pytest.fixture(name="streams")
async def _streams(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Streams]:
    SlowTail.made, SlowTail.may_stop = [], asyncio.Event()
    monkeypatch.setattr(hub, "Tail", SlowTail)
    monkeypatch.setattr(hub, "POLL_S", 0.01)
    monkeypatch.setattr(hub, "LINGER_S", 0.02)
    nothing: Any = None
    streams = Streams(cast("History", nothing), cast("Store", nothing), cast("Asking", nothing), "nowhere", "test")
    yield streams
    SlowTail.may_stop.set()
    await streams.close()


async def test_who_comes_while_reading_is_being_stopped_is_read_for(streams: Streams) -> None:
    waiting = Waiting()
    streams.tell_ends(waiting)
    streams.listen()
    events, chunks = SlowTail.made
    await until(lambda: events.stops == chunks.stops == 1, "nobody reads, so reading is stopped")
    waiting.busy = True
    SlowTail.may_stop.set()
    await until(lambda: events.reads, "events are read again")
    assert not chunks.reads, "nobody reads chunks"
    waiting.busy = False
    await until(lambda: events.stops == 2, "the poll has gone on, and stops reading once more")
    assert not events.reads


class AwayAtFirst:
    """A history of a run that has ended, in a database that does not answer the first question."""

    def __init__(self) -> None:
        self.asked = 0

    async def first_seq(self, _: object) -> int:
        self.asked += 1
        if self.asked == 1:
            raise store_unavailable()
        return 1

    async def page(self, _: str, after: int) -> list[dict[str, Any]]:
        end = {"seq": 1, "kind": "e", "event": "success", "run": "run", "at": datetime.now(UTC)}
        return [end] if after < 1 else []

    async def run(self, *_: str) -> None:
        return None

    async def say(self, *_: object) -> Said:
        return Said(1, "run", "", numbered([told(ALWAYS, "", None, event="end")]))


async def test_an_outage_while_a_stream_is_opened_is_waited_out(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "AGAIN_S", 0.01)
    history = AwayAtFirst()
    monkeypatch.setattr(streams, "_history", history)
    monkeypatch.setattr(streams, "_kept", Kept(cast("History", history)))
    run = {"_id": "run", "thread_id": "thread", "tenant": "default", "status": "success", "ended_seq": 1}
    events = streams.run_events(run, Wanted(frozenset({"updates"})), BEGINNING, started={})
    assert [part async for part in events] == [event_bytes("end", b"null", "1-1")]


def record(**content: Any) -> Origin:
    value = orjson.dumps({"run_id": "run", **content})
    return Origin("perdure.stream", 0, 0, b"thread", value, [("ce_type", StreamChunks.TYPE.encode())])


@pytest.mark.parametrize("is_passed_over", [True, False])
async def test_chunks_that_were_told_before_the_stream_of_a_fresh_run_was_opened_are_read_back(
    streams: Streams, monkeypatch: pytest.MonkeyPatch, *, is_passed_over: bool
) -> None:
    records = [record(seq=0, chunks=[{"mode": "custom", "data": "early"}]), record(seq=1, before=1, modes=["custom"])]
    history = AwayAtFirst()
    history.asked = 1
    monkeypatch.setattr(streams, "_history", history)
    monkeypatch.setattr(streams._kept, "_history", history)
    monkeypatch.setattr(streams, "_asking", SimpleNamespace(ask=lambda *_, **__: None))
    back: list[bytes] = []

    def read_back(_: str, __: str, ___: str, key: bytes, ____: float, **_____: object) -> tuple[list[Origin], bool]:
        back.append(key)
        return records, True

    monkeypatch.setattr(hub, "read_back", read_back)
    tail = SlowTail.made[1]
    tail.open, tail.opened_at = True, 1.0
    run = {"_id": "run", "thread_id": "thread", "tenant": "default", "status": "running", "created_at": now()}
    if is_passed_over:
        assert not tail.wanted(b"thread")
    events = streams.run_events(
        run, Wanted(frozenset({"custom"})), BEGINNING, started={"modes": ["custom"]}, fresh=True
    )
    reading = asyncio.create_task(_joined(events))
    if not is_passed_over:
        await until(lambda: len(streams._kept) == 1, "the stream is open")
        assert tail.wanted(b"thread")
        tail.take(records)
    assert await reading == event_bytes("custom", b'"early"', "0+1") + event_bytes("end", b"null", "1-1")
    assert back == ([b"thread"] if is_passed_over else [])


async def _joined(events: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in events])


def test_what_was_passed_over_is_known_or_taken_for_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "PASSED", 2)
    passed, began = Passed(), time.time()
    assert not passed.since(b"a", began)
    passed.note(b"a")
    assert passed.since(b"a", began)
    assert not passed.since(b"b", began)
    assert not passed.since(b"a", time.time() + 1)
    passed.note(b"b")
    passed.note(b"c")
    assert passed.since(b"a", began), "forgotten, so it may be"
    assert passed.since(b"d", began)
    assert not passed.since(b"d", time.time() + 1)
