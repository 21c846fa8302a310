"""Chunks and documents of a run in one order, whole messages where chunks are missing, and gaps in the history."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from perdure.gateway.stores.store import Store
from perdure.gateway.streams import reader as readers
from perdure.gateway.streams.chunks import RING_BYTES, ChunkRecord
from perdure.gateway.streams.feed import Kept
from perdure.gateway.streams.history import History
from perdure.gateway.streams.live import Live
from perdure.gateway.streams.reader import RunReader, Wanted
from perdure.gateway.streams.telling import BEGINNING, WHOLE, Cursor, Said, numbered, read_cursor, told

MODES = frozenset({"messages-tuple", "custom", "updates"})
RUN = {"_id": "run", "thread_id": "thread", "tenant": "default", "status": "running"}


class Documents:
    """A history in memory: every document says what the test gave it, with one whole message before an update."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self.reads = 0
        self.asked: list[int] = []
        """Documents of which it was asked what they say."""

    def add(self, seq: int, kind: str = "c", event: str = "", run: str = "run") -> None:
        at = datetime.now(UTC)
        ids = {"checkpoint_id": f"{seq}", "parent": f"{seq - 1}" if seq > 2 else None} if kind == "c" else {"epoch": 1}
        self.found.append({"seq": seq, "kind": kind, "event": event, "run": run, "ns": "", "at": at, **ids})

    async def page(self, _: str, after: int) -> list[dict[str, Any]]:
        self.reads += 1
        return sorted((one for one in self.found if one["seq"] > after), key=lambda one: int(one["seq"]))[:16]

    async def run(self, *_: str) -> None:
        return None

    async def say(self, document: Mapping[str, Any], _: Any) -> Said:
        seq = int(document["seq"])
        self.asked.append(seq)
        if document["kind"] == "e":
            name = {"started": "metadata", "success": "end"}[document["event"]]
            return Said(seq, document["run"], "", numbered([told("", "", None, event=name)]))
        message = told("messages-tuple", "", f"whole {seq}", event="messages", whole=True)
        return Said(seq, document["run"], "", numbered([message, told("updates", "", f"update {seq}")]), since=seq - 1)


class Runs:
    async def run_even_deleted(self, *_: str) -> Mapping[str, Any]:
        return RUN


