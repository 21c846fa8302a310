"""The index again, from MongoDB, while everything goes on.

Contract: :func:`rebuild` writes every stored history entry and note into new indices and then moves the aliases to them in one
step; until then searches see the old ones, afterwards the new ones. Nothing that arrives meanwhile is missing, because the store
has every entry before Kafka has its event (ADR 2): after the aliases have moved and the old indices are blocked, no indexer can
write to an old one, and a second pass writes what happened since the first began. Both passes only add what is not there.

The old indices are deleted at the end. A rebuild that dies leaves indices without aliases; the next one removes them.

Archived threads are read from the archive; without ``PERDURE_ARCHIVE_URL`` a rebuild with archived threads is refused, for they
would be lost to search.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from perdure.chassis.clock import now
from perdure.chassis.errors import UnavailableError
from perdure.chassis.mongo import connect, database
from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.chassis.service import run_service
from perdure.chassis.telemetry import logger
from perdure.indexer import indices
from perdure.indexer.bulk import Item, newest_item, state_item
from perdure.indexer.domain import newest
from perdure.indexer.indices import Layout
from perdure.indexer.rules import load
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.source import Source
from perdure.indexer.writer import Writer
from perdure.schemas.index import REFRESH_INTERVALS, STATES, STATES_WRITE, THREADS, IndexDocument

log = logger("perdure.indexer.rebuild")

T = TypeVar("T")

SWITCH_ATTEMPTS: Final = 5
MARGIN: Final = timedelta(minutes=5)
"""Clocks of workers may be this far behind ours when the second pass looks for what changed."""

Progress = Callable[["RebuildReport"], None]


@dataclass(slots=True)
class RebuildReport:
    """How far a rebuild is, or what it did.

    Attributes:
        phase: ``first pass``, ``switching``, ``second pass``, ``removing`` or ``done``.
        fraction: Of the phase, from 0 to 1.
        runs: Runs read so far.
        states: State documents written so far; one that both passes wrote counts twice.
        refused: Documents that OpenSearch will not take.
        states_index: The new states index.
        threads_index: The new threads index.
        removed: The old indices that were deleted.

    """

    phase: str
    fraction: float = 0.0
    runs: int = 0
    states: int = 0
    refused: int = 0
    states_index: str = ""
    threads_index: str = ""
    removed: tuple[str, ...] = ()


async def rebuild(settings: IndexerSettings, progress: Progress | None = None) -> RebuildReport:
    """Rebuild the index.

    Args:
        settings: Addresses, redaction rules and limits, as for the indexer.
        progress: Called with the report as it is, whenever it changed.

    Raises:
        IndicesGoneError: another rebuild was started meanwhile.
        ConfigurationError: the redaction rules or addresses cannot be used.
        OpenSearchRefusedError: OpenSearch refuses what the rebuild needs.

    """
    redaction = load(settings.redaction_file, settings.redaction_key)
    client = OpenSearch(settings.opensearch, timeout_s=60.0)
    mongo = connect(settings.mongodb)
    try:
        source = Source(database(mongo, settings.mongodb), redaction, settings)
        return await _Rebuild(client, source, settings, progress or (lambda _: None)).run()
    finally:
        mongo.close()
        await client.close()


class _Rebuild:
    def __init__(self, client: OpenSearch, source: Source, settings: IndexerSettings, progress: Progress) -> None:
        self._client = client
        self._source = source
        self._settings = settings
        self._progress = progress
        self._report = RebuildReport("first pass")

    async def run(self) -> RebuildReport:
        started = now()
        stamp = started.strftime("%Y%m%d%H%M%S")
        new = Layout(f"{STATES}-{stamp}-000001", f"{THREADS}-{stamp}-000001")
        self._report.states_index, self._report.threads_index = new.states, new.threads
        await self._source.archived.require_store()
        await patiently(lambda: self._prepare(new))
        writer = Writer(self._client, self._settings, fixed=new)
        await self._pass(writer, "first pass", {})
        await self._archived(writer, None)
        self._enter("switching")
        old = await patiently(lambda: self._switch(new))
        switched = time.monotonic()
        # A note may be about a run whose document did not change.
        noted = await self._source.noted_since(started - MARGIN)
        restored = await self._source.archived.restored_since(started - MARGIN)
        changed = {
            "$or": [
                {"_id": {"$in": noted}},
                {"thread_id": {"$in": restored}},
                {"status": {"$in": ["pending", "running"]}},
                {"updated_at": {"$gte": started - MARGIN}},
                {"ended_at": {"$gte": started - MARGIN}},
            ]
        }
        await self._pass(writer, "second pass", changed)
        await self._archived(writer, started - MARGIN)
        await patiently(lambda: self._client.request("POST", f"/{new.states},{new.threads}/_refresh"))
        if old:
            # By then every indexer has looked at the aliases: none makes an old index anew by writing to it.
            self._enter("removing")
            await asyncio.sleep(max(0.0, switched + self._settings.index_rollover_check_s + 1 - time.monotonic()))
            await patiently(lambda: self._delete(old))
        self._report.removed = tuple(old)
        self._enter("done")
        return self._report

    def _enter(self, phase: str, fraction: float = 0.0) -> None:
        self._report.phase, self._report.fraction = phase, 1.0 if phase == "done" else fraction
        self._progress(self._report)

    async def _prepare(self, new: Layout) -> None:
        await indices.ensure(self._client, self._settings.index_shards)
        await self._remove_left_overs()
        for name in (new.states, new.threads):
            # Nobody searches them yet: refreshing can wait.
            await self._client.request("PUT", f"/{name}", {"settings": {"index.refresh_interval": "-1"}})

    async def _remove_left_overs(self) -> None:
        found = await self._client.request("GET", f"/{STATES}-*,{THREADS}-*/_alias")
        left = [name for name, index in found.items() if not index["aliases"]]
        if left:
            log.warning("rebuild.removing_left_overs", indices=left)
            await self._delete(left)

    async def _delete(self, names: Sequence[str]) -> None:
        await self._client.request("DELETE", f"/{','.join(names)}", params={"ignore_unavailable": "true"})

    async def _switch(self, new: Layout) -> list[str]:
        """Move the aliases in one step; then no old index takes a write. Returns the old indices."""
        for name, index in ((STATES, new.states), (THREADS, new.threads)):
            settings = {"index.refresh_interval": REFRESH_INTERVALS[name]}
            await self._client.request("PUT", f"/{index}/_settings", settings)
        await self._client.request("POST", f"/{new.states},{new.threads}/_refresh")
        for attempt in range(SWITCH_ATTEMPTS):
            try:
                return await self._move_aliases(new)
            except OpenSearchRefusedError as error:
                # An indexer began a new index between our look and our move: look again.
                if attempt + 1 == SWITCH_ATTEMPTS:
                    raise
                log.info("rebuild.switch_again", reason=str(error))
        raise AssertionError("unreachable")

    async def _move_aliases(self, new: Layout) -> list[str]:
        found = await self._client.request("GET", f"/{STATES}-*,{THREADS}-*/_alias")
        old = [name for name in found if name not in {new.states, new.threads}]
        actions: list[dict[str, Any]] = [
            {"remove": {"index": name, "alias": alias}} for name in old for alias in found[name]["aliases"]
        ]
        actions += [
            {"add": {"index": new.states, "alias": STATES}},
            {"add": {"index": new.states, "alias": STATES_WRITE, "is_write_index": True}},
            {"add": {"index": new.threads, "alias": THREADS}},
        ]
        await self._client.request("POST", "/_aliases", {"actions": actions})
        if old:
            await indices.block(self._client, ",".join(old))
        return old

    async def _pass(self, writer: Writer, phase: str, condition: dict[str, Any]) -> None:
        self._enter(phase)
        total, read = await self._source.count(), 0
        async for page in self._source.pages(condition):
            async for found in self._source.documents(page.runs):
                await self._write(writer, found)
            read += len(page.runs)
            self._report.runs += len(page.runs)
            self._enter(phase, min(1.0, read / max(1, total)))

    async def _archived(self, writer: Writer, since: datetime | None) -> None:
        """After the runs: a thread that goes to the archive meanwhile is there before its runs are deleted."""
        async for runs, found in self._source.archived.documents(since):
            await self._write(writer, found)
            self._report.runs += runs

    async def _write(self, writer: Writer, found: list[IndexDocument]) -> None:
        items: list[Item] = [state_item(document) for document in found]
        items += [newest_item(document) for document in newest(found).values()]
        refused = await writer.write(items)
        for _, why in refused:
            log.error("rebuild.refused", reason=why)
        self._report.states += len(found)
        self._report.refused += len(refused)


async def patiently(step: Callable[[], Awaitable[T]]) -> T:
    """Run an idempotent step; wait while OpenSearch does not answer."""
    while True:
        try:
            return await step()
        except UnavailableError as error:
            log.warning("rebuild.waiting", reason=str(error))
            await asyncio.sleep(1.0)


async def main(settings: IndexerSettings, stopping: asyncio.Event) -> None:
    """``python -m perdure.indexer.rebuild``: rebuild, with progress on stderr."""
    last = ""

    def show(report: RebuildReport) -> None:
        nonlocal last
        now = f"{report.phase} {report.fraction:.0%}"
        if now != last:
            last = now
            log.info("rebuild.progress", phase=report.phase, percent=round(100 * report.fraction), states=report.states)

    work = asyncio.ensure_future(rebuild(settings, show))
    asked = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((work, asked), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            sys.exit("rebuild: stopped before its end; the index is as it was before, run it again")
        report = work.result()
        log.info("rebuild.done", runs=report.runs, states=report.states, refused=report.refused)
    finally:
        for task in (work, asked):
            task.cancel()
        await asyncio.gather(work, asked, return_exceptions=True)


if __name__ == "__main__":
    run_service("index-rebuild", IndexerSettings, main)
