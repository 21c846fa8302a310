"""One reader of all runs of a thread, one after another.

Contract: each run is told with the modes that it was started with; its end is an event ``metadata`` with ``status: run_done``. The
reader stays when the thread is at rest, and ends when the thread is removed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.responses import as_json
from perdure.gateway.stores.store import Store
from perdure.gateway.streams.feed import Entry, Feed
from perdure.gateway.streams.live import Live
from perdure.gateway.streams.open_answer import Closing
from perdure.gateway.streams.reader import (
    LOOK_AT_RUN_S,
    RunReader,
    Wanted,
    batches,
    chosen,
    position,
    retry_through_outage,
    saying,
)
from perdure.gateway.streams.sse import event_bytes
from perdure.gateway.streams.telling import ALWAYS, WHOLE, Cursor, Said, Told
from perdure.schemas.documents import RunKind
from perdure.schemas.stream import EPHEMERAL_MODES

KINDS: Final = frozenset({"run_modes", "lifecycle", "state_update"})
"""What a thread's stream may be asked for."""


@dataclass(frozen=True)
class WantedOfThread(Wanted):
    """What a reader of a thread is told of one of its runs."""

    kinds: frozenset[str] = frozenset()

    @property
    def only_chunks(self) -> bool:
        """Whether nothing is told of what documents say, but for what every stream tells and what stands for chunks."""
        return super().only_chunks and "state_update" not in self.kinds

    def takes(self, event: Told) -> bool:
        """Whether an event is told."""
        if event.mode == "state_update":
            return "state_update" in self.kinds
        if "run_modes" in self.kinds:
            return super().takes(event)
        return "lifecycle" in self.kinds and event.mode == ALWAYS and event.event in {"metadata", "end"}

    def sent(self, event: Told, said: Said) -> bytes:
        """An event as it is sent: the end of a run does not end the stream."""
        if event.mode == ALWAYS and event.event == "end":
            done = as_json({"status": "run_done", "run_id": said.run_id})
            return event_bytes("metadata", done, f"{said.seq}-{event.number}")
        return super().sent(event, said)


class ThreadReader:
    """Reads a thread from a place on."""

    def __init__(
        self, feed: Feed, store: Store, thread: Mapping[str, Any], kinds: frozenset[str], cursor: Cursor
    ) -> None:
        self._feed = feed
        self._store = store
        self._thread = thread
        self._kinds = kinds
        self._cursor = cursor

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events as they are sent.

        Raises:
            Closing: the gateway ends.

        """
        look_at = time.monotonic() + LOOK_AT_RUN_S
        while True:
            version = self._feed.version
            if self._feed.closing:
                raise Closing
            last = self._last()
            entries = await self._feed.after(position(self._cursor), last)
            if entries:
                async with aclosing(self._told(entries[0])) as parts:
                    async for part in parts:
                        yield part
                look_at = time.monotonic() + LOOK_AT_RUN_S
            elif self._cursor.seq < last:
                self._cursor = Cursor(last, WHOLE)
            elif (rest_s := look_at - time.monotonic()) > 0:
                await self._feed.news(version, rest_s)
            elif await self._is_removed():
                return
            else:
                look_at = time.monotonic() + LOOK_AT_RUN_S

    def _last(self) -> int:
        """The last number of the runs that have ended: what is missing before it was pruned. 0: nothing is known to be pruned."""
        return 0 if self._thread.get("archive") else int(self._thread.get("seq") or 0)

    async def _told(self, entry: Entry) -> AsyncGenerator[bytes, None]:
        """What an entry says, and, where it belongs to a run, all the rest of that run."""
        record = None
        if entry.run_id is not None and not self._is_told(entry):
            record = await retry_through_outage(partial(self._feed.run, entry.run_id))
        if record is None:
            skipped = self._cursor.said if entry.seq == self._cursor.seq else 0
            wanted = WantedOfThread(frozenset(), kinds=self._kinds)
            for part in batches([*chosen(await saying(entry), wanted, skipped, whole=True)]):
                yield part
            self._cursor = Cursor(entry.seq, WHOLE)
            return
        asked = record.facts.payload.get("stream") or {}
        kinds = self._kinds
        if record.document.get("kind") == RunKind.UPDATE:
            kinds &= {"state_update"}  # no run to clients of the Agent Server
        modes = frozenset(asked.get("modes") or ("values",))
        subgraphs = bool(asked.get("subgraphs"))
        wanted = WantedOfThread(modes, subgraphs, kinds)
        live = None
        if "run_modes" in kinds and modes & EPHEMERAL_MODES:
            live = Live(
                self._feed.ring, record.facts.id, modes, subgraphs=subgraphs, told=self._cursor.chunks,
                complete_from=0 if entry.begins else self._cursor.seq,
            )  # fmt: skip
        start = Cursor(self._cursor.seq, self._cursor.said)
        streams = bool(modes & EPHEMERAL_MODES)
        reader = RunReader(self._feed, self._store, record.document, wanted, start, live, streams=streams)
        async with aclosing(reader.events()) as events:
            async for part in events:
                yield part
        self._cursor = max(reader.cursor, Cursor(entry.seq, WHOLE))

    def _is_told(self, entry: Entry) -> bool:
        """Whether an entry was told, and is read again only because the reader began there."""
        return entry.seq == self._cursor.seq and self._cursor.said == WHOLE

    async def _is_removed(self) -> bool:
        try:
            thread = await self._store.thread(self._thread["_id"], self._thread["tenant"])
        except RequestProblem:
            return False  # the database is away: it is asked again
        self._thread = thread or self._thread
        return thread is None
