"""One reader of one run: a cursor in the history of its thread.

Contract: events come in the order of the history, each once, from the place after the cursor on; what belongs to other runs of the
thread, to modes that were not asked for and, unless asked, to subgraphs is left out. The end of the run ends the reader, also where
the run is gone. An outage of the database is waited out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, TypeVar

from perdure.chassis.telemetry import logger
from perdure.checkpoint import keys
from perdure.checkpoint.errors import NotebookError
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.stores.store import Store
from perdure.gateway.streams.asking import MESSAGES
from perdure.gateway.streams.feed import Entry, Feed
from perdure.gateway.streams.live import Live
from perdure.gateway.streams.open_answer import Closing
from perdure.gateway.streams.sse import event_bytes
from perdure.gateway.streams.telling import ALWAYS, WHOLE, Cursor, Said, Told, numbered, told
from perdure.schemas.documents import RunStatus
from perdure.schemas.stream import EPHEMERAL_MODES

log = logger(__name__)
T = TypeVar("T")

LOOK_AT_RUN_S: Final = 5.0
"""How often a reader that is told nothing looks whether its run is still there, in seconds, whatever wakes it meanwhile."""
BATCH_BYTES: Final = 64 * 1024
"""Events that are there are sent together up to so many bytes."""
BATCH_S: Final = 0.02
"""Events are made for so long at once, in seconds."""
AGAIN_S: Final = 1.0
PATIENCE_S: Final = 0.25
"""How long who is told only chunks waits for what they say of the history before it is read."""
GRACE_S: Final = 2.5
"""How long a document waits for the chunks before it, in seconds: both come through Kafka, by two topics."""
LIVE_S: Final = 5.0
"""A document that is older does not wait, in seconds."""


@dataclass(frozen=True)
class Wanted:
    """What a reader asked for."""

    modes: frozenset[str]
    subgraphs: bool = False

    @property
    def only_chunks(self) -> bool:
        """Whether nothing is told of what documents say, but for what every stream tells and what stands for chunks."""
        return self.modes <= EPHEMERAL_MODES

    def takes(self, event: Told) -> bool:
        """Whether an event is told; both forms of messages are not told at once."""
        if event.mode == ALWAYS:
            return True
        if event.ns and not self.subgraphs:
            return False
        if event.mode == "messages" and "messages-tuple" in self.modes:
            return False
        return event.mode in self.modes

    def sent(self, event: Told, said: Said) -> bytes:
        """An event as it is sent; ``said``: what it is part of."""
        return event_bytes(event.name, event.data, f"{said.seq}-{event.number}")


class RunReader:
    """Reads one run from a place on.

    Args:
        feed: Of the run's thread.
        store: To look whether the run is still there.
        run: Its document.
        wanted: What is told.
        cursor: Where it begins.
        live: The run's chunks; ``None`` where none are told.
        streams: Whether the workers were asked to tell chunks when the run was started.
        ask: Asks the worker that began with an entry to tell chunks.

    """

    def __init__(
        self,
        feed: Feed,
        store: Store,
        run: Mapping[str, Any],
        wanted: Wanted,
        cursor: Cursor,
        live: Live | None = None,
        *,
        streams: bool = False,
        ask: Callable[[int], None] | None = None,
    ) -> None:
        self._feed = feed
        self._store = store
        self._run = run
        self._wanted = wanted
        self._cursor = cursor
        self._live = live
        self._streams = streams
        self._ask = ask
        self.gone = False
        """Whether the run was found to be over without an entry that says so."""
        self._held: tuple[int, float] = (0, 0.0)
        """The document that waits for the chunks before it, and until when (monotonic)."""
        self._ended = False
        self._looked = -1
        """``Feed.stored`` when nothing followed in the history."""
        self._look_at = time.monotonic() + LOOK_AT_RUN_S
        """When it is looked whether the run is still there (monotonic)."""
        self._news_since: float | None = None
        """Since when something may be in the history that was not read (monotonic)."""

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events as they are sent, several together where they are there.

        Raises:
            Closing: the gateway ends.

        """
        while not self._ended:
            version = self._feed.version
            if self._feed.closing:
                raise Closing
            for part in batches(self._live_chunks()):
                yield part
                self._look_later()
            hold_s = 0.0
            entries = await self._stored()
            for entry in entries:
                if hold_s := self._hold(entry):
                    break
                for part in batches(chain(await self._tell(entry), self._chunks())):
                    yield part
                if self._ended:
                    return
                if self._is_own(entry):
                    self._look_later()
            rest_s = self._look_at - time.monotonic()
            if hold_s:
                await self._feed.news(version, hold_s)
            elif rest_s <= 0:
                self._looked = -1
                self._look_later()
                await self._look_at_run()
            elif not entries:
                await self._feed.news(version, self._patience_s() or rest_s)

    @property
    def cursor(self) -> Cursor:
        """How far it got."""
        return self._cursor

    async def _stored(self) -> list[Entry]:
        """What follows in the history; it is not looked for again while only chunks come."""
        if self._patience_s():
            return []
        stored, self._news_since = self._feed.stored, None
        if stored == self._looked and not (self._live and self._live.waits_for_history(self._cursor.seq)):
            return []
        entries = await self._feed.after(position(self._cursor), self._last())
        if not entries:
            self._looked = stored
        return entries

    def _last(self) -> int | None:
        return self._run.get("ended_seq") if not RunStatus(self._run["status"]).active else None

    def _chunks(self) -> Iterable[bytes]:
        """The chunks that come after what was told; each is made when it is asked for."""
        if self._live is None or self._cursor.said != WHOLE:
            return ()
        return self._live.pump(self._cursor.seq)

    def _live_chunks(self) -> Iterator[bytes]:
        """The chunks that come after what was told, and after checkpoints that say nothing to who is told only chunks."""
        yield from self._chunks()
        while self._wanted.only_chunks and self._cursor.said == WHOLE:
            if self._live is None or not self._live.passes(self._cursor.seq + 1):
                return
            self._cursor = Cursor(self._cursor.seq + 1, WHOLE)
            self._live.passed()
            self._look_later()
            yield from self._chunks()

    def _patience_s(self) -> float:
        """For how many seconds chunks may yet say that nothing has to be read; 0 where it has to be, or nothing is new."""
        if not self._wanted.only_chunks or self._live is None or not self._live.is_whole or not self._chunks_come():
            return 0
        if self._feed.stored == self._looked or self._live.knows(self._cursor.seq + 1):
            return 0
        if self._news_since is None:
            self._news_since = time.monotonic()
        return max(0.0, self._news_since + PATIENCE_S - time.monotonic())

    def _chunks_come(self) -> bool:
        """Whether the worker tells chunks of the run, and they are read as they come."""
        return self._feed.chunks_come and (self._streams or self._run["_id"] in self._feed.ring.runs)

    def _hold(self, entry: Entry) -> float:
        """For how many seconds to wait for chunks that come before an entry; 0 where none do, or they are given up."""
        if self._live is None or not self._is_own(entry) or self._live.knows(entry.seq):
            return 0
        if not self._chunks_come():
            return 0
        if time.time() - entry.at > LIVE_S:
            return 0
        if self._held[0] != entry.seq:
            self._held = (entry.seq, time.monotonic() + GRACE_S)
        return max(0.0, self._held[1] - time.monotonic())

    async def _tell(self, entry: Entry) -> list[bytes]:
        """What an entry says, from the cursor on."""
        skipped = self._cursor.said if entry.seq == self._cursor.seq else 0
        parts: list[bytes] = []
        if self._is_own(entry):
            if self._live is not None:
                self._live.close(entry.seq)
            if not entry.ns or self._wanted.subgraphs:
                said = self._brief(entry) or await saying(entry)
                whole = self._live is None or not self._live.told_since(said.since)
                parts = [*chosen(said, self._wanted, skipped, whole=whole)]
        self._cursor = Cursor(entry.seq, WHOLE)
        if entry.begins and self._is_own(entry) and self._ask is not None:
            self._ask(entry.seq)
        if self._live is not None:
            self._live.passed()
        self._ended = entry.ends and self._is_own(entry)
        return parts

    def _brief(self, entry: Entry) -> Said | None:
        """What an entry says to a reader that is told only chunks and got them; ``None`` where more has to be read to know."""
        if not self._wanted.only_chunks:
            return None
        says_messages = entry.kind == keys.CHECKPOINT and self._wanted.modes & MESSAGES
        if says_messages and not (self._live and self._live.told_since(self._feed.seq_of_parent(entry))):
            return None
        return entry.said_briefly()

    def _is_own(self, entry: Entry) -> bool:
        return bool(entry.run_id == self._run["_id"])

    def _look_later(self) -> None:
        self._look_at = time.monotonic() + LOOK_AT_RUN_S

    async def _look_at_run(self) -> None:
        """Notice that the run ended without an entry that could be read, or that it is gone."""
        try:
            run = await self._store.run_even_deleted(self._run["_id"], self._run["thread_id"], self._run["tenant"])
        except RequestProblem:
            return  # the database is away: it is asked again
        if run is not None:
            self._run = run
        last = self._last()
        self._ended = self.gone = run is None or (last is not None and self._cursor.seq >= last)


