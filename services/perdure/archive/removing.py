"""Removing threads that clients deleted (ADR 31).

Contract: :meth:`Remover.go_on` does some of the work on one thread and can be repeated after a crash at any point. In this order:
the running slot is taken, for which a run that is under way is cancelled; every document of the thread is deleted, twice, so that
what a request brought that had seen the thread before goes, too; the deletion is published, after every other event of the thread;
the thread's own document goes last.

Outside: who decides. The gateway marked the thread, and shows it to nobody since.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from perdure.archive.sources import SOURCES, documents, slot_id
from perdure.archive.store import ArchiveStore
from perdure.archive.work import Work
from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database, from_now, server_time
from perdure.chassis.telemetry import logger
from perdure.registry.run_events import publish_event
from perdure.schemas.commands import CancelRun
from perdure.schemas.documents import RUNS, SCHEDULES, THREADS, ArchiveState, RunStatus
from perdure.schemas.envelope import encode
from perdure.schemas.events import NOTES_PER_SEQ, ThreadDeleted
from perdure.schemas.topics import COMMANDS

log = logger(__name__)

GRACE: Final = timedelta(seconds=15)
"""How long a request may go on that saw the thread before it was deleted: longer than the gateway's time-out for a write."""
PAUSE_S: Final = 1.0
"""Before it is looked again whether a run has ended."""
UNKNOWN: Final = "unknown"

Document = dict[str, Any]

HIDING: Final[Document] = {"$set": {"removing": True}}
"""The update that hides the runs of a thread that is marked as removed."""


class Remover:
    """Removes deleted threads.

    Args:
        db: Where they are.
        store: Where archived ones have their objects; ``None`` where nothing is archived.
        producer: Where runs are cancelled and the deletion is published.
        source: Who publishes.
        grace: How long after the mark the thread's documents are deleted once more.

    """

    def __init__(
        self, db: Database, store: ArchiveStore | None, producer: Producer, source: str, grace: timedelta = GRACE
    ) -> None:
        self._db = db
        self._store = store
        self._producer = producer
        self._source = source
        self._grace = grace

    async def go_on(self, work: Work) -> bool:
        """Do what can be done now; whether nothing is left of the thread. If something is, the work is to be taken over later.

        Raises:
            WorkLostError: another process works on it.
            ArchiveUnavailableError: the archive store does not answer.

        """
        async with work.held():
            await self._db[RUNS].update_many({"thread_id": work.owner.thread_id, "removing": None}, HIDING)
            if await self._cancel(work) or not await work.take_slot():
                await work.leave(PAUSE_S)
                return False
            if await self._db[RUNS].find_one(_telling(work), {"_id": 1}) is not None:
                await work.leave(PAUSE_S)
                return False
            await remove_documents(self._db, work)
            await self._remove_schedules(work)
            left = work.mark["at"] + self._grace - await server_time(self._db)
            if left > timedelta(0):
                await work.leave(left.total_seconds())
                return False
            await self._finish(work)
        return True

    async def _finish(self, work: Work) -> None:
        if (key := work.mark.get("leftover")) is not None:
            if self._store is None:
                log.warning(
                    "thread.object_left", thread_id=work.owner.thread_id, object=key, detail="no archive is set"
                )
            else:
                await self._store.delete(key)
        await self._tell(work)
        await work.give_slot_back()
        await delete_documents(self._db, work, THREADS, [work.owner.thread_id])
        log.info("thread.removed", thread_id=work.owner.thread_id)

    async def _cancel(self, work: Work) -> bool:
        """Ask the run that is under way to stop, if any; the worker sees the document even where the command is lost."""
        query = {
            "thread_id": work.owner.thread_id,
            "status": RunStatus.RUNNING.value,
            "_id": {"$ne": slot_id(work.owner.thread_id)},
        }
        running = False
        async for run in self._db[RUNS].find(query, {"tenant": 1, "thread_id": 1, "traceparent": 1}):
            await self._db[RUNS].update_one({"_id": run["_id"]}, {"$min": {"cancel_requested_at": now()}})
            command = CancelRun(tenant=run["tenant"], thread_id=run["thread_id"], run_id=run["_id"])
            record = encode(
                command,
                id=f"{run['_id']}:cancel",
                source=self._source,
                correlation_id=run["_id"],
                traceparent=run.get("traceparent"),
                time=now(),
            )
            await self._producer.send(COMMANDS.name, record)
            running = True
        return running

    async def _remove_schedules(self, work: Work) -> None:
        ids = [one["_id"] async for one in self._db[SCHEDULES].find({"thread_id": work.owner.thread_id}, {"_id": 1})]
        if ids:
            await delete_documents(self._db, work, SCHEDULES, ids)

    async def _tell(self, work: Work) -> None:
        """Publish the deletion: whoever keeps something of the thread forgets it."""
        thread = work.thread
        run_id: str = thread.get("last_run_id") or UNKNOWN
        event = ThreadDeleted(
            tenant=work.owner.tenant,
            thread_id=work.owner.thread_id,
            run_id=run_id,
            graph_id=thread.get("graph_id") or UNKNOWN,
            assistant_id=thread.get("assistant_id") or UNKNOWN,
            seq=thread.get("seq") or 0,
            epoch=0,
            note=NOTES_PER_SEQ - 1,
            occurred_at=work.mark["at"],
        )
        await publish_event(self._producer, {"_id": run_id}, event, self._source)


def removal(thread: Mapping[str, Any]) -> tuple[Document, list[Document]]:
    """The query and the update that mark a thread as removed, unless it is under legal hold or on its way out already."""
    query: Document = {
        "_id": thread["_id"],
        "tenant": thread["tenant"],
        "hold": {"$exists": False},
        "archive.state": {"$nin": [ArchiveState.PURGING.value, ArchiveState.REMOVING.value]},
    }
    mark = {
        "state": ArchiveState.REMOVING.value,
        "at": from_now(0),
        "expires_at": from_now(0),
        "leftover": {"$ifNull": ["$archive.object", None]},
    }
    # By way of another field: $set would merge the mark into the one that is there.
    change: list[Document] = [
        {"$set": {"removed": mark}},
        {"$unset": "archive"},
        {"$set": {"archive": "$removed"}},
        {"$unset": "removed"},
    ]
    return query, change


async def remove_documents(db: Database, work: Work) -> None:
    """Delete everything of a thread but its own document; runs last, because they name their payloads."""
    for source in reversed(SOURCES):
        async for portion in documents(db, source, work.owner):
            await delete_documents(db, work, source, [document["_id"] for document in portion])


async def delete_documents(db: Database, work: Work, source: str, ids: list[Any]) -> None:
    """Delete documents, if the work is still ours.

    Raises:
        WorkLostError: it is not; nothing was deleted.

    """

    async def remove(session: Any) -> None:
        await db[source].delete_many({"_id": {"$in": ids}}, session=session)

    await work.fenced(remove)


def _telling(work: Work) -> Mapping[str, Any]:
    """The runs that ended and still have events to publish: the deletion is told after them."""
    return {"thread_id": work.owner.thread_id, "settled": False, "status": {"$ne": RunStatus.PENDING.value}}
