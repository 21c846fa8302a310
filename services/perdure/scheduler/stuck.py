"""Marks threads that should have gone on and have not, tells of it, and takes the mark off when they do (ADR 10).

Contract: turns of the leader. A standstill is told of once: the event is stored first, then the mark on the thread's document, and
both can be repeated. Of running runs only those are looked at whose next checkpoint is due, so a look costs what is late, not what
runs.

Outside: what counts as stuck (``perdure.scheduler.stuck_rules``), and doing something about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import Gauge
from pymongo import DESCENDING

from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.registry.notes import RUN_FIELDS, Notes
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.settings import SchedulerSettings
from perdure.scheduler.stuck_rules import Standstill, expected_by, over, overdue, poisoned, unclaimed, wait_overdue
from perdure.schemas.documents import NOTEBOOK, RUNS, THREADS, WAITS, WORKERS, RunStatus
from perdure.schemas.events import StuckCode
from perdure.schemas.stuck_documents import StuckMark

log = logger(__name__)

STUCK = Gauge("perdure_stuck_threads", "Threads that are marked as stuck, by reason", ["code"])

FIELDS = {
    **RUN_FIELDS,
    **dict.fromkeys(
        ("status", "owner", "updated_at", "started_at", "not_before", "error", "next", "ended_seq", "ended_at"), 1
    ),
}
ENTRY_FIELDS = {"kind": 1, "seq": 1, "at": 1, "event": 1, "ev.expected_by": 1, "ev.next": 1, "thread": 1}
ENDS = frozenset(status.value for status in RunStatus if not status.active)
"""The events of history entries that end a run."""
TOGETHER = 50
"""Threads asked about in one query, or at once."""
LIMIT = 5_000
"""Pending runs, and overdue waits, that one turn looks at."""

Document = Mapping[str, Any]


class StuckWatch:
    """Watches over all threads. Belongs to one event loop."""

    def __init__(self, db: Database, notes: Notes, clock: DatabaseClock, settings: SchedulerSettings) -> None:
        self._db = db
        self._notes = notes
        self._clock = clock
        self._settings = settings
        self._grace = timedelta(seconds=settings.stuck_grace_s)
        self._seen: dict[str, tuple[datetime, int]] = {}
        """Of running runs: when to look again, and the newest sequence number that was seen."""

    async def turn(self) -> None:
        """Take off the marks of those that went on, then mark those that stand still."""
        now = await self._clock.now()
        marks = await self._marks()
        went_on = await self._went_on(marks)
        for thread_id, (run, newest) in went_on.items():
            await self._recovered(thread_id, marks.pop(thread_id), run, newest, now)
        for one in await self._standstills(now):
            thread_id = one.run["thread_id"]
            if thread_id not in marks:
                marks[thread_id] = await self._tell(one, now)
            if one.code is StuckCode.POISON:
                await self._db[RUNS].update_one({"_id": one.run["_id"]}, {"$set": {"parked_noted": True}})
        for code in StuckCode:
            STUCK.labels(code=code.value).set(sum(mark["code"] == code.value for mark in marks.values()))

    async def publish_notes(self) -> None:
        """Publish the notes that a dead process left unpublished."""
        await self._notes.sweep(before=await self._clock.now() - timedelta(seconds=self._settings.settle_grace_s))

    async def _marks(self) -> dict[str, StuckMark]:
        marked = self._db[THREADS].find({"stuck.noticed_at": {"$exists": True}}, {"stuck": 1})
        return {thread["_id"]: thread["stuck"] async for thread in marked}

    async def _standstills(self, now: datetime) -> list[Standstill]:
        workers = {worker["_id"]: worker async for worker in self._db[WORKERS].find({"state": "alive"})}
        running = await self._db[RUNS].find({"settled": False, "status": "running"}, FIELDS).to_list(None)
        parked = await self._db[RUNS].find({"parked_noted": False}, FIELDS).to_list(None)
        busy = {run["thread_id"] for run in running}
        return [
            *map(poisoned, parked),
            *await self._overdue(running, workers, now),
            *await self._unclaimed(busy, workers, now),
            *await self._waits(now),
        ]

    async def _overdue(
        self, running: Sequence[Document], workers: Mapping[str, Document], now: datetime
    ) -> list[Standstill]:
        young = now - timedelta(seconds=self._settings.stuck_interval_s)
        self._seen = {run["_id"]: self._seen.get(run["_id"], (run["started_at"], 0)) for run in running}
        due = [run for run in running if self._seen[run["_id"]][0] <= now and run["started_at"] <= young]
        found: list[Standstill] = []
        for start in range(0, len(due), TOGETHER):
            part = due[start : start + TOGETHER]
            entries = await asyncio.gather(*(self._newest(run["thread_id"], self._seen[run["_id"]][1]) for run in part))
            for run, entry in zip(part, entries, strict=True):
                if entry is None or entry["kind"] == "f":
                    continue
                self._seen[run["_id"]] = (expected_by(entry) + self._grace, entry["seq"])
                worker = workers.get(run["owner"], {})
                place = f"worker {worker.get('host')} (pid {worker.get('pid')})" if worker else "a worker that is gone"
                if (one := overdue(run, entry, now, self._grace, place)) is not None:
                    found.append(one)
        return found

    async def _unclaimed(self, busy: set[str], workers: Mapping[str, Document], now: datetime) -> list[Standstill]:
        served = {graph for worker in workers.values() for graph in worker["graphs"]}
        unserved_after = timedelta(seconds=self._settings.stuck_unclaimed_s)
        queued_after = timedelta(seconds=self._settings.stuck_queued_s)
        old = now - min(unserved_after, queued_after)
        query = {"settled": False, "owner": None, "status": "pending", "delayed": None, "updated_at": {"$lte": old}}
        pending = await self._db[RUNS].find(query, FIELDS).limit(LIMIT).to_list(None)
        oldest = {run["thread_id"]: run for run in sorted(pending, key=lambda run: run["_id"], reverse=True)}
        waiting = [run for thread, run in oldest.items() if thread not in busy]
        threads = await self._by_id(THREADS, [run["thread_id"] for run in waiting], {"seq": 1, "next": 1})
        judged = (
            unclaimed(
                run,
                threads.get(run["thread_id"], {}),
                run["graph_id"] in served,
                now,
                unserved_after=unserved_after,
                queued_after=queued_after,
            )
            for run in waiting
        )
        return [one for one in judged if one is not None]

    async def _waits(self, now: datetime) -> list[Standstill]:
        grace = timedelta(seconds=self._settings.stuck_wait_s)
        query = {"status": "open", "due_at": {"$lte": now - grace}}
        waits = await self._db[WAITS].find(query, {"run_id": 1, "nodes": 1, "due_at": 1}).limit(LIMIT).to_list(None)
        runs = await self._by_id(RUNS, [wait["run_id"] for wait in waits], FIELDS)
        known = [(wait, runs[wait["run_id"]]) for wait in waits if "ended_seq" in runs.get(wait["run_id"], {})]
        judged = (wait_overdue(wait, run, now, grace) for wait, run in known)
        return [one for one in judged if one is not None]

    async def _tell(self, one: Standstill, now: datetime) -> StuckMark:
        thread_id, mark = one.run["thread_id"], one.mark(now)
        await self._note(one.run, after=one.after, event="stuck", ev=one.event(), cause=one.cause, at=now)
        await self._db[THREADS].update_one({"_id": thread_id, "stuck": {"$exists": False}}, {"$set": {"stuck": mark}})
        log.warning("thread.stuck", thread_id=thread_id, code=mark["code"], reason=one.reason)
        return mark

    async def _went_on(self, marks: Mapping[str, StuckMark]) -> dict[str, tuple[Document, Document | None]]:
        """Of the marked threads those that have gone on: the run of the mark, and the newest history entry since."""
        runs = await self._by_id(RUNS, [mark["run_id"] for mark in marks.values()], FIELDS)
        waits = await self._by_id(WAITS, [mark["wait_id"] for mark in marks.values() if mark["wait_id"]], {"status": 1})
        newest = await self._newest_since({thread: mark["after"] for thread, mark in marks.items()})
        found: dict[str, tuple[Document, Document | None]] = {}
        for thread_id, mark in marks.items():
            run, entry = runs.get(mark["run_id"]), newest.get(thread_id)
            wait_open = waits.get(mark["wait_id"] or "", {}).get("status") == "open"
            if over(mark, run, entry["seq"] if entry else mark["after"], wait_open=wait_open):
                found[thread_id] = (run or {}, entry)
        return found

    async def _recovered(
        self, thread_id: str, mark: StuckMark, run: Document, newest: Document | None, now: datetime
    ) -> None:
        if run:
            told = {
                "code": mark["code"],
                "stuck_since": mark["since"],
                "status": await self._status(thread_id, run, newest),
                "next": list(((newest or {}).get("ev") or {}).get("next") or ()),
            }
            after = newest["seq"] if newest else mark["after"]
            cause = f"recovered:{mark['cause']}"
            await self._note(run, after=after, event="recovered", ev=told, cause=cause, at=now)
        await self._db[THREADS].update_one({"_id": thread_id, "stuck.cause": mark["cause"]}, {"$unset": {"stuck": ""}})
        log.info("thread.recovered", thread_id=thread_id, code=mark["code"])

    async def _status(self, thread_id: str, run: Document, newest: Document | None) -> str:
        """The status of a thread that went on: ``running``, or how its last run ended.

        The history says first that a run has ended; the run's document may say ``running`` for a while after that.
        """
        ended = newest is not None and newest["kind"] == "e" and newest["event"] in ENDS
        active = {"thread_id": thread_id, "settled": False, "status": {"$in": ["pending", "running"]}}
        if newest is not None and ended:
            active["_id"] = {"$ne": newest["run"]}
        if await self._db[RUNS].find_one(active, {"_id": 1}):
            return RunStatus.RUNNING.value
        if newest is None:
            return str(run["status"])
        if ended:
            return str(newest["event"])
        last = await self._db[RUNS].find_one({"_id": newest["run"]}, {"status": 1})
        return str((last or run)["status"])

    async def _note(self, run: Document, *, cause: str, **more: Any) -> None:
        try:
            await self._notes.write(run, cause=cause, **more)
        except ValueError as error:  # one thread with too many notes must not keep the others from being told of
            log.error("thread.not_noted", thread_id=run["thread_id"], cause=cause, error=str(error))

    async def _newest(self, thread_id: str, from_seq: int) -> Document | None:
        query = {"thread": thread_id, "seq": {"$gte": from_seq}}
        found = await self._db[NOTEBOOK].find(query, ENTRY_FIELDS).sort("seq", DESCENDING).limit(1).to_list(None)
        return found[0] if found else None

    async def _newest_since(self, after: Mapping[str, int]) -> dict[str, Document]:
        """The newest entry of each thread with a higher number than the given one; none where there is none."""
        found: dict[str, Document] = {}
        threads = list(after)
        for start in range(0, len(threads), TOGETHER):
            part = threads[start : start + TOGETHER]
            clauses = [{"thread": thread, "seq": {"$gt": after[thread]}} for thread in part]
            async for entry in self._db[NOTEBOOK].find({"$or": clauses}, ENTRY_FIELDS | {"run": 1}):
                if entry["seq"] > found.get(entry["thread"], {"seq": 0})["seq"]:
                    found[entry["thread"]] = entry
        return found

    async def _by_id(self, collection: str, ids: Sequence[str], fields: Mapping[str, Any]) -> dict[str, Document]:
        if not ids:
            return {}
        found = await self._db[collection].find({"_id": {"$in": list(set(ids))}}, fields).to_list(None)
        return {one["_id"]: one for one in found}