class Stage:
    """One reader whose events are collected."""

    def __init__(self, cursor: Cursor = BEGINNING, modes: frozenset[str] = MODES, chunks: int = 0) -> None:
        self.documents = Documents()
        self.kept = Kept(cast("History", self.documents))
        self._open = self.kept.open("thread", "default")
        self.feed = self._open.__enter__()
        self.feed.chunks_come = True
        complete = 0 if cursor == BEGINNING else cursor.seq
        self.live = Live(self.feed.ring, "run", modes, subgraphs=False, told=chunks, complete_from=complete)
        self.reader = RunReader(self.feed, cast("Store", Runs()), RUN, Wanted(modes), cursor, self.live, streams=True)
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.data: list[tuple[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    def chunk(self, seq: int, first: int, *data: Any, mode: str = "messages") -> None:
        chunks = [{"mode": mode, "data": one} for one in data]
        self._record({"seq": seq, "first": first, "chunks": chunks})

    def closes(
        self, seq: int, before: int, modes: Sequence[str] = ("messages", "custom"), *, checkpoint: bool = False
    ) -> None:
        self._record({"seq": seq, "before": before, "modes": modes, "checkpoint": checkpoint})

    def _record(self, content: dict[str, Any]) -> None:
        self.feed.ring.add([ChunkRecord({"run_id": "run", **content}, 100)])

    async def end(self) -> list[str]:
        """Everything, once the run's end was told."""
        self.feed.wake()
        await asyncio.wait_for(self._reading, 10)
        return self.seen

    async def until(self, count: int) -> None:
        self.feed.wake()
        async with asyncio.timeout(10):
            while len(self.seen) < count:
                await asyncio.sleep(0.005)

    async def _read(self) -> None:
        async for part in self.reader.events():
            for block in part.decode().split("\r\n\r\n"):
                if block:
                    fields = dict(line.split(": ", 1) for line in block.split("\r\n"))
                    data = json.loads(fields["data"])
                    self.seen.append(data if isinstance(data, str) else fields["event"])
                    self.ids.append(fields.get("id", ""))
                    self.data.append((fields["event"], data))


def history(stage: Stage, last: int = 4) -> None:
    stage.documents.add(1, "e", "started")
    for seq in range(2, last):
        stage.documents.add(seq)
    stage.documents.add(last, "e", "success")


async def test_chunks_come_before_what_their_superstep_made_durable() -> None:
    stage = Stage()
    history(stage)
    stage.closes(1, 0)
    stage.chunk(1, 1, "a", "b")
    stage.closes(2, 2)
    stage.chunk(2, 1, "c")
    stage.closes(3, 1)
    stage.closes(4, 0)
    assert await stage.end() == ["metadata", "a", "b", "update 2", "c", "update 3", "end"]
    assert stage.ids == ["1-1", "1+1", "1+2", "2-2", "2+1", "3-2", "4-1"]


async def test_a_document_waits_for_the_chunks_before_it() -> None:
    stage = Stage()
    history(stage)
    stage.closes(1, 0)
    stage.chunk(1, 1, "a")
    await stage.until(2)
    stage.chunk(1, 2, "b")
    stage.closes(2, 2)
    stage.closes(3, 0)
    stage.closes(4, 0)
    assert await stage.end() == ["metadata", "a", "b", "update 2", "update 3", "end"]


async def test_what_closes_a_superstep_counts_when_it_comes_while_the_history_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    stage.documents.add(1, "e", "started")
    stage.closes(1, 0)
    stage.chunk(1, 1, "a")
    await stage.until(2)
    page = stage.documents.page

    async def closing(thread: str, after: int) -> list[dict[str, Any]]:
        if after == 1:
            stage.closes(2, 1)
            monkeypatch.setattr(stage.documents, "page", page)
        return await page(thread, after)

    monkeypatch.setattr(stage.documents, "page", closing)
    history(stage, 3)
    stage.documents.found = stage.documents.found[1:]
    stage.feed.wake()
    await stage.until(3)
    stage.closes(3, 0)
    assert await stage.end() == ["metadata", "a", "update 2", "end"]


async def test_a_missing_chunk_is_made_good_by_the_whole_message_of_its_superstep_alone() -> None:
    stage = Stage()
    history(stage, 5)
    stage.closes(1, 0)
    stage.chunk(1, 1, "a")
    stage.closes(2, 1)
    stage.chunk(2, 2, "second of two")
    stage.closes(3, 2)
    stage.chunk(3, 1, "c")
    stage.closes(4, 1)
    stage.closes(5, 0)
    assert await stage.end() == [
        "metadata", "a", "update 2", "second of two", "whole 3", "update 3", "c", "update 4", "end",
    ]  # fmt: skip


async def test_a_lost_record_is_noticed_by_the_count() -> None:
    stage = Stage()
    history(stage, 3)
    stage.closes(1, 0)
    stage.chunk(1, 1, "a")
    stage.closes(2, 5)
    stage.closes(3, 0)
    assert await stage.end() == ["metadata", "a", "whole 2", "update 2", "end"]


async def test_whole_messages_where_the_worker_did_not_tell_messages() -> None:
    stage = Stage()
    history(stage, 3)
    stage.closes(1, 0, modes=["custom"])
    stage.chunk(1, 1, "mine", mode="custom")
    stage.closes(2, 1, modes=["custom"])
    stage.closes(3, 0, modes=["custom"])
    assert await stage.end() == ["metadata", "mine", "whole 2", "update 2", "end"]


async def test_nothing_is_waited_for_long_where_no_chunks_come() -> None:
    stage = Stage()
    history(stage)
    assert await stage.end() == ["metadata", "whole 2", "update 2", "whole 3", "update 3", "end"]


async def test_a_reader_goes_on_after_the_chunk_that_it_knows() -> None:
    stage = Stage(Cursor(1, WHOLE), chunks=1)
    history(stage, 3)
    stage.closes(1, 0)
    stage.chunk(1, 1, "a", "b")
    stage.closes(2, 2)
    stage.closes(3, 0)
    assert await stage.end() == ["b", "update 2", "end"]


async def test_chunks_of_an_owner_that_lost_the_run_are_left_out() -> None:
    stage = Stage()
    history(stage, 3)
    stage.closes(1, 0)
    stage.closes(2, 0)
    stage.chunk(1, 1, "too late")
    stage.closes(3, 0)
    await stage.until(3)
    assert await stage.end() == ["metadata", "update 2", "end"]


async def test_messages_so_far() -> None:
    stage = Stage(modes=frozenset({"messages"}))
    history(stage, 3)
    chunk = {"type": "AIMessageChunk", "id": "one", "additional_kwargs": {}, "response_metadata": {}}
    stage.closes(1, 0)
    stage.chunk(1, 1, [{**chunk, "content": "Hel"}, {"langgraph_node": "a"}], [{**chunk, "content": "lo"}, {}])
    stage.closes(2, 2)
    stage.closes(3, 0)
    assert await stage.end() == ["metadata", "messages/metadata", "messages/partial", "messages/partial", "end"]


async def test_a_reader_that_is_behind_is_told_a_message_once_for_many_chunks() -> None:
    stage = Stage(modes=frozenset({"messages", "custom"}))
    history(stage, 3)
    chunk = {"type": "AIMessageChunk", "content": "x", "additional_kwargs": {}, "response_metadata": {}}
    stage.closes(1, 0)
    for number in range(1, 101):
        stage.chunk(1, number, [{**chunk, "id": "one"}, {}])
    stage.chunk(1, 101, "mine", mode="custom")
    stage.chunk(1, 102, *([{**chunk, "id": name}, {}] for name in ("one", "two", "two", "one")))
    stage.closes(2, 105)
    stage.closes(3, 0)
    await stage.end()
    told = [
        (data[0]["id"], len(data[0]["content"]), place)
        for (name, data), place in zip(stage.data, stage.ids, strict=True)
        if name == "messages/partial"
    ]
    assert told == [
        ("one", 1, "1+1"), ("one", 33, "1+33"), ("one", 65, "1+65"),
        *(("one", number, f"1+{number}") for number in range(89, 101)),
        ("one", 101, "1+102"), ("two", 1, "1+103"), ("two", 2, "1+104"), ("one", 102, "1+105"),
    ]  # fmt: skip
    assert stage.seen.index("mine") == stage.ids.index("1+100") + 1


async def test_a_chunk_that_comes_twice_is_part_of_its_message_once() -> None:
    stage = Stage(Cursor(1, WHOLE), modes=frozenset({"messages"}), chunks=1)
    history(stage, 3)
    chunk = {"type": "AIMessageChunk", "id": "one", "additional_kwargs": {}, "response_metadata": {}}
    stage.closes(1, 0)
    for _ in range(2):
        stage.chunk(1, 1, [{**chunk, "content": "Hel"}, {}], [{**chunk, "content": "lo"}, {}])
    stage.chunk(1, 3, [{**chunk, "content": "!"}, {}])
    stage.closes(2, 3)
    stage.closes(3, 0)
    await stage.end()
    partial = [data[0]["content"] for name, data in stage.data if name == "messages/partial"]
    assert partial == ["Hello", "Hello!"]


async def test_only_the_events_that_are_sent_next_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(modes=frozenset({"custom"}))
    stage._reading.cancel()
    history(stage, 3)
    stage.closes(1, 0)
    stage.chunk(1, 1, *range(10_000), mode="custom")
    stage.closes(2, 10_000)
    stage.closes(3, 0)
    monkeypatch.setattr(readers, "BATCH_BYTES", 1_000)
    events = stage.reader.events()
    while b"custom" not in await anext(events):
        pass
    assert stage.live._told < 10_000
    await events.aclose()


async def test_the_ring_is_bounded_and_who_falls_behind_takes_whole_messages() -> None:
    stage = Stage()
    history(stage, 3)
    stage.closes(1, 0)
    await stage.until(1)
    large = "x" * 100_000
    for number in range(1, 200):
        stage.feed.ring.add([ChunkRecord({"run_id": "run", "seq": 1, "first": number, "chunks": [{"mode": "custom", "data": 1}]},
                                  len(large))])  # fmt: skip
    assert stage.feed.ring.nbytes <= RING_BYTES
    stage.closes(2, 199)
    stage.closes(3, 0)
    assert (await stage.end())[-3:] == ["whole 2", "update 2", "end"]


async def test_a_gap_in_the_history_is_waited_for() -> None:
    stage = Stage(modes=frozenset({"updates"}))
    stage.documents.add(1, "e", "started")
    stage.documents.add(3)
    await stage.until(1)
    for _ in range(3):
        stage.feed.wake()
        await asyncio.sleep(0.01)
    assert stage.seen == ["metadata"]
    stage.documents.add(2)
    await stage.until(3)
    stage.documents.add(6, "e", "success")
    assert await stage.end() == ["metadata", "update 2", "update 3", "end"], "what its owner left out never comes"


async def test_readers_of_one_thread_share_what_is_read() -> None:
    stage = Stage(modes=frozenset({"updates"}))
    history(stage, 9)
    others = [
        RunReader(stage.feed, cast("Store", Runs()), RUN, Wanted(frozenset({"updates"})), BEGINNING) for _ in range(50)
    ]
    parts = await asyncio.gather(*(anext(reader.events()) for reader in others))
    assert len({*parts}) == 1
    await stage.end()
    assert stage.documents.reads == 1


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("-1", BEGINNING), ("17-5", Cursor(17, 5)), ("17+5", Cursor(17, WHOLE, 5)), ("17", Cursor(17, WHOLE)),
        ("", None), ("x", None), ("17-", None), ("-2", None), ("1-2-3", None), ("٣-1", None), ("9" * 30, None),
    ],
)  # fmt: skip
def test_an_id_is_a_place(text: str, place: Cursor | None) -> None:
    assert read_cursor(text) == place