def position(cursor: Cursor) -> int:
    """The number after which the next document is read; one that was told in part is read again."""
    return cursor.seq if cursor.said == WHOLE else max(cursor.seq - 1, 0)


async def saying(entry: Entry) -> Said:
    """What an entry says, however long the database is away; where its state is damaged, an error in its place."""
    try:
        return await retry_through_outage(entry.said)
    except NotebookError as error:
        log.exception("gateway.damaged_state")
        failure = {"error": "damaged-state", "message": str(error)}
        return Said(entry.seq, entry.run_id, entry.ns, numbered([told(ALWAYS, "", failure, event="error")]))


async def retry_through_outage(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask the database again until it answers: a stream that was opened cannot be refused any more."""
    while True:
        try:
            return await ask()
        except RequestProblem as problem:
            if not problem.retryable:
                raise
        await asyncio.sleep(AGAIN_S)


def chosen(said: Said, wanted: Wanted, skipped: int, *, whole: bool) -> Iterator[bytes]:
    """The events that a reader asked for, after the first ones, as they are sent; ``whole``: with what stands for chunks."""
    for event in said.events:
        if event.number > skipped and wanted.takes(event) and (whole or not event.whole):
            yield wanted.sent(event, said)


def batches(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Several events together, where they are small and made quickly: others have their turn between two batches."""
    waiting: list[bytes] = []
    size, since = 0, time.monotonic()
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= BATCH_BYTES or time.monotonic() - since > BATCH_S:
            yield b"".join(waiting)
            waiting, size, since = [], 0, time.monotonic()
    if waiting:
        yield b"".join(waiting)
