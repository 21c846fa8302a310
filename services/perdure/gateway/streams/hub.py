"""All streams of one gateway: opens readers, wakes them, and lets them go when the gateway ends.

Contract: costs nothing while nobody reads. A reader is woken by the events of its thread; a poll replaces these while Kafka is
away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from perdure.gateway.stores.store import Store
from perdure.gateway.streams.feed import Kept
from perdure.gateway.streams.history import History
from perdure.gateway.streams.reader import RunReader, Wanted
from perdure.gateway.streams.telling import WHOLE, Cursor

POLL_S: Final = 0.25


class Streams:
    """Belongs to one event loop."""

    def __init__(self, history: History, store: Store) -> None:
        self._history = history
        self._store = store
        self._kept = Kept(history)
        self._polling: asyncio.Task[None] | None = None

    async def run_events(
        self, run: Mapping[str, Any], wanted: Wanted, cursor: Cursor | None
    ) -> AsyncGenerator[bytes, None]:
        """The events of a run from a place on; ``None``: from now on."""
        with self._kept.open(run["thread_id"], run["tenant"]) as feed:
            self._poll()
            start = await self._place(run, cursor)
            reader = RunReader(feed, self._store, run, wanted, start)
            events = reader.events()
            try:
                async for part in events:
                    yield part
            finally:
                await events.aclose()

    def close(self) -> None:
        """Let everybody go: they come back to another instance."""
        if self._polling is not None:
            self._polling.cancel()
        for feed in self._kept:
            feed.closing = True
            feed.wake()

    async def _place(self, run: Mapping[str, Any], cursor: Cursor | None) -> Cursor:
        first = await self._history.first_seq(run)
        if cursor is None:
            newest = run.get("ended_seq") or await self._history.newest(run["thread_id"], first - 1)
            before = newest - 1 if run.get("ended_seq") else newest
            return Cursor(before, WHOLE)
        return max(cursor, Cursor(first - 1, WHOLE))

    def _poll(self) -> None:
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._wake(), name="streams-poll")

    async def _wake(self) -> None:
        while feeds := [*self._kept]:
            await asyncio.sleep(POLL_S)
            for feed in feeds:
                feed.wake()
