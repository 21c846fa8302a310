"""Claims: how a worker becomes the owner of runs, and how it gives them back (ADR 1).

Contract: a claim is a compare-and-set from ``pending`` to ``running`` that raises the epoch, one update for a whole batch of
commands; a unique partial index lets one run of a thread be running. Of several pending runs of a thread the oldest is claimed,
whichever the command named. A run that crashed its workers is claimed when its back-off is over and there is room for suspects
(ADR 10). A run of a graph that is not served here is marked and left to the workers that serve it (ADR 24), unless it is to be
cancelled, which any worker can do. Before a claim, runs that a later run of their thread supersedes are asked to end (ADR 32).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import uuid_utils
from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError

from perdure.chassis import payload
from perdure.chassis.clock import now
from perdure.chassis.group_commit import DuplicateKey, GroupCommit
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.chassis.telemetry import logger
from perdure.registry.crashes import crash_change, is_suspect
from perdure.registry.superseding import ask_to_end, superseded
from perdure.schemas.commands import StreamRun
from perdure.schemas.documents import (
    PAYLOADS,
    RUNS,
    THREADS,
    CancelAction,
    RunDocument,
    RunStatus,
    ThreadDocument,
)

log = logger(__name__)

CLOCKS = timedelta(seconds=1)
"""A back-off ends by the database's clock, by which its start is published; ours may be behind so much."""
PENDING_FIELDS = dict.fromkeys(
    (
        "thread_id", "created_at", "status", "crashes", "not_before", "new_thread", "epoch", "graph_id",
        "cancel_requested_at", "unserved", "cancel_action", "multitask_strategy", "delayed", "start_at",
    ),
    1,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Claimed:
    """A run that this worker owns, with its thread as it was left."""

    run: RunDocument
    thread: ThreadDocument | None
    payload: dict[str, Any]
    unreadable: str | None = None
    """Why there is no payload, when it cannot be read."""
    unsettled: Sequence[RunDocument] = ()
    """Runs of the thread that ended before it and whose events may not all be published, oldest first."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What came of a claim."""

    won: list[Claimed]
    held: list[str]
    """Threads whose oldest run is a suspect that there is no room for."""
    superseded: Sequence[str] = ()
    """Running runs that a later run of their thread ends (ADR 32)."""


class Claims:
    """Claims of one worker."""

    def __init__(
        self,
        db: Database,
        runs: GroupCommit,
        availability: Availability,
        incarnation: Callable[[], str],
        graphs: Collection[str],
    ) -> None:
        self._db = db
        self._runs = runs
        self._availability = availability
        self.incarnation = incarnation
        """The worker incarnation that owns what is claimed now."""
        self._graphs = frozenset(graphs)
        self._under_way: set[str] = set()

    def under_way(self) -> set[str]:
        """Tokens of the claims that may have taken runs and have not returned yet."""
        return self._under_way

    async def claim(
        self, thread_ids: Collection[str], *, suspects: Collection[int], together: Callable[[int], int]
    ) -> Claim:
        """Claim the oldest pending run of each thread that has no running one.

        Args:
            thread_ids: The threads.
            suspects: Crashes of the suspects that are executed here already.
            together: How many suspects may be executed beside one with so many crashes.

        """
        found = await self._unsettled(thread_ids)
        stopped = await self._end_superseded(found)
        oldest, ended = _oldest_and_ended(found)
        served = [run for run in oldest if run["graph_id"] in self._graphs or "cancel_requested_at" in run]
        if len(served) < len(oldest):
            await self._pass_on([run for run in oldest if run not in served])
        moment = now()
        due, held = _allowed(served, suspects, together, moment)
        if not due:
            return Claim([], held, stopped)
        token = str(uuid_utils.uuid7())
        owned = {
            "status": "running",
            "owner": self.incarnation(),
            "claim": token,
            "started_at": moment,
            "updated_at": moment,
        }
        run_ids = [run["_id"] for run in due]
        known = [run["thread_id"] for run in due if not _is_fresh(run)]
        self._under_way.add(token)
        try:
            runs, found = await asyncio.gather(
                self._take(run_ids, owned), self._find(THREADS, {"_id": {"$in": known}}) if known else _nothing()
            )
            threads = {thread["_id"]: thread for thread in found}
            before = await self._ended({run["thread_id"] for run in runs}, ended)
            won = [await self._claimed(run, threads.get(run["thread_id"]), before) for run in runs]
            return Claim(won, held, stopped)
        finally:
            self._under_way.discard(token)

    async def _take(self, run_ids: Sequence[str], owned: Mapping[str, Any]) -> list[RunDocument]:
        """Take what is pending, in one update, or one by one when a thread turns out to have a running run; what was won."""
        change = {"$set": owned, "$inc": {"epoch": 1}, "$unset": {"unserved": ""}}
        runs = self._db[RUNS]
        try:
            if len(run_ids) == 1:  # somebody may wait for this one: claimed and read in one round trip
                only = {"_id": run_ids[0], "status": "pending"}
                won: Any = await outlast(
                    lambda: runs.find_one_and_update(only, change, return_document=ReturnDocument.AFTER),
                    self._availability,
                )
                if won is not None:
                    return [won]
            else:
                all_of_them = {"_id": {"$in": run_ids}, "status": "pending"}
                await outlast(lambda: runs.update_many(all_of_them, change), self._availability)
        except DuplicateKeyError:
            each = [UpdateOne({"_id": run_id, "status": "pending"}, change) for run_id in run_ids]
            outcomes = await asyncio.gather(*(self._runs.write(updates=[one]) for one in each), return_exceptions=True)
            for outcome in outcomes:
                if outcome is not None and not isinstance(outcome, DuplicateKey):
                    raise outcome from None
        return await self._find(RUNS, {"_id": {"$in": run_ids}, "claim": owned["claim"]})

    async def unserved(self, limit: int) -> list[str]:
        """Threads with a pending run of a graph that is served here, whose command went to a worker that does not serve it."""
        query = {"unserved": True, "graph_id": {"$in": [*self._graphs]}, "status": "pending"}
        found = await outlast(
            lambda: self._db[RUNS].find(query, {"thread_id": 1}).limit(limit).to_list(None), self._availability
        )
        return list({run["thread_id"]: None for run in found})

    async def cancel_requested(self, run_ids: Sequence[str]) -> list[str]:
        """Those of the runs whose document says that somebody wants them cancelled."""
        query = {"_id": {"$in": [*run_ids]}, "cancel_requested_at": {"$exists": True}}
        return [run["_id"] for run in await self._find(RUNS, query, {"_id": 1})] if run_ids else []

    async def owned(self, run_id: str, epoch: int) -> RunDocument | None:
        """A run that this worker owns, without its request; ``None`` when it has ended or has another owner."""
        query = {"_id": run_id, "epoch": epoch, "status": "running", "owner": self.incarnation()}
        found: list[RunDocument] = await self._find(RUNS, query, {"payload": 0})
        return found[0] if found else None

    async def oldest_pending(self, thread_ids: Sequence[str]) -> dict[str, str]:
        """The oldest pending run of each thread that has no running one: run id by thread id."""
        oldest, _ = _oldest_and_ended(await self._unsettled(thread_ids))
        return {run["thread_id"]: run["_id"] for run in oldest}

    async def with_thread(self, claimed: Claimed) -> Claimed:
        """A claim with its thread as it is now."""
        found = await self._find(THREADS, {"_id": claimed.run["thread_id"]})
        return replace(claimed, thread=found[0] if found else None)

    async def release(self, run: RunDocument) -> None:
        """Give a run back: pending again, for whoever takes it next. Does nothing when it is not ours any more."""
        await self._give_back(run, {})

    async def release_crashed(self, run: RunDocument, error: str, backoff_s: float) -> None:
        """Give a run back whose handling failed here: as :meth:`release`, and counted as a crash."""
        await self._give_back(run, crash_change(run, now(), backoff_s, error))

    async def count_anew(self, run: RunDocument, crashes: int, head: str | None) -> None:
        """Store how many workers a run lost without progress, and where it stood."""
        change = {"$set": {"crashes": crashes, "crash_head": head or ""}}
        await self._runs.write(
            updates=[UpdateOne({"_id": run["_id"], "epoch": run["epoch"], "status": "running"}, change)]
        )

    async def ask_owners(self, commands: Sequence[StreamRun]) -> None:
        """Store what readers ask for in the documents of runs that other workers execute; their next heartbeats find it there."""
        updates = []
        for one in commands:
            theirs = {"_id": one.run_id, "status": "running", "owner": {"$ne": self.incarnation()}}
            change: dict[str, Any] = {"$addToSet": {"stream_asked.modes": {"$each": [*one.modes]}}}
            if one.subgraphs:
                change["$set"] = {"stream_asked.subgraphs": True}
            updates.append(UpdateOne(theirs, change))
        await self._runs.write(updates=updates)

    async def _give_back(self, run: RunDocument, more: Mapping[str, dict[str, Any]]) -> None:
        change = {"status": RunStatus.PENDING.value, "owner": None, "updated_at": now()}
        ours = {"_id": run["_id"], "epoch": run["epoch"], "status": "running"}
        await self._runs.write(updates=[UpdateOne(ours, {**more, "$set": change | more.get("$set", {})})])

    async def _pass_on(self, runs: Sequence[Mapping[str, Any]]) -> None:
        """Mark pending runs whose graphs are not served here, so that the workers that serve them look for them."""
        ids = [run["_id"] for run in runs if not run.get("unserved")]
        if not ids:
            return
        pending = {"_id": {"$in": ids}, "status": "pending"}
        await outlast(lambda: self._db[RUNS].update_many(pending, {"$set": {"unserved": True}}), self._availability)
        log.info("runs.not_served_here", graphs=sorted({run["graph_id"] for run in runs}), count=len(ids))

    async def _unsettled(self, thread_ids: Collection[str]) -> list[dict[str, Any]]:
        """The runs of the threads that are active or ended unsettled."""
        query = {"thread_id": {"$in": list(thread_ids)}, "settled": False}
        return await self._find(RUNS, query, PENDING_FIELDS)

    async def _end_superseded(self, found: Sequence[dict[str, Any]]) -> list[str]:
        """Ask for the end of the runs that a later run of their thread supersedes; those of them that are running."""
        moment, running = now(), list[str]()
        for action, runs in superseded(found).items():
            ids = [run["_id"] for run in runs]
            await outlast(partial(ask_to_end, self._db[RUNS], ids, action, moment), self._availability)
            for run in runs:
                run.setdefault("cancel_requested_at", moment)
                if run["status"] == "running":
                    running.append(run["_id"])
        return running

    async def is_to_be_undone(self, run_id: str) -> bool:
        """Whether somebody asked that what the run wrote is undone."""
        query = {"_id": run_id, "cancel_action": CancelAction.ROLLBACK.value}
        return bool(await self._find(RUNS, query, {"_id": 1}))

    async def _ended(self, thread_ids: Collection[str], ended: Sequence[Mapping[str, Any]]) -> list[RunDocument]:
        """The documents of those of the runs that are of these threads, oldest first: some only after an outage of Kafka."""
        wanted = [run["_id"] for run in ended if run["thread_id"] in thread_ids]
        if not wanted:
            return []
        found: list[RunDocument] = await self._find(RUNS, {"_id": {"$in": wanted}}, {"payload": 0})
        return sorted(found, key=lambda run: run["first_seq"])

    async def _claimed(self, run: RunDocument, thread: ThreadDocument | None, ended: Sequence[RunDocument]) -> Claimed:
        before = [one for one in ended if one["thread_id"] == run["thread_id"]]
        try:
            return Claimed(run, thread, await self._payload(run), unsettled=before)
        except (ValueError, TypeError, KeyError) as error:
            log.error("run.payload_unreadable", run_id=run["_id"], thread_id=run["thread_id"], error=str(error))
            return Claimed(run, thread, {}, f"{type(error).__name__}: {error}", before)

    async def _payload(self, run: RunDocument) -> dict[str, Any]:
        data = run.get("payload", b"")
        if run.get("payload_chunks"):
            chunks = await self._find(
                PAYLOADS, {"_id": {"$in": [f"{run['_id']}:{n}" for n in range(run["payload_chunks"])]}}
            )
            ordered = sorted(chunks, key=lambda c: int(c["_id"].rpartition(":")[2]))
            data = b"".join(c["data"] for c in ordered)
        found: dict[str, Any] = payload.unpack(data)
        return found

    async def _find(self, collection: str, query: dict[str, Any], fields: dict[str, Any] | None = None) -> list[Any]:
        return await outlast(lambda: self._db[collection].find(query, fields).to_list(None), self._availability)


def _oldest_and_ended(found: Sequence[dict[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The first pending run of each thread that has no running one; and the runs that ended unsettled.

    A delayed run is passed over until its time has come, unless it is to be cancelled.
    """
    busy = {run["thread_id"] for run in found if run["status"] == "running"}
    first: dict[str, Mapping[str, Any]] = {}
    for run in found:
        if run["status"] != "pending" or (run.get("delayed") and "cancel_requested_at" not in run):
            continue
        best = first.get(run["thread_id"])
        if best is None or _place(run) < _place(best):
            first[run["thread_id"]] = run
    ended: list[Mapping[str, Any]] = [run for run in found if run["status"] not in {"pending", "running"}]
    return [run for thread, run in first.items() if thread not in busy], ended


def _place(run: Mapping[str, Any]) -> tuple[datetime, str]:
    """The place of a pending run in its thread's queue. One that is to be cancelled does not wait for its time."""
    registered = run["created_at"], run["_id"]
    return registered if "cancel_requested_at" in run else (run.get("start_at") or registered[0], run["_id"])


def _allowed(
    oldest: Sequence[Mapping[str, Any]], suspects: Collection[int], together: Callable[[int], int], now: datetime
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Which runs may be claimed now, and the threads of suspects that there is no room for."""
    due: list[Mapping[str, Any]] = []
    held: list[str] = []
    crashes = [*suspects]
    for run in oldest:
        if run.get("not_before", now) > now + CLOCKS:
            continue  # the scheduler publishes its start when the back-off is over
        if not is_suspect(run):
            due.append(run)
        elif len(crashes) < min(map(together, (*crashes, run["crashes"]))):
            crashes.append(run["crashes"])
            due.append(run)
        else:
            held.append(run["thread_id"])
    return due, held


def _is_fresh(pending: Mapping[str, Any]) -> bool:
    """Whether nothing should be stored for the run's thread yet; its first sequence number tells whether it is so."""
    return bool(pending.get("new_thread")) and pending["epoch"] == 0


async def _nothing() -> list[Any]:
    return []
