"""The end of threads' time to live (ADR 33).

Contract: a thread whose time is over by the database's clock is marked as removed, which the removal carries out
(``perdure.scheduler.removing``), or loses its older states, once. While a run of the thread is active or has not told everything,
while it is under legal hold, and while it is an item of an open batch, it stays and is looked at again after ``AGAIN``. What a
client changed meanwhile is what counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from prometheus_client import Counter
from pymongo.errors import PyMongoError

from perdure.archive.living import has_new_run
from perdure.archive.pruning import Pruner
from perdure.archive.removing import HIDING, removal
from perdure.chassis.errors import PerdureError
from perdure.chassis.mongo import Database
from perdure.chassis.outage import is_outage
from perdure.chassis.telemetry import logger
from perdure.scheduler.clock import DatabaseClock
from perdure.schemas.batch_documents import BATCHES
from perdure.schemas.documents import RUNS, THREADS, ArchiveState

log = logger(__name__)

EVERY_S: Final = 5.0
"""Between two looks."""
AGAIN: Final = timedelta(seconds=30)
PORTION: Final = 200
"""Threads of one turn, the longest overdue first."""

EXPIRED = Counter("perdure_threads_expired", "Threads whose time to live was over", ["strategy"])


class Expiries:
    """Ends threads whose time is over. Belongs to one event loop."""

    def __init__(self, db: Database, pruner: Pruner, clock: DatabaseClock) -> None:
        self._db = db
        self._pruner = pruner
        self._clock = clock

    async def turn(self) -> None:
        """Look at what is due now; a failure concerns one thread only, which is tried again later.

        Raises:
            PyMongoError: the database does not answer.

        """
        moment = await self._clock.now()
        due = self._db[THREADS].find({"ttl.due_at": {"$lte": moment}}).sort("ttl.due_at", 1).limit(PORTION)
        for thread in await due.to_list(None):
            try:
                await self._end(thread, moment)
            except (PerdureError, PyMongoError) as error:
                if is_outage(error):
                    raise
                log.error("thread.not_expired", thread_id=thread["_id"], error=str(error))
                await self._set_due(thread, moment + AGAIN)

    async def _end(self, thread: Mapping[str, Any], moment: datetime) -> None:
        strategy = thread["ttl"]["strategy"]
        if await self._stays(thread):
            await self._set_due(thread, moment + AGAIN)
        elif strategy == "keep_latest":
            await self._pruner.keep_latest(thread)
            await self._set_due(thread, None)
            EXPIRED.labels(strategy=strategy).inc()
        elif await self._remove(thread):
            EXPIRED.labels(strategy=strategy).inc()

    async def _stays(self, thread: Mapping[str, Any]) -> bool:
        if "hold" in thread or await has_new_run(self._db, thread["_id"]):
            return True
        mark = thread.get("archive")
        if mark is not None and thread["ttl"]["strategy"] == "keep_latest":
            return not ArchiveState(mark["state"]).lives
        batch: Mapping[str, Any] = thread.get("batch") or {}
        open_batch = {"_id": batch.get("id"), "open": True}
        return bool(batch) and await self._db[BATCHES].find_one(open_batch, {"_id": 1}) is not None

    async def _remove(self, thread: Mapping[str, Any]) -> bool:
        query, change = removal(thread)
        change = [*change, {"$unset": "ttl"}]
        marked = await self._db[THREADS].update_one(query | {"ttl.due_at": thread["ttl"]["due_at"]}, change)
        if marked.matched_count:
            await self._db[RUNS].update_many({"thread_id": thread["_id"]}, HIDING)
            log.info("thread.expired", thread_id=thread["_id"])
        elif (thread.get("archive") or {}).get("state") in (ArchiveState.PURGING, ArchiveState.REMOVING):
            await self._set_due(thread, None)  # it is on its way out already
        return bool(marked.matched_count)

    async def _set_due(self, thread: Mapping[str, Any], moment: datetime | None) -> None:
        """Look again at ``moment``, or never; unless a client has changed the time to live."""
        same = {"_id": thread["_id"], "ttl.due_at": thread["ttl"]["due_at"]}
        change = {"$unset": {"ttl.due_at": ""}} if moment is None else {"$set": {"ttl.due_at": moment}}
        await self._db[THREADS].update_one(same, change)
