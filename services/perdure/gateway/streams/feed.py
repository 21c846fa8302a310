"""What the readers of one thread share: the part of its history that was read, and what it says.

Contract: readers pull, nothing is queued for them. What several of them read is read and rendered once, as long as it is kept: the
newest documents of each thread, within a number of bytes for all threads together. A thread without readers holds nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from heapq import heapify, heappop, heapreplace
from typing import Any, Final, cast

from perdure.checkpoint import keys
from perdure.gateway.streams.chunks import Passed, Ring
from perdure.gateway.streams.history import GAP, PAGE, UNDER_WAY, History, RunRecord
from perdure.gateway.streams.saying import brief
from perdure.gateway.streams.telling import Said, numbered

KEPT_BYTES: Final = 64 * 1024 * 1024
"""What all documents that are kept hold, about."""
TRIM_S: Final = 0.25
RINGS_BYTES: Final = 64 * 1024 * 1024
"""What the chunks of all threads hold, about."""
KEPT_ENTRIES: Final = 256
"""Documents of one thread that are kept."""
NOTHING_S: Final = 1.0
"""How long it is remembered that nothing follows, in seconds, unless something wakes the feed."""


class Entry:
    """One document of the history; what it says is made when the first reader asks."""

    def __init__(
        self, document: Mapping[str, Any], say: Callable[[Mapping[str, Any]], Coroutine[Any, Any, Said]]
    ) -> None:
        self.seq = int(document["seq"])
        self.run_id: str | None = document.get("run")
        self.ns = str(document.get("ns") or "")
        self.kind = str(document["kind"])
        self.event = str(document.get("event") or "")
        self.checkpoint_id: str | None = document.get("checkpoint_id")
        self.parent: str | None = document.get("parent")
        self._document: Mapping[str, Any] | None = document
        self._say = say
        self._saying: asyncio.Task[Said] | None = None
        self.at = document["at"].timestamp()
        """When it was made, in seconds since 1970."""
        self.nbytes = len(document.get("body") or b"") + 1024
        self.kept_by: Feed | None = None
        """The feed whose ``nbytes`` this document is part of."""

    def said_briefly(self) -> Said | None:
        """What it says first, and in every mode, where that is known without reading more."""
        events = None if self._document is None else brief(self._document)
        return None if events is None else Said(self.seq, self.run_id, self.ns, numbered(events))

    @property
    def closes_gaps(self) -> bool:
        """Whether numbers before it that are not there never will be: no owner has anything in flight any more."""
        return self.kind == keys.ENTRY and self.event != "updated"

    @property
    def ends(self) -> bool:
        """Whether its run ends with it."""
        return self.kind == keys.ENTRY and self.event not in UNDER_WAY

    @property
    def begins(self) -> bool:
        """Whether its run, or a later owner of it, begins with it."""
        return self.kind == keys.ENTRY and self.event == "started"

    async def said(self) -> Said:
        """What it says."""
        if self._document is not None and (self._saying is None or self._failed(self._saying)):
            self._saying = asyncio.create_task(self._say(self._document), name=f"say {self.seq}")
        said = await asyncio.shield(cast("asyncio.Task[Said]", self._saying))
        self._document = None
        self._resize(said.nbytes or 2048)
        return said

    def _resize(self, nbytes: int) -> None:
        if self.kept_by is not None:
            self.kept_by.nbytes += nbytes - self.nbytes
        self.nbytes = nbytes

    @staticmethod
    def _failed(task: asyncio.Task[Said]) -> bool:
        return task.done() and (task.cancelled() or task.exception() is not None)


class Feed:
    """One thread that somebody reads. Belongs to one event loop."""

    def __init__(self, history: History, thread_id: str, tenant: str, kept: Kept) -> None:
        self.thread_id = thread_id
        self.tenant = tenant
        self.readers = 0
        self.ring = Ring()
        self.chunks_come = False
        """Whether the chunks of the thread are read as they come."""
        self.reading_back = asyncio.Lock()
        self._history = history
        self._kept = kept
        self._following: OrderedDict[int, Entry] = OrderedDict()
        """By a number, the entry that follows it."""
        self.nbytes = 0
        """About how many bytes these hold."""
        self._read_to = 0
        """The newest document that was read."""
        self._has_gap = False
        """Whether a number before one that was read is yet to come."""
        self._nothing: tuple[int, int, float] = (-1, 0, 0.0)
        """A number that nothing follows, ``stored`` when that was read, and until when it holds (monotonic)."""
        self._seqs: dict[str, int] = {}
        """Sequence numbers of the newest checkpoints that were read, by id."""
        self._reading: dict[tuple[int, int], asyncio.Task[list[Entry]]] = {}
        self._runs: dict[str, RunRecord | None] = {}
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[bool]] = set()
        """Readers that wait for news."""
        self.closing = False
        """The gateway ends."""
        self.version = 0
        """Grows with everything that may be news."""
        self.stored = 0
        """Grows with everything that may be news in the history."""

    def wake(self, *, stored: bool = True) -> None:
        """Something new may be there; ``stored``: in the history."""
        self.version += 1
        self.stored += stored
        waiting, self._waiting = self._waiting, set()
        for one in waiting:
            _tell(one, news=True)

    async def news(self, version: int, timeout_s: float) -> bool:
        """Wait until the feed is woken after ``version``; false when the time is over."""
        if self.version != version:
            return True
        waiting: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.add(waiting)
        timer = self._loop.call_later(timeout_s, partial(_tell, waiting, news=False))
        try:
            return await waiting
        finally:
            timer.cancel()
            self._waiting.discard(waiting)

    async def after(self, seq: int, last: int | None = None) -> list[Entry]:
        """The entries that follow a number without a gap, at most a page; empty where nothing follows yet.

        ``last``: the last number of a run that has ended. Up to it nothing more comes: what is not there was pruned, and is passed
        over.
        """
        if kept := self._chain(seq):
            return kept
        if not last and self._nothing[:2] == (seq, self.stored) and time.monotonic() < self._nothing[2]:
            return []
        asked = (seq, last or 0)
        reading = self._reading.get(asked)
        if reading is None:
            reading = self._reading[asked] = asyncio.create_task(self._read(*asked), name=f"history after {seq}")
            reading.add_done_callback(lambda _: self._reading.pop(asked, None))
        return await asyncio.shield(reading)

    def has_read(self, seq: int) -> bool:
        """Whether a document was read, so that no reader has to look for it."""
        return seq <= self._read_to and not self._has_gap

    def seq_of_parent(self, entry: Entry) -> int:
        """The sequence number of the checkpoint before a checkpoint; 0 where there is none, or it was not read of late."""
        return 0 if entry.parent is None else self._seqs.get(entry.parent, 0)

    async def run(self, run_id: str) -> RunRecord | None:
        """A run that an entry belongs to."""
        if run_id not in self._runs:
            if len(self._runs) > PAGE:
                self._runs.pop(next(iter(self._runs)))
            self._runs[run_id] = await self._history.run(run_id, self.thread_id, self.tenant)
        return self._runs[run_id]

    def shrink(self) -> bool:
        """Drop the document that was read longest ago; false where there is none."""
        if not self._following:
            return False
        self._drop(next(iter(self._following)))
        return True

    def _keep(self, before: int, entry: Entry) -> None:
        self._drop(before)
        self._following[before] = entry
        self.nbytes += entry.nbytes
        entry.kept_by = self

    def _drop(self, before: int) -> None:
        entry = self._following.pop(before, None)
        if entry is not None:
            self.nbytes -= entry.nbytes
            entry.kept_by = None

    def _chain(self, seq: int) -> list[Entry]:
        """What is kept of what follows a number."""
        found: list[Entry] = []
        while len(found) < PAGE and (entry := self._following.get(seq)) is not None:
            found.append(entry)
            seq = entry.seq
        return found

    async def _read(self, seq: int, last: int) -> list[Entry]:
        after, stored = seq, self.stored
        while True:
            found = [Entry(document, self._say) for document in await self._history.page(self.thread_id, after)]
            if found or after + PAGE > last:
                break
            after += PAGE
        entries = [*_without_gaps(found, seq, last)]
        before = seq
        for entry in entries:
            self._keep(before, entry)
            before = entry.seq
            if entry.checkpoint_id is not None:
                self._seqs[entry.checkpoint_id] = entry.seq
        while len(self._seqs) > KEPT_ENTRIES:
            del self._seqs[next(iter(self._seqs))]
        self._read_to, self._has_gap = max(self._read_to, before), len(entries) < len(found)
        if before + GAP <= after + PAGE:
            self._nothing = (before, stored, time.monotonic() + NOTHING_S)
        while len(self._following) > KEPT_ENTRIES:
            self.shrink()
        if entries:
            self._kept.trim()
        return entries

    async def _say(self, document: Mapping[str, Any]) -> Said:
        run_id = document.get("run")
        return await self._history.say(document, await self.run(run_id) if isinstance(run_id, str) else None)


class Kept:
    """The feeds of the threads that are read, and how much they keep together."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._feeds: dict[tuple[str, str], Feed] = {}
        self._by_key: dict[bytes, list[Feed]] = {}
        self._trimmed_at = 0.0
        self.passed = Passed()

    def __iter__(self) -> Iterator[Feed]:
        return iter([*self._feeds.values()])

    def __len__(self) -> int:
        return len(self._feeds)

    def of(self, key: bytes | None) -> list[Feed]:
        """The feeds of the thread that records with a key are about, of whatever tenant."""
        return self._by_key.get(key, []) if key is not None else []

    def reads(self, key: bytes) -> bool:
        """Whether somebody reads the thread that records with a key are about. May be called in any thread."""
        return key in self._by_key

    def takes_chunks(self, key: bytes) -> bool:
        """The same for a record with chunks; that it is passed over is remembered. Called in one thread, which reads chunks."""
        if key in self._by_key:
            return True
        self.passed.note(key)
        return key in self._by_key  # whoever opens a feed looks at what was passed over afterwards

    @contextmanager
    def open(self, thread_id: str, tenant: str) -> Iterator[Feed]:
        """The feed of a thread, for one more reader."""
        key = (tenant, thread_id)
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(self._history, thread_id, tenant, self)
            self._by_key[thread_id.encode()] = [*self.of(thread_id.encode()), feed]
        feed.readers += 1
        try:
            yield feed
        finally:
            feed.readers -= 1
            if not feed.readers:
                del self._feeds[key]
                others = [one for one in self.of(thread_id.encode()) if one is not feed]
                if others:
                    self._by_key[thread_id.encode()] = others
                else:
                    del self._by_key[thread_id.encode()]

    def trim(self) -> None:
        """Keep within ``KEPT_BYTES`` and ``RINGS_BYTES``; called often, it looks once in ``TRIM_S``."""
        if time.monotonic() - self._trimmed_at < TRIM_S:
            return
        self._trimmed_at = time.monotonic()
        _shrink([*self._feeds.values()], KEPT_BYTES)
        _shrink([feed.ring for feed in self._feeds.values()], RINGS_BYTES)


def _tell(waiting: asyncio.Future[bool], *, news: bool) -> None:
    if not waiting.done():
        waiting.set_result(news)


def _shrink(some: Sequence[Feed | Ring], limit: int) -> None:
    """Drop the oldest of the largest until all together hold at most ``limit`` bytes."""
    total = sum(one.nbytes for one in some)
    if total <= limit:
        return
    largest = [(-one.nbytes, number, one) for number, one in enumerate(some)]
    heapify(largest)
    while total > limit and largest:
        _, number, one = largest[0]
        before = one.nbytes
        if one.shrink():
            total -= before - one.nbytes
            heapreplace(largest, (-one.nbytes, number, one))
        else:
            heappop(largest)


def _without_gaps(entries: list[Entry], seq: int, last: int) -> Iterator[Entry]:
    """The entries after a number up to the first number that may still come; up to ``last`` none may."""
    closed = max(last, *(entry.seq for entry in entries if entry.closes_gaps), 0)
    expected = max(seq, closed) + 1
    for entry in entries:
        if entry.seq > closed:
            if entry.seq != expected:
                return
            expected += 1
        yield entry
