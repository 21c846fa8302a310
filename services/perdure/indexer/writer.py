"""Writing to OpenSearch until it is done.

Contract: :meth:`Writer.write` returns when every item is in the index, or is refused for good; the refused ones are returned
with the reason. It waits out every outage, however long (capped exponential backoff with jitter), and retries only the items
that the server could not take. :attr:`Writer.available` is false meanwhile. Writing the same twice changes nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

from perdure.chassis.errors import PerdureError, UnavailableError
from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.chassis.telemetry import logger
from perdure.indexer import indices
from perdure.indexer.bulk import Item, Outcome, chunks, line, outcome
from perdure.indexer.domain import event_id
from perdure.indexer.forgetting import forget
from perdure.indexer.indices import Layout
from perdure.indexer.settings import IndexerSettings

log = logger(__name__)

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_CAP_S: Final = 10.0

Refused = tuple[Item, str]


class IndicesGoneError(PerdureError):
    """The new indices of a rebuild are gone or blocked: another rebuild was started meanwhile."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(f"{layout.states} and {layout.threads} take no writes: was another rebuild started meanwhile?")


class Writer:
    """The states and threads indices, write side. Belongs to one event loop; one write at a time.

    Args:
        client: OpenSearch.
        settings: Sizes and intervals.
        fixed: Write there, whatever the aliases say, and begin no new index (a rebuild).

    """

    def __init__(self, client: OpenSearch, settings: IndexerSettings, fixed: Layout | None = None) -> None:
        self._client = client
        self._settings = settings
        self._fixed = fixed
        self._layout: Layout | None = fixed
        self._looked_at = 0.0
        self._failures = 0
        self._waiting = False

    @property
    def available(self) -> bool:
        """Whether OpenSearch took what it was given last."""
        return self._layout is not None and not self._waiting

    async def open(self) -> None:
        """Wait until templates, indices and aliases are there."""
        while self._layout is None:
            await self._look()
        self._answered()

    async def write(self, items: Sequence[Item]) -> list[Refused]:
        """Write all; returns those that OpenSearch will never take, with its reasons."""
        await self._look_again()
        refused: list[Refused] = []
        for portion in chunks(items, self._settings.index_batch_bytes):
            waiting: Sequence[Item] = portion
            while waiting:
                waiting = await self._attempt(waiting, refused)
        return refused

    async def forget(self, tenant: str, thread_id: str, spans: Sequence[tuple[int, int]] | None = None) -> int:
        """Remove all documents of a thread, or its states in spans of sequence numbers; how many the last try found."""
        while True:
            try:
                removed = await forget(self._client, tenant, thread_id, spans)
            except (UnavailableError, OpenSearchRefusedError) as error:
                await self._pause(error)
            else:
                self._answered()
                return removed

    async def _attempt(self, items: Sequence[Item], refused: list[Refused]) -> Sequence[Item]:
        """One try; returns the items that are to be tried again, after the pause that they need."""
        layout = self._layout
        if layout is None:
            await self._look()
            return items
        try:
            fresh = await self._fresh(items, layout)
            if not fresh:
                return ()
            body = b"".join([line(item, layout.states, layout.threads) for item in fresh])
            answer = await self._client.bulk(body)
        except UnavailableError as error:
            await self._pause(error)
            return items
        except OpenSearchRefusedError as error:
            return await self._split(items, error, refused)
        again = self._sort_out(fresh, answer, refused) if answer["errors"] else []
        if again:
            await self._pause_for(again)
        else:
            self._answered()
        return [item for item, _, _ in again]

    def _sort_out(
        self, items: Sequence[Item], answer: dict[str, list[dict[str, dict[str, object]]]], refused: list[Refused]
    ) -> list[tuple[Item, Outcome, str]]:
        again: list[tuple[Item, Outcome, str]] = []
        for item, result in zip(items, answer["items"], strict=True):
            what, why = outcome(item, result["index"])
            if what is Outcome.REFUSED:
                refused.append((item, why))
            elif what is not Outcome.DONE:
                again.append((item, what, why))
        return again

    async def _split(
        self, items: Sequence[Item], error: OpenSearchRefusedError, refused: list[Refused]
    ) -> Sequence[Item]:
        """The request as a whole is refused: narrow it down to the items that are to blame."""
        if error.status in {401, 403, 404}:
            await self._pause(error)
            return items
        if len(items) == 1:
            refused.append((items[0], str(error)))
            return ()
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            waiting: Sequence[Item] = half
            while waiting:
                waiting = await self._attempt(waiting, refused)
        return ()

    async def _fresh(self, items: Sequence[Item], layout: Layout) -> Sequence[Item]:
        """Without the states that an older index has already."""
        if not layout.older:
            return items
        skew = self._settings.index_skew_s
        wanted: dict[str, list[str]] = {}
        for item in items:
            if not item.newest:
                for index in layout.older_for(item.document["occurred_at"], skew):
                    wanted.setdefault(index, []).append(event_id(item.document))
        if not wanted:
            return items
        there = await indices.present(self._client, wanted)
        return [item for item in items if item.newest or event_id(item.document) not in there] if there else items

    async def _look_again(self) -> None:
        """Read the aliases again now and then, and begin a new index when the present one is full."""
        settings, layout = self._settings, self._layout
        if layout is None or self._fixed or time.monotonic() - self._looked_at < settings.index_rollover_check_s:
            return
        try:
            await indices.roll_over(
                self._client, layout, max_size=settings.index_rollover_size, max_docs=settings.index_rollover_docs
            )
            await self._read()
        except PerdureError as error:
            # Writing goes on in the present index; the next look is not far.
            self._looked_at = time.monotonic()
            log.warning("index.look_failed", error=str(error))

    async def _read(self) -> None:
        layout = await indices.read_layout(self._client)
        await indices.block_older(self._client, layout)
        self._layout, self._looked_at = layout, time.monotonic()

    async def _look(self) -> None:
        if self._fixed:
            raise IndicesGoneError(self._fixed)
        try:
            await indices.ensure(self._client, self._settings.index_shards)
            await self._read()
        except (UnavailableError, OpenSearchRefusedError) as error:
            await self._pause(error)

    async def _pause_for(self, again: Sequence[tuple[Item, Outcome, str]]) -> None:
        if any(what is Outcome.MOVED for _, what, _ in again):
            log.info("index.moved", reason=again[0][2])
            before, self._layout = self._layout, None
            await self._look()
            if self._layout != before:
                return
        await self._pause(again[0][2])

    async def _pause(self, reason: object) -> None:
        self._waiting = True
        self._failures += 1
        # Much may have changed when it answers again: an index rolled over, rebuilt or lost.
        self._layout = self._fixed
        wait_s = random.uniform(0.5, 1) * min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 16))  # noqa: S311
        log.warning("index.waiting", attempt=self._failures, wait_s=round(wait_s, 2), reason=str(reason)[:500])
        await asyncio.sleep(wait_s)

    def _answered(self) -> None:
        if self._waiting:
            log.info("index.available_again", attempts=self._failures)
        self._waiting = False
        self._failures = 0