async def test_a_reader_of_chunks_that_got_them_needs_nothing_of_what_documents_say() -> None:
    stage = Stage(Cursor(0, WHOLE), frozenset({"messages-tuple"}))
    history(stage, last=5)
    stage.closes(1, 0)
    stage.chunk(1, 1, "a")
    stage.closes(2, 1)
    stage.chunk(2, 1, "b")
    stage.closes(3, 1)
    stage.closes(4, 0)
    stage.closes(5, 0)
    assert await stage.end() == ["metadata", "a", "b", "end"]
    assert stage.ids == ["1-1", "1+1", "2+1", "5-1"]
    assert stage.documents.asked == []


async def test_a_reader_of_chunks_reads_no_checkpoints_while_it_gets_them() -> None:
    stage = Stage(BEGINNING, frozenset({"messages-tuple"}))
    stage.documents.add(1, "e", "started")
    stage.closes(1, 0)
    await stage.until(1)
    reads = stage.documents.reads
    stage.chunk(1, 1, "a")
    stage.closes(2, 1, checkpoint=True)
    stage.closes(3, 0, checkpoint=True)
    stage.chunk(3, 1, "b")
    stage.closes(4, 1, checkpoint=True)
    stage.closes(5, 0, checkpoint=True)
    await stage.until(3)
    assert stage.documents.reads == reads
    stage.documents.add(6, "e", "success")
    stage.closes(6, 0)
    assert await stage.end() == ["metadata", "a", "b", "end"]
    assert stage.ids == ["1-1", "1+1", "3+1", "6-1"]
    assert stage.documents.reads == reads + 1


