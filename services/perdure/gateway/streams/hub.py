"""All streams of one gateway: opens readers, wakes them, and lets them go when the gateway ends.

Contract: costs nothing while nobody reads. A reader is woken by the events of its thread; a poll replaces these while Kafka is
away. What nodes say while they run is read from Kafka while somebody reads it, and read back for those who come later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final, Protocol

from perdure.chassis.kafka.deadletter import Origin
from perdure.chassis.kafka.settings import KafkaAddress
from perdure.chassis.kafka.tail import Tail, read_back
from perdure.gateway.stores.store import Store
from perdure.gateway.streams.asking import Asking
from perdure.gateway.streams.chunks import NEVER, ChunkRecord, read_records
from perdure.gateway.streams.feed import Feed, Kept
from perdure.gateway.streams.history import History
from perdure.gateway.streams.live import Live
from perdure.gateway.streams.reader import RunReader, Wanted, retry_through_outage
from perdure.gateway.streams.sse import event_bytes
from perdure.gateway.streams.telling import BEGINNING, WHOLE, Cursor
from perdure.gateway.streams.thread_reader import ThreadReader
from perdure.schemas.events import RunCancelled, RunFailed, RunInterrupted, RunSucceeded, RunTimedOut
from perdure.schemas.stream import EPHEMERAL_MODES
from perdure.schemas.topics import EVENTS, STREAM

POLL_S: Final = 1.0
"""How often it is looked for news while Kafka is away, in seconds."""
LINGER_S: Final = 30.0
"""How long Kafka is read on after the last reader went, in seconds."""
OPEN_S: Final = 2.0
"""How long a reader waits for Kafka at its beginning, in seconds."""
BACK_RECORDS: Final = 20_000
BACK_S: Final = 3.0
BACK_AT_ONCE: Final = 4
HOUR_S: Final = 3_600.0
END_TYPES: Final = frozenset(
    one.TYPE.encode() for one in (RunCancelled, RunFailed, RunInterrupted, RunSucceeded, RunTimedOut)
)
END: Final = event_bytes("end", b"null", None)
SKEW_S: Final = 1.0
"""What clocks differ, in seconds, at most: so much more is read back."""


class Ends(Protocol):
    """Somebody who waits for ends of runs."""

    @property
    def busy(self) -> bool:
        """Whether any is waited for."""

    def wants(self, key: bytes) -> bool:
        """Whether one of the thread with this key is. Called in another thread."""

    def soon(self, thread_id: str, run_id: str) -> None:
        """A run of a thread has ended; its document says so in a moment."""


class Streams:
    """Belongs to one event loop.

    Args:
        history: Of all threads.
        store: Runs.
        asking: Asks workers to tell more of a run.
        kafka: Where the brokers are.
        client_id: What it calls this gateway.

    """

    def __init__(self, history: History, store: Store, asking: Asking, kafka: KafkaAddress, client_id: str) -> None:
        self._history = history
        self._store = store
        self._asking = asking
        self._kafka = kafka
        self._client_id = client_id
        self._kept = Kept(history)
        self._ends: list[Ends] = []
        self._events = Tail(kafka, client_id, EVENTS.name, self._reads, self._take_events)
        self._chunks = Tail(kafka, client_id, STREAM.name, self._kept.takes_chunks, self._take_chunks)
        self._reading_back = asyncio.Semaphore(BACK_AT_ONCE)
        self._watching: asyncio.Task[None] | None = None

    async def run_events(
        self,
        run: Mapping[str, Any],
        wanted: Wanted,
        cursor: Cursor | None,
        *,
        started: Mapping[str, Any],
        fresh: bool = False,
        after: int | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The events of a run.

        Args:
            run: Its document.
            wanted: What is told.
            cursor: Where to begin; ``None``: from now on.
            started: ``stream`` of the run's payload: what workers tell of it in any case.
            fresh: Whether it was started just now, for this reader.
            after: A sequence number of its thread that all entries of the run are after, where one is known.

        """
        with self._kept.open(run["thread_id"], run["tenant"]) as feed:
            self.listen()
            if wanted.modes & EPHEMERAL_MODES:
                self._chunks.start()
                if feed.ring.since == NEVER:
                    feed.ring.begin(self._complete_since(run) if fresh else time.time())
            first = await self._first(run) if after is None else after + 1
            start = await self._place(run, cursor, first)
            live, ask = None, None
            if wanted.modes & EPHEMERAL_MODES:
                feed.chunks_come = await self._chunks.until_open(OPEN_S)
                if cursor is not None:
                    await self._read_back(feed, run, start, fresh=fresh)
                ask = partial(self._ask, run, wanted, started)
                ask(0)
                live = Live(
                    feed.ring,
                    run["_id"],
                    wanted.modes,
                    subgraphs=wanted.subgraphs,
                    told=cursor.chunks if cursor is not None else 0,
                    complete_from=0 if cursor == BEGINNING else start.seq,
                )
            streams = bool(frozenset(started.get("modes") or ()) & EPHEMERAL_MODES)
            reader = RunReader(feed, self._store, run, wanted, start, live, streams=streams, ask=ask)
            async with aclosing(reader.events()) as events:
                async for part in events:
                    yield part
            if reader.gone:
                yield END

    async def thread_events(
        self, thread: Mapping[str, Any], kinds: frozenset[str], cursor: Cursor | None
    ) -> AsyncGenerator[bytes, None]:
        """The events of all runs of a thread, until the thread is removed.

        Args:
            thread: Its document.
            kinds: Of ``KINDS``.
            cursor: Where to begin; ``None``: from now on.

        """
        with self._kept.open(thread["_id"], thread["tenant"]) as feed:
            self.listen()
            if "run_modes" in kinds:
                self._chunks.start()
                if feed.ring.since == NEVER:
                    feed.ring.begin(time.time())
                feed.chunks_come = await self._chunks.until_open(OPEN_S)
            if cursor is None:
                newest = await self._history.newest(thread["_id"], int(thread.get("seq") or 0))
                cursor = Cursor(newest, WHOLE)
            reader = ThreadReader(feed, self._store, thread, kinds, cursor)
            async with aclosing(reader.events()) as events:
                async for part in events:
                    yield part

    def tell_ends(self, to: Ends) -> None:
        """Tell somebody of ends of runs, while they want any."""
        self._ends.append(to)

    def listen(self) -> None:
        """Begin to read events, unless they are read already."""
        self._events.start()
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._poll(), name="streams")

    def release(self) -> None:
        """Let everybody go: they come back to another instance."""
        for feed in self._kept:
            feed.closing = True
            feed.wake()

    async def close(self) -> None:
        """Stop reading Kafka."""
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(self._events.stop(), self._chunks.stop())

    def _complete_since(self, run: Mapping[str, Any]) -> float:
        """Since when all chunks of a thread come here whose feed was opened just now, for a run that was started just now."""
        created_at: float = run["created_at"].timestamp()
        if self._chunks.opened_at > created_at or self._kept.passed.since(run["thread_id"].encode(), created_at):
            return time.time()  # what the run told before is read back
        return created_at

    def _ask(self, run: Mapping[str, Any], wanted: Wanted, started: Mapping[str, Any], seq: int) -> None:
        """Ask the run's worker to tell what is read."""
        self._asking.ask(run, wanted.modes, subgraphs=wanted.subgraphs, started=started, seq=seq)

    async def _first(self, run: Mapping[str, Any]) -> int:
        return await retry_through_outage(partial(self._history.first_seq, run))

    async def _place(self, run: Mapping[str, Any], cursor: Cursor | None, first: int) -> Cursor:
        if cursor is not None:
            return max(Cursor(cursor.seq, cursor.said), Cursor(first - 1, WHOLE))
        if run.get("ended_seq"):
            return Cursor(int(run["ended_seq"]) - 1, WHOLE)
        return Cursor(await self._history.newest(run["thread_id"], first - 1), WHOLE)

    async def _read_back(self, feed: Feed, run: Mapping[str, Any], start: Cursor, *, fresh: bool) -> None:
        """Read the chunks of a thread that were written since the place where a reader begins, unless they are kept."""
        ring = feed.ring
        since = run["created_at"].timestamp() if fresh else await self._written_at(run, start) - SKEW_S
        since = max(since, time.time() - HOUR_S)
        async with feed.reading_back:
            if since >= ring.since:
                return
            async with self._reading_back:
                origins, complete = await asyncio.to_thread(
                    read_back,
                    self._kafka,
                    f"{self._client_id}-back",
                    STREAM.name,
                    feed.thread_id.encode(),
                    since,
                    records=BACK_RECORDS,
                    within_s=BACK_S,
                )
            if complete:
                ring.add_before(_before(read_records(origins), ring.oldest))
                ring.since = since

    async def _written_at(self, run: Mapping[str, Any], start: Cursor) -> float:
        """When the document was written that a reader begins at, in seconds since 1970; not after it."""
        found = await self._history.page(run["thread_id"], start.seq - 1) if start.seq else []
        own = [one for one in found if one["seq"] == start.seq and one.get("run") == run["_id"]]
        at: float = (own[0]["at"] if own else run["created_at"]).timestamp()
        return at

    def _reads(self, key: bytes) -> bool:
        """Whether events of a thread are wanted. Called in another thread."""
        return self._kept.reads(key) or any(one.wants(key) for one in self._ends)

    def _take_events(self, origins: Sequence[Origin]) -> None:
        for origin in origins:
            headers = dict(origin.headers)
            if headers.get("ce_type") in END_TYPES:
                run_id = headers.get("ce_correlationid")
                for one in self._ends:
                    one.soon((origin.key or b"").decode(), run_id.decode() if isinstance(run_id, bytes) else "")
            for feed in self._kept.of(origin.key):
                if (seq := _seq_of(headers)) is None or not feed.has_read(seq):
                    feed.wake()
        if not origins:
            for feed in self._kept:
                feed.wake()

    def _take_chunks(self, origins: Sequence[Origin]) -> None:
        if not origins:
            for feed in self._kept:
                feed.ring.begin(time.time())
        by_key: dict[bytes | None, list[Origin]] = {}
        for origin in origins:
            by_key.setdefault(origin.key, []).append(origin)
        for key, some in by_key.items():
            feeds = self._kept.of(key)
            records = read_records(some) if feeds else []
            newest = max((record.seq for record in records if record.closes), default=-1)
            for feed in feeds:
                feed.ring.add(records)
                feed.wake(stored=newest >= 0 and not feed.has_read(newest))
        self._kept.trim()

    async def _poll(self) -> None:
        """Wake readers while Kafka is away; stop reading Kafka when nobody has read for a while."""
        idle_since = time.monotonic()
        while True:
            await asyncio.sleep(POLL_S)
            if self._is_read():
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > LINGER_S:
                await asyncio.gather(self._events.stop(), self._chunks.stop())
                if not self._is_read():
                    return
                self._go_on()  # somebody came meanwhile
            self._kept.trim()
            for feed in self._kept:
                feed.chunks_come = self._chunks.open
                if not self._events.open:
                    feed.wake()

    def _is_read(self) -> bool:
        return bool(len(self._kept)) or any(one.busy for one in self._ends)

    def _go_on(self) -> None:
        """Read again, for those who came while reading was being stopped."""
        self._events.start()
        if any(feed.ring.since != NEVER for feed in self._kept):
            self._chunks.start()


def _seq_of(headers: Mapping[str, bytes | str | None]) -> int | None:
    """The sequence number of the entry that an event tells of; ``None`` where it tells of something else."""
    name = headers.get("ce_id")
    number = name.rpartition(b":")[2] if isinstance(name, bytes) else b""
    return int(number) if number.isdigit() else None


def _before(records: list[ChunkRecord], oldest: ChunkRecord | None) -> list[ChunkRecord]:
    """Those of the records that are before the oldest that is kept already."""
    if oldest is None:
        return records
    place = (oldest.run_id, oldest.seq, oldest.closes, oldest.first)
    for index, one in enumerate(records):
        if (one.run_id, one.seq, one.closes, one.first) == place:
            return records[:index]
    return records
