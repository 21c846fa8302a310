"""When the hub of the streams reads Kafka, and when it stops; Kafka is left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from tests.support.polling import until

from perdure.gateway.http.problems import store_unavailable
from perdure.gateway.stores.store import Store
from perdure.gateway.streams import hub
from perdure.gateway.streams import reader as readers
from perdure.gateway.streams.asking import Asking
from perdure.gateway.streams.feed import Kept
from perdure.gateway.streams.history import History
from perdure.gateway.streams.hub import Streams
from perdure.gateway.streams.reader import Wanted
from perdure.gateway.streams.sse import event_bytes
from perdure.gateway.streams.telling import ALWAYS, BEGINNING, Said, numbered, told


class SlowTail:
    """A tail of a topic that takes its time to stop."""

    made: list[SlowTail]
    may_stop: asyncio.Event

    def __init__(self, *_: object) -> None:
        self.made.append(self)
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
