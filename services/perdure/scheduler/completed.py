"""The deletion of threads that were made for one run with ``on_completion: "delete"`` (ADR 32).

Contract: such a thread is deleted some time after its last run has ended, so that whoever waits for the run can read what came of
it. A thread that waits for somebody or something has not ended. The turns walk over all of them, so that threads which stay for
long keep no other from being deleted. Every step can be repeated; a crash loses none.

Outside: removing what belongs to the thread (``perdure.scheduler.removing``).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from perdure.archive.removing import HIDING, removal
from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.registry.superseding import ACTIVE
from perdure.scheduler.clock import DatabaseClock
from perdure.schemas.documents import RUNS, THREADS, RunStatus, ThreadStatus

log = logger(__name__)

FIELDS: Final = dict.fromkeys(("ended_run_id", "last_run_id", "status", "tenant", "updated_at"), 1)
PORTION: Final = 500
"""Threads that one turn looks at, those at rest for longest first; the next turn goes on after them."""


class Completed:
    """Deletes threads that have ended. Belongs to one event loop.

    Args:
        db: Where they are.
        clock: The database's.
        after_s: How long a thread is kept after its end, in seconds.

    """

    def __init__(self, db: Database, clock: DatabaseClock, after_s: float) -> None:
        self._runs = db[RUNS]
        self._threads = db[THREADS]
        self._clock = clock
        self._after = timedelta(seconds=after_s)
        self._from: datetime | None = None
        """When the last thread that was looked at came to rest; ``None``: the walk begins."""
        self._seen: list[str] = []
        """The threads looked at that came to rest at that very instant."""

    async def turn(self) -> None:
        """Delete what has ended for long enough, of the next threads.

        Raises:
            PyMongoError: the database does not answer.

        """
        span = {"$lte": await self._clock.now() - self._after}
        if self._from is not None:
            span["$gte"] = self._from
        query = {
            "ephemeral": True,
            "updated_at": span,
            "_id": {"$nin": self._seen},
            "ended_run_id": {"$exists": True},
            "interrupts.0": {"$exists": False},
            "archive.state": {"$exists": False},
            "hold": {"$exists": False},
        }
        found = await self._threads.find(query, FIELDS).sort("updated_at", 1).limit(PORTION).to_list(None)
        going = await self._not_ended(found) if found else set()
        for thread in found:
            if thread["_id"] not in going:
                await self._delete(thread)
        self._go_on_after(found)

    def _go_on_after(self, threads: list[dict[str, Any]]) -> None:
        """Remember where the next turn goes on: at the beginning once no more threads follow."""
        if len(threads) < PORTION:
            self._from, self._seen = None, []
            return
        last = threads[-1]["updated_at"]
        seen = [thread["_id"] for thread in threads if thread["updated_at"] == last]
        self._seen = [*self._seen, *seen] if last == self._from else seen
        self._from = last

    async def _not_ended(self, threads: list[dict[str, Any]]) -> set[str]:
        """The threads of which a run is active, or whose last run stopped on the way, at a break point.

        A state update after that run is a run as well, but does not count: it leaves the thread at the break point, or ends it.
        """
        ids = [thread["_id"] for thread in threads]
        standing = [one for one in threads if one.get("status") == ThreadStatus.INTERRUPTED.value]
        last = [one.get("last_run_id") or one["ended_run_id"] for one in standing]
        paused = {"_id": {"$in": last}, "status": RunStatus.INTERRUPTED.value}
        active = {"thread_id": {"$in": ids}, "status": {"$in": ACTIVE}}
        return {run["thread_id"] async for run in self._runs.find({"$or": [paused, active]}, {"thread_id": 1})}

    async def _delete(self, thread: Mapping[str, Any]) -> None:
        query, change = removal(thread)
        done = await self._threads.update_one(query | {"ephemeral": True}, change)
        if done.matched_count:
            await self._runs.update_many({"thread_id": thread["_id"]}, HIDING)
            log.info("thread.completed", thread_id=thread["_id"])
