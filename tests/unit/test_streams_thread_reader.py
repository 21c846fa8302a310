"""A thread's reader: history that was pruned, and a thread that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from perdure.gateway.http.problems import store_unavailable
from perdure.gateway.stores.store import Store
from perdure.gateway.streams import reader as readers
from perdure.gateway.streams import thread_reader
from perdure.gateway.streams.feed import Feed, Kept
from perdure.gateway.streams.history import PAGE, History
from perdure.gateway.streams.reader import RunReader, Wanted
from perdure.gateway.streams.telling import BEGINNING, WHOLE, Cursor, Said, numbered, told
from perdure.gateway.streams.thread_reader import ThreadReader

THREAD: dict[str, Any] = {"_id": "thread", "tenant": "default", "seq": 0}
RUN = {"_id": "run", "thread_id": "thread", "tenant": "default", "status": "running"}
KINDS = frozenset({"state_update"})


class Documents:
    """A history in memory, of updates of the state; also the store of its thread, which may be away or gone."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = [*numbers]
        self.thread_document: Mapping[str, Any] | None = THREAD
        self.run_of_all: str | None = None
        self.failures = 0

    async def page(self, _: str, after: int) -> list[dict[str, Any]]:
        return [
            {"seq": seq, "kind": "c", "run": self.run_of_all, "ns": "", "at": datetime.now(UTC)}
            for seq in sorted(self.numbers)
            if after < seq <= after + PAGE
        ]

    async def say(self, document: Mapping[str, Any], _: Any) -> Said:
        event = told("state_update", "", document["seq"], event="update")
        return Said(int(document["seq"]), None, "", numbered([event]))

    async def run(self, *_: str) -> None:
        if self.failures:
            self.failures -= 1
            raise store_unavailable()

    async def thread(self, *_: str) -> Mapping[str, Any] | None:
        return self.thread_document

    async def run_even_deleted(self, *_: str) -> None:
        return None


@pytest.fixture(name="documents")
def _documents(monkeypatch: pytest.MonkeyPatch) -> Documents:
    monkeypatch.setattr(readers, "LOOK_AT_RUN_S", 0.05)
    monkeypatch.setattr(thread_reader, "LOOK_AT_RUN_S", 0.05)
    monkeypatch.setattr(readers, "AGAIN_S", 0.01)
    return Documents()


@pytest.fixture(name="feed")
async def _feed(documents: Documents) -> AsyncIterator[Feed]:
    with ExitStack() as opened:
        yield opened.enter_context(Kept(cast("History", documents)).open("thread", "default"))


def reader(feed: Feed, documents: Documents, after: int = 0, **thread: Any) -> ThreadReader:
    return ThreadReader(feed, cast("Store", documents), {**THREAD, **thread}, KINDS, Cursor(after, WHOLE))


async def places(reading: ThreadReader, count: int) -> Sequence[int]:
    """The numbers of the next documents that a reader tells."""
    events = reading.events()
    async with asyncio.timeout(10):
        found = [int((await anext(events)).rpartition(b"id: ")[2].partition(b"-")[0]) for _ in range(count)]
    await events.aclose()
    return found


async def test_history_that_was_pruned_is_passed_over(feed: Feed, documents: Documents) -> None:
    documents.numbers = [1, 98, 100, 102]
    assert await places(reader(feed, documents, 1, seq=101), 3) == [98, 100, 102]


async def test_what_follows_pruned_history_is_told_in_order(feed: Feed, documents: Documents) -> None:
    documents.numbers = [102]
    reading = asyncio.create_task(places(reader(feed, documents, 1, seq=100), 2))
    done, _ = await asyncio.wait({reading}, timeout=0.1)
    assert not done, "101 is on its way"
    documents.numbers += [101]
    feed.wake()
    assert await reading == [101, 102]


async def test_history_that_is_pruned_while_it_is_read_is_passed_over(feed: Feed, documents: Documents) -> None:
    reading = asyncio.create_task(places(reader(feed, documents, 1, seq=1), 1))
    documents.thread_document = {**THREAD, "seq": 100}
    documents.numbers = [100]
    assert await reading == [100]


@pytest.mark.parametrize("of", ["thread", "run"])
async def test_what_is_gone_is_noticed_however_often_the_reader_is_woken(
    feed: Feed, documents: Documents, of: str
) -> None:
    documents.thread_document = None
    if of == "thread":
        events = reader(feed, documents).events()
    else:
        store = cast("Store", documents)
        events = RunReader(feed, store, RUN, Wanted(frozenset({"values"})), BEGINNING).events()

    async def wake() -> None:
        while True:
            feed.wake()
            await asyncio.sleep(0.01)

    waking = asyncio.create_task(wake())
    async with asyncio.timeout(5):
        assert [part async for part in events] == []
    waking.cancel()


async def test_a_run_that_is_gone_is_noticed_in_a_thread_that_goes_on(feed: Feed, documents: Documents) -> None:
    documents.run_of_all = "another"
    events = RunReader(feed, cast("Store", documents), RUN, Wanted(frozenset({"values"})), BEGINNING).events()

    async def go_on() -> None:
        while True:
            documents.numbers.append(len(documents.numbers) + 1)
            feed.wake()
            await asyncio.sleep(0.005)

    going_on = asyncio.create_task(go_on())
    async with asyncio.timeout(5):
        assert [part async for part in events] == []
    going_on.cancel()


async def test_an_outage_while_a_run_is_looked_up_is_waited_out(feed: Feed, documents: Documents) -> None:
    documents.numbers, documents.run_of_all, documents.failures = [1], "run", 2
    assert await places(reader(feed, documents), 1) == [1]
    assert documents.failures == 0
