"""Durable schedules: their documents, and firing them exactly once (ADR 7 and 19).

Contract: a firing is first decided by a compare-and-set of ``firing`` (which run, on which thread, or skipped), then done, then
taken off by another compare-and-set. Whoever finds a decision does it: its run has an idempotency key and an id of its own, so
doing it twice is doing it once, and a crash at any point loses nothing. Every method waits for a database that is away.

Outside: when a schedule fires (``perdure.registry.cron``), what was missed (``perdure.registry.missed``), and who looks for what is
due (the scheduler).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from functools import partial
from typing import Any

from pymongo import ReturnDocument

from perdure.chassis.at_rest import sealed
from perdure.chassis.clock import now
from perdure.chassis.group_commit import DuplicateKey, GroupCommit
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.chassis.payload import Packed, unpack
from perdure.chassis.telemetry import logger
from perdure.registry import cron, missed
from perdure.registry.cron import Overlap
from perdure.registry.runs import new_id, new_traceparent, publish_cancel, publish_start, run_document
from perdure.registry.superseding import ACTIVE, ask_to_end
from perdure.registry.threads import thread_document
from perdure.schemas.commands import StartReason
from perdure.schemas.documents import GRAPHS, RUNS, SCHEDULES, THREADS, CancelAction, RunStatus, ThreadStatus
from perdure.schemas.schedule_documents import FiringMark, MissedPeriod, ScheduleDocument
from perdure.schemas.thread_ids import stored_id

log = logger(__name__)

THREAD_FIELDS = dict.fromkeys(("status", "metadata", "interrupts", "last_run_id", "ended_run_id"), 1)
TRIES = 20
"""How often a change is decided anew because somebody else changed the schedule meanwhile."""


class Cause(StrEnum):
    """Why a schedule fires."""

    TIME = "time"
    CATCH_UP = "catch_up"
    """A time that had been missed."""
    BACKFILL = "backfill"
    TRIGGER = "trigger"


@dataclass(frozen=True, slots=True)
class Firing:
    """What came of one firing."""

    at: datetime
    run_id: str | None
    """``None``: skipped, the run before is not finished."""
    thread_id: str | None
    new: bool
    """False: it had been fired before."""


class Step(Enum):
    """What came of a look at a schedule that fired nothing."""

    AGAIN = "again"
    """Something was stored, by us or by somebody else: read the schedule again."""
    WAITING = "waiting"
    """Nothing is due, or what was missed waits for the run before."""


class ScheduleBusy(Exception):
    """Others changed the schedule again and again; nothing was done. Try again."""


def fire_key(schedule_id: str, at: datetime) -> str:
    """The idempotency key of the run of one fire time. Stored; never change it."""
    return f"schedule:{schedule_id}:{at.astimezone(UTC).isoformat(timespec='seconds')}"


def next_of(schedule: Mapping[str, Any], after: datetime) -> datetime | None:
    """When a schedule fires after ``after``, if it is not paused."""
    if schedule["paused"]:
        return None
    return cron.next_after(schedule["cron"], schedule["timezone"], after, schedule.get("end_at"))


class Schedules:
    """The schedules of all tenants. Belongs to one event loop."""

    def __init__(
        self, db: Database, runs: GroupCommit, commands: Producer, availability: Availability, source: str
    ) -> None:
        self._db = db
        self._schedules = db[SCHEDULES]
        self._runs = runs
        self._commands = commands
        self._availability = availability
        self._source = source

    async def create(self, schedule: ScheduleDocument) -> None:
        """Store a new schedule; a repeat is a success."""
        wanted, made = {"_id": schedule["_id"]}, sealed(SCHEDULES, schedule)
        await outlast(
            lambda: self._schedules.update_one(wanted, {"$setOnInsert": made}, upsert=True), self._availability
        )

    async def find(self, schedule_id: str, tenant: str) -> dict[str, Any] | None:
        """The schedule with this id."""
        return await self._one(SCHEDULES, {"_id": schedule_id, "tenant": tenant})

    async def search(self, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The schedules that a query finds, oldest first, without what their runs are started with; those of a tenant are few."""
        found = await outlast(lambda: self._schedules.find(query, {"payload": 0}).to_list(None), self._availability)
        return sorted(found, key=lambda one: one["_id"])

    async def delete(self, schedule_id: str, tenant: str) -> bool:
        """Remove a schedule; whether it was there. Runs that it started go on."""
        query = {"_id": schedule_id, "tenant": tenant}
        result = await outlast(lambda: self._schedules.delete_one(query), self._availability)
        return bool(result.deleted_count)

    async def change(
        self, schedule_id: str, tenant: str, fields: Mapping[str, Any], at: datetime
    ) -> dict[str, Any] | None:
        """Change fields of a schedule and work out its next fire time from ``at`` on; ``None`` when it does not exist.

        Raises:
            BadSchedule: the expression or the time zone that it would have cannot be followed.
            ScheduleBusy: others changed it all the time.

        """
        for _ in range(TRIES):
            schedule = await self._undecided(schedule_id, tenant)
            if schedule is None:
                return None
            changed = {**schedule, **fields}
            if any(name in fields for name in ("cron", "timezone")):
                cron.check(changed["cron"], changed["timezone"], at)
            same_times = not fields.keys() & {"cron", "timezone", "paused", "end_at"}
            next_at = (schedule.get("next_at") if same_times else None) or next_of(changed, at)
            catch_up = (schedule.get("catch_up") or []) if same_times else []
            found = await self._swap(schedule, {**fields, "catch_up": catch_up, "updated_at": now()}, next_at)
            if found is not None:
                return found
        raise ScheduleBusy(schedule_id)

    async def fire_next(self, schedule: Mapping[str, Any], at: datetime) -> Firing | Step:
        """Do what is next for a schedule: finish a firing, decide what is due, make up what was missed.

        Args:
            schedule: As it was read a moment ago.
            at: The time now, by the database's clock.

        """
        if schedule.get("firing"):
            return await self._do(schedule)
        next_at: datetime | None = schedule.get("next_at")
        if next_at is not None and next_at <= at:
            return await self._fire_due(schedule, next_at, at)
        return await self._make_up(schedule, at) if schedule.get("catch_up") else Step.WAITING

    async def _fire_due(self, schedule: Mapping[str, Any], next_at: datetime, at: datetime) -> Firing | Step:
        """Decide the fire time that is due, or put aside what was missed."""
        if missed.is_missed(next_at, at):
            due = missed.due(schedule, next_at, at, schedule.get("end_at"))
            if due.missed:
                log.warning("schedule.missed", schedule_id=schedule["_id"], count=due.missed, since=next_at.isoformat())
                await self._swap(schedule, {}, due.at, {"missed": due.missed})
                return Step.AGAIN
            if missed.is_put_aside(schedule):
                await self._swap(schedule, {"catch_up": missed.put_aside(schedule, at)}, next_of(schedule, at))
                return Step.AGAIN
        decided = await self._decide(schedule, next_at, Cause.TIME, fire_key(schedule["_id"], next_at))
        return await self._do(decided) if decided is not None else Step.AGAIN

    async def _make_up(self, schedule: Mapping[str, Any], at: datetime) -> Firing | Step:
        """Fire the next time that was missed, once the run before has ended; drop what the catch-up window has left behind."""
        first: MissedPeriod = schedule["catch_up"][0]
        due = missed.due(schedule, first["at"], at, first["until"])
        if due.missed:
            log.warning("schedule.not_made_up", schedule_id=schedule["_id"], count=due.missed)
            rest = missed.going_on_at(schedule["catch_up"], due.at)
            await self._swap(schedule, {"catch_up": rest}, schedule.get("next_at"), {"missed": due.missed})
            return Step.AGAIN
        if await self._is_going(schedule):
            return Step.WAITING
        decided = await self._decide(schedule, first["at"], Cause.CATCH_UP, fire_key(schedule["_id"], first["at"]))
        return await self._do(decided) if decided is not None else Step.AGAIN

    async def fire(
        self, schedule_id: str, tenant: str, at: datetime, cause: Cause, key: str, overlap: Overlap | None = None
    ) -> Firing | None:
        """Fire a schedule out of turn; ``None`` when it does not exist.

        Raises:
            ScheduleBusy: others changed it all the time.

        """
        for _ in range(TRIES):
            schedule = await self._undecided(schedule_id, tenant)
            if schedule is None:
                return None
            earlier = await self._run_of(tenant, key)
            if earlier is not None:
                return Firing(at, earlier["_id"], earlier["thread_id"], new=False)
            decided = await self._decide(schedule, at, cause, key, overlap)
            if decided is not None:
                return await self._do(decided)
        raise ScheduleBusy(schedule_id)

    async def _undecided(self, schedule_id: str, tenant: str) -> dict[str, Any] | None:
        """The schedule, with what was decided before done."""
        schedule = await self.find(schedule_id, tenant)
        while schedule is not None and schedule.get("firing"):
            await self._do(schedule)
            schedule = await self.find(schedule_id, tenant)
        return schedule

    async def _decide(
        self, schedule: Mapping[str, Any], at: datetime, cause: Cause, key: str, overlap: Overlap | None = None
    ) -> dict[str, Any] | None:
        """Store what will be done about one fire time; ``None`` when the schedule is not as it was any more."""
        policy, making_up = overlap or Overlap(schedule["overlap"]), cause is Cause.CATCH_UP
        start = making_up or policy is not Overlap.SKIP
        if not start:  # what was missed comes first: its runs are before this one
            start = not (schedule.get("catch_up") or await self._is_going(schedule))
        mark: FiringMark = {
            "key": key,
            "cause": cause.value,
            "at": at,
            "start": start,
            "cancel": policy in {Overlap.CANCEL_OTHER, Overlap.ROLLBACK_OTHER} and not making_up,
            "rollback": policy is Overlap.ROLLBACK_OTHER,
            "run_id": new_id(),
            "thread_id": schedule["thread_id"] or stored_id(schedule["tenant"], new_id()),
        }
        return await self._set(schedule, {"$set": {"firing": mark}, "$inc": {"revision": 1}})

    async def _do(self, schedule: Mapping[str, Any]) -> Firing:
        """Do what was decided, and take the decision off."""
        mark: FiringMark = schedule["firing"]
        if mark["cancel"]:
            await self._cancel(schedule, mark)
        started = await self._start(schedule, mark) if mark["start"] else None
        new = started is not None and started["_id"] == mark["run_id"]
        last = {"last_fired_at": mark["at"], "last_run_id": mark["run_id"], "last_thread_id": mark["thread_id"]}
        fields: dict[str, Any] = last if new else {}
        next_at = schedule.get("next_at")
        counted = {"fired": int(new), "skipped": int(not mark["start"])}
        if mark["cause"] == Cause.TIME.value:
            next_at = next_of(schedule, mark["at"])
        elif mark["cause"] == Cause.CATCH_UP.value:
            fields["catch_up"] = missed.after(schedule, mark["at"])
        if mark["cancel"] and schedule.get("catch_up"):  # this run is newer than all that was missed
            counted["missed"], fields["catch_up"] = missed.left(schedule), []
        if await self._swap(schedule, fields, next_at, counted) is not None:
            log.info(
                "schedule.fired" if mark["start"] else "schedule.skipped",
                schedule_id=schedule["_id"],
                run_id=started["_id"] if started else None,
                at=mark["at"].isoformat(),
                cause=mark["cause"],
            )
        if started is None:
            return Firing(mark["at"], None, None, new=True)
        return Firing(mark["at"], started["_id"], started["thread_id"], new=new)

    async def _start(self, schedule: Mapping[str, Any], mark: FiringMark) -> Mapping[str, Any]:
        """Register the run that was decided on; the run of its key if there is one."""
        new_thread = schedule["thread_id"] is None
        graph = await self._one(GRAPHS, {"_id": schedule["graph_id"]}, {"version": 1})
        thread = await self._thread(mark["thread_id"])
        run = run_document(
            tenant=schedule["tenant"],
            thread_id=mark["thread_id"],
            graph_id=schedule["graph_id"],
            graph_version=(graph or {}).get("version"),
            packed=Packed(schedule["payload"]),
            metadata={
                **((thread or {}).get("metadata") or {}),
                **schedule["metadata"],
                "schedule_id": schedule["_id"],
                "scheduled_at": mark["at"].isoformat(),
            },
            traceparent=new_traceparent(),
            moment=now(),
            run_id=mark["run_id"],
            new_thread=new_thread,
            idempotency_key=mark["key"],
            user=schedule.get("user"),
            **{name: unpack(schedule["payload"]).get(name) for name in ("webhook", "webhook_format")},
        )
        if new_thread and schedule.get("ephemeral"):
            run["ephemeral"] = True
        try:
            await self._runs.write(inserts=[run], nbytes=1024 + len(schedule["payload"]))
        except DuplicateKey:
            earlier = await self._run_of(schedule["tenant"], mark["key"])
            if earlier is None:
                raise
            run = earlier  # type: ignore[assignment]
        if run["_id"] == mark["run_id"]:
            if new_thread:
                await self._make_thread(schedule, mark)
            publish_start(self._commands, run, StartReason.REGISTERED, self._source)
        return run

    async def _make_thread(self, schedule: Mapping[str, Any], mark: FiringMark) -> None:
        thread = thread_document(mark["thread_id"], schedule["tenant"], schedule["metadata"], now())
        thread["graph_id"], thread["assistant_id"] = schedule["graph_id"], schedule["assistant_id"]
        thread["last_run_id"] = mark["run_id"]
        if schedule.get("ephemeral"):
            thread["ephemeral"] = True
        if schedule.get("auth"):
            thread["auth"] = schedule["auth"]
        wanted, made = {"_id": thread["_id"]}, {"$setOnInsert": thread}
        await outlast(lambda: self._db[THREADS].update_one(wanted, made, upsert=True), self._availability)

    async def _is_going(self, schedule: Mapping[str, Any]) -> bool:
        """Whether the thread of the run before is not finished: a run of it is active, or it waits for somebody or something.

        A thread whose run was cancelled on the way, and that waits for nothing, is finished: no wait would ever make it go on.
        """
        thread_id = schedule["thread_id"] or schedule.get("last_thread_id")
        if thread_id is None:
            return False
        thread = await self._thread(thread_id)
        if thread is not None and thread.get("status") == ThreadStatus.INTERRUPTED.value:
            last = thread.get("last_run_id") or thread.get("ended_run_id")
            run = None if thread.get("interrupts") else await self._one(RUNS, {"_id": last}, {"status": 1})
            if run is None or run["status"] != RunStatus.CANCELLED.value:
                return True
        return bool(await self._active(thread_id))

    async def _cancel(self, schedule: Mapping[str, Any], mark: FiringMark) -> None:
        """Ask for the end of the active runs of the thread of the run before; not of those that came later."""
        thread_id = schedule["thread_id"] or schedule.get("last_thread_id")
        for run in await self._active(thread_id) if thread_id else ():
            if run["_id"] >= mark["run_id"]:
                continue
            action = CancelAction.ROLLBACK if mark.get("rollback") else CancelAction.INTERRUPT
            asking = partial(ask_to_end, self._db[RUNS], [run["_id"]], action, now())
            await outlast(asking, self._availability)
            publish_cancel(self._commands, run, self._source)

    async def _active(self, thread_id: str) -> Sequence[Mapping[str, Any]]:
        query = {"thread_id": thread_id, "status": {"$in": ACTIVE}, "settled": False}
        return await outlast(
            lambda: self._db[RUNS].find(query, {"tenant": 1, "thread_id": 1}).to_list(None), self._availability
        )

    async def _thread(self, thread_id: str) -> dict[str, Any] | None:
        return await self._one(THREADS, {"_id": thread_id}, THREAD_FIELDS)

    async def _run_of(self, tenant: str, key: str) -> dict[str, Any] | None:
        return await self._one(RUNS, {"tenant": tenant, "idempotency_key": key})

    async def _one(self, collection: str, query: Mapping[str, Any], fields: Any = None) -> dict[str, Any] | None:
        return await outlast(lambda: self._db[collection].find_one(query, fields), self._availability)

    async def _swap(
        self,
        schedule: Mapping[str, Any],
        fields: Mapping[str, Any],
        next_at: datetime | None,
        counted: Mapping[str, int] | None = None,
    ) -> dict[str, Any] | None:
        """Write fields and the next fire time, take off what was decided; ``None`` when it is not as it was any more."""
        change: dict[str, Any] = {
            "$set": dict(fields),
            "$unset": {"firing": ""},
            "$inc": {"revision": 1, **(counted or {})},
        }
        if next_at is not None:
            change["$set"]["next_at"] = next_at
        else:
            change["$unset"]["next_at"] = ""
        return await self._set(schedule, {name: one for name, one in change.items() if one})

    async def _set(self, schedule: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any] | None:
        """The one way to change a schedule: its revision must be the one that was read.

        A change whose answer is lost meets a higher revision when it is sent again, which reads as somebody else's.
        """
        query = {"_id": schedule["_id"], "revision": schedule["revision"]}
        if "$set" in change:
            change = {**change, "$set": sealed(SCHEDULES, change["$set"], schedule["_id"])}
        return await outlast(
            lambda: self._schedules.find_one_and_update(query, change, return_document=ReturnDocument.AFTER),
            self._availability,
        )