async def test_a_reader_of_chunks_that_missed_one_reads_its_checkpoint() -> None:
    stage = Stage(BEGINNING, frozenset({"messages-tuple"}))
    history(stage, last=4)
    stage.closes(1, 0)
    stage.chunk(1, 2, "second of two")
    stage.closes(2, 2, checkpoint=True)
    stage.closes(3, 0, checkpoint=True)
    stage.closes(4, 0)
    assert await stage.end() == ["metadata", "second of two", "whole 2", "end"]


async def test_a_reader_of_chunks_reads_the_history_when_they_say_nothing_of_it() -> None:
    stage = Stage(BEGINNING, frozenset({"messages-tuple"}))
    began = time.monotonic()
    history(stage, last=3)
    stage.closes(1, 0)
    await stage.until(1)
    stage.kept._feeds[("default", "thread")].chunks_come = False
    assert await stage.end() == ["metadata", "whole 2", "end"]
    assert time.monotonic() - began < readers.GRACE_S


async def test_a_reader_of_chunks_that_missed_one_is_told_that_message_whole() -> None:
    stage = Stage(Cursor(0, WHOLE), frozenset({"messages-tuple"}))
    history(stage, last=5)
    stage.closes(1, 0)
    stage.chunk(1, 1, "a")
    stage.closes(2, 1)
    stage.chunk(2, 2, "second of two")
    stage.closes(3, 2)
    stage.closes(4, 0)
    stage.closes(5, 0)
    assert await stage.end() == ["metadata", "a", "second of two", "whole 3", "end"]
    assert stage.documents.asked == [3]


async def test_a_thread_is_not_read_again_before_something_may_follow() -> None:
    stage = Stage()
    stage.documents.add(1, "e", "started")
    stage.documents.add(2)
    stage.closes(1, 0)
    stage.closes(2, 0)
    await stage.until(2)
    for number in range(1, 20):
        stage.chunk(2, number, f"{number}")
        stage.feed.wake(stored=False)
        await asyncio.sleep(0)
    await stage.until(2 + 19)
    assert stage.feed.has_read(2)
    assert not stage.feed.has_read(3)
    assert stage.documents.reads <= 3, "one for each wake that says that something was stored"
    stage.documents.add(3, "e", "success")
    stage.closes(3, 19)
    assert (await stage.end())[-1] == "end"
