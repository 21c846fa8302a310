"""Removing archived threads for good, only when somebody asks (ADR 15).

Contract: :func:`plan` changes nothing. :meth:`Purger.purge` removes one thread: its search documents, its object, what is left of
it in the database, and last its own document, so that a purge that dies is gone on with by the next one. A thread under legal hold,
or with a run that came at the last moment, stays.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from perdure.archive.living import has_new_run
from perdure.archive.policy import RetentionPolicy
from perdure.archive.removing import delete_documents, remove_documents
from perdure.archive.store import ArchiveStore
from perdure.archive.work import LEASE_S, Work, begin, take_over
from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.schemas.documents import THREADS, ArchiveState

log = logger(__name__)

Forget = Callable[[str, str], Awaitable[int]]
"""Removes the search documents of (tenant, thread id); how many."""


@dataclass(frozen=True, slots=True)
class Purgeable:
    """An archived thread that is old enough.

    Attributes:
        thread: Its document.
        due_at: Since when it may be purged.
        rule: Which rule of the policy says so.
        kept: Why it stays all the same.

    """

    thread: Mapping[str, Any]
    due_at: datetime
    rule: str
    kept: str | None


async def plan(db: Database, policy: RetentionPolicy, now: datetime) -> AsyncIterator[Purgeable]:
    """The archived threads that may be purged, the oldest first."""
    query = {"archive.at": {"$lte": now}, "archive.state": ArchiveState.ARCHIVED.value}
    async for thread in db[THREADS].find(query).sort("archive.at", 1):
        retention = policy.of(thread)
        due_at = retention.purge_due(thread)
        if due_at is not None and due_at <= now:
            yield Purgeable(thread, due_at, retention.rule, await _why_it_stays(db, thread))


async def _why_it_stays(db: Database, thread: Mapping[str, Any]) -> str | None:
    if (hold := thread.get("hold")) is not None:
        return f"it is under legal hold: {hold['reason']} ({hold['by']})"
    return "a run of it is pending" if await has_new_run(db, thread["_id"]) else None


class Purger:
    """Removes archived threads.

    Args:
        db: Where their documents are.
        store: Where their objects are.
        forget: How their search documents are removed.
        lease_s: A purge without a sign of life for so many seconds is taken over by the next.

    """

    def __init__(self, db: Database, store: ArchiveStore, forget: Forget, lease_s: float = LEASE_S) -> None:
        self._db = db
        self._store = store
        self._forget = forget
        self._lease_s = lease_s

    async def purge(self, thread: Mapping[str, Any]) -> bool:
        """Remove one thread; false when it is held, or not archived any more.

        Raises:
            ArchiveUnavailableError: the store does not answer; purge again.

        """
        only = {"archive.state": ArchiveState.ARCHIVED.value, "hold": {"$exists": False}}
        work = await begin(self._db, thread, ArchiveState.PURGING, only, self._lease_s)
        if work is None:
            return False
        # A run that was accepted at the last moment is not purged: the scheduler brings its thread back.
        if await has_new_run(self._db, thread["_id"]):
            await work.advance(ArchiveState.ARCHIVED, idle=True)
            return False
        await self._remove(work)
        return True

    async def go_on(self) -> AsyncIterator[Mapping[str, Any]]:
        """Finish the purges that were broken off; the threads, each once it is removed."""
        while left := await take_over(self._db, self._lease_s, 1, {"$eq": ArchiveState.PURGING.value}):
            await self._remove(left[0])
            yield left[0].thread

    async def _remove(self, work: Work) -> None:
        async with work.held():
            try:
                await self._remove_held(work)
            except Exception:
                await work.leave()
                raise

    async def _remove_held(self, work: Work) -> None:
        thread_id = work.owner.thread_id
        forgotten = await self._forget(work.owner.tenant, thread_id)
        await self._store.delete(work.key)
        await remove_documents(self._db, work)
        await work.give_slot_back()
        await delete_documents(self._db, work, THREADS, [thread_id])
        log.info("thread.purged", thread_id=thread_id, object=work.key, states=forgotten)
