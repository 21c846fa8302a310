"""Retention, a little at a time: archives what is due, brings back what is wanted, finishes what others left (ADR 15).

Contract: turns of the leader, bounded. Between two threads it rests, so that archiving takes no more than its share of one process;
it is not in the way of interactive work.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from prometheus_client import Counter
from pymongo.errors import PyMongoError

from perdure.archive.archiving import Archiver, LivesError
from perdure.archive.candidates import Candidates
from perdure.archive.errors import ArchiveDamagedError, ArchiveError
from perdure.archive.policy import RetentionPolicy
from perdure.archive.restoring import Restorer
from perdure.archive.sources import slot_id
from perdure.archive.store import ArchiveStore
from perdure.archive.work import Work, take_over
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database, server_time
from perdure.chassis.outage import is_outage
from perdure.chassis.telemetry import logger
from perdure.scheduler.settings import SchedulerSettings
from perdure.scheduler.sweeps import SOURCE
from perdure.schemas.documents import RUNS, THREADS, ArchiveState

log = logger(__name__)

LEFT_AT_ONCE: Final = 8
LATE_AT_ONCE: Final = 1_000
TURN_S: Final = 60.0
"""A turn begins with no further thread after so long: another instance may lead by then."""

DONE = Counter("perdure_archive_threads", "Threads that went to the archive or came back", ["what"])
FAILED = Counter("perdure_archive_failures", "Threads that could not be archived or restored; they are tried again")


class Archiving:
    """The scheduler's part in retention. Belongs to one event loop."""

    def __init__(
        self,
        db: Database,
        store: ArchiveStore,
        policy: RetentionPolicy,
        producer: Producer,
        settings: SchedulerSettings,
    ) -> None:
        self._db = db
        self._settings = settings
        self._archiver = Archiver(db, store, producer, SOURCE, settings.archive_lease_s)
        self._restorer = Restorer(db, store, producer, SOURCE, settings.archive_lease_s)
        self._candidates = Candidates(db, policy)
        self._looked_at = ""
        """The pending run up to which it was looked for late ones."""

    async def turn(self) -> None:
        """Archive what is due, for some seconds at most."""
        end = time.monotonic() + TURN_S
        more = True
        while more and time.monotonic() < end:
            began = time.monotonic()
            found, more = await self._candidates.portion(await server_time(self._db))
            await self._rest(began)
            for one in found:
                if one.kept is None and time.monotonic() < end:
                    await self._archive(one.thread)

    async def finish(self) -> None:
        """Bring back what somebody asked for, or what has a run that came at the last moment; finish what others left."""
        await self._want_late()
        states = {"$nin": [ArchiveState.PURGING.value, ArchiveState.REMOVING.value]}
        end = time.monotonic() + TURN_S
        more = True
        while more and time.monotonic() < end:
            left = await take_over(self._db, self._settings.archive_lease_s, LEFT_AT_ONCE, states)
            await asyncio.gather(*map(self._finish, left))
            more = len(left) == LEFT_AT_ONCE

    async def _archive(self, thread: Any) -> None:
        began = time.monotonic()
        try:
            await self._archiver.archive(thread)
            DONE.labels(what="archived").inc()
        except LivesError as error:
            log.info("archive.kept", thread_id=thread["_id"], why=error.why)
        except (ArchiveError, PyMongoError) as error:
            _note(error, thread["_id"])
        await self._rest(began)

    async def _rest(self, began: float) -> None:
        """Do nothing for as long as the share of what was begun then asks for."""
        await asyncio.sleep((time.monotonic() - began) * (1 / self._settings.archive_share - 1))

    async def _finish(self, work: Work) -> None:
        """A failure is tried again when the lease is over; it concerns this thread only."""
        restoring = work.state is ArchiveState.RESTORING
        try:
            await (self._restorer if restoring else self._archiver).go_on(work)
            DONE.labels(what="restored" if restoring else "finished").inc()
        except (ArchiveError, PyMongoError) as error:
            _note(error, work.owner.thread_id)
            if isinstance(error, ArchiveDamagedError):
                await work.note_trouble(error.what)

    async def _want_late(self) -> None:
        """Ask for the archived threads back that have a pending run: it was accepted when the thread went."""
        query = {"settled": False, "status": "pending", "_id": {"$gt": self._looked_at}}
        pending = await self._db[RUNS].find(query, {"thread_id": 1}).sort("_id", 1).limit(LATE_AT_ONCE).to_list(None)
        self._looked_at = pending[-1]["_id"] if len(pending) == LATE_AT_ONCE else ""
        by_slot = {slot_id(run["thread_id"]): run for run in pending}
        async for slot in self._db[RUNS].find({"_id": {"$in": list(by_slot)}}, {"thread_id": 1}):
            run = by_slot[slot["_id"]]
            archived = {"_id": slot["thread_id"], "archive.state": ArchiveState.ARCHIVED.value}
            wanted = {
                "archive.state": ArchiveState.RESTORING.value,
                "archive.restore_by": f"run {run['_id']}",
                "archive.expires_at": await server_time(self._db),
            }
            if (await self._db[THREADS].update_one(archived, {"$set": wanted})).matched_count:
                log.info("archive.wanted_back", thread_id=slot["thread_id"], run_id=run["_id"])


def _note(error: Exception, thread_id: str) -> None:
    """Note what concerns one thread; an outage of the database concerns all."""
    if is_outage(error):
        raise error
    FAILED.inc()
    log.error("archive.failed", thread_id=thread_id, error=str(error))
