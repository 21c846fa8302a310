"""The sweeps: what dead processes left behind is taken up again (ADR 1 and 2).

Contract: every change is a compare-and-set and every publication is repeatable, so a second leader for a moment does no harm.
Recovery does not wait for the sweep of what is unsettled, and one run that cannot be swept (Kafka refuses its events, its document
is damaged) stops no other: it is tried again after its grace period.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.registry.crashes import crash_change
from perdure.registry.run_events import publish_event
from perdure.registry.runs import start_record
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.domain import Action, decide
from perdure.scheduler.settings import SchedulerSettings
from perdure.schemas.commands import StartReason
from perdure.schemas.documents import NOTEBOOK, RUNS, WORKERS
from perdure.schemas.outbox import event_of
from perdure.schemas.topics import COMMANDS

log = logger(__name__)

Run = Mapping[str, Any]

SOURCE = "perdure/scheduler"
RUN_FIELDS = dict.fromkeys(
    (
        "tenant", "thread_id", "graph_id", "assistant_id", "graph_version", "metadata", "traceparent", "status", "owner",
        "epoch", "updated_at", "swept_at", "first_seq", "ended_seq", "crashes", "not_before",
        "multitask_strategy",
    ),
    1,
)  # fmt: skip


WORKER_KEPT = timedelta(days=1)
"""After its lease the document of a worker that is dead or gone is kept for so long, for people."""
PORTION = 1_000
"""Runs that one sweep looks at, the longest untouched first."""
AT_ONCE = 50
"""Ended runs whose events are published at the same time."""


@dataclass(slots=True)
class Swept:
    """What one sweep did."""

    workers_dead: int = 0
    recovered: int = 0
    started: int = 0
    settled: int = 0
    refused: int = 0
    """Runs whose events or starts could not be published; they are tried again after their grace period."""


class Sweeper:
    """Takes up what dead processes left: the runs of dead workers, starts and events that were never published."""

    def __init__(self, db: Database, producer: Producer, clock: DatabaseClock, settings: SchedulerSettings) -> None:
        self._db = db
        self._producer = producer
        self._clock = clock
        self._settings = settings

    async def recover(self, *, declare_dead: bool) -> Swept:
        """Give back the runs of dead workers, and publish their starts.

        Args:
            declare_dead: Whether workers with an expired lease may be declared dead; not right after an outage of the
                database, in which no worker could renew.

        """
        swept = Swept()
        now = await self._clock.now()
        if declare_dead:
            swept.workers_dead = await self._declare_dead(now)
        # Runs before workers: a worker registers before it claims, so an owner of a run seen here is seen there too.
        owned = await self._db[RUNS].find({"settled": False, "status": "running"}, RUN_FIELDS).to_list(None)
        alive = {w["_id"] async for w in self._db[WORKERS].find({"state": "alive"}, {"_id": 1})}
        lost = [run for run in owned if run.get("owner") not in alive]
        for start in range(0, len(lost), PORTION):
            await self._give_back(lost[start : start + PORTION], now, swept)
        return swept

    async def sweep(self) -> Swept:
        """Publish what was never published, of at most ``PORTION`` runs: starts of pending runs, events of ended ones."""
        swept = Swept()
        now = await self._clock.now()
        settings = self._settings
        grace = timedelta(seconds=settings.publish_grace_s), timedelta(seconds=settings.settle_grace_s)
        found = self._db[RUNS].find(_due(now, *grace), RUN_FIELDS).sort("swept_at", 1).limit(PORTION)
        unsettled = await found.to_list(None)
        threads = {"thread_id": {"$in": [run["thread_id"] for run in unsettled]}, "status": "running"}
        busy = (
            {run["thread_id"] async for run in self._db[RUNS].find(threads, {"thread_id": 1})} if unsettled else set()
        )
        due: dict[Action, list[Run]] = {action: [] for action in Action}
        for run in unsettled:
            try:
                action = decide(run, now=now, busy_threads=busy, publish_grace=grace[0], settle_grace=grace[1])
            except Exception:  # one damaged document must not keep the others from being swept
                log.exception("run.not_swept", run_id=run.get("_id"), thread_id=run.get("thread_id"))
                action = Action.NOTHING
                swept.refused += 1
            due[action].append(run)
        await self._publish_starts(self._first_of_thread(due[Action.PUBLISH_START]), StartReason.SWEPT, swept)
        await self._settle_threads({run["thread_id"] for run in due[Action.PUBLISH_EVENTS]}, swept)
        await self._touch(unsettled, now)
        return swept

    async def _declare_dead(self, now: datetime) -> int:
        result = await self._db[WORKERS].update_many(
            {"state": "alive", "expires_at": {"$lt": now}}, {"$set": {"state": "dead"}}
        )
        if result.modified_count:
            log.warning("workers.dead", count=result.modified_count)
        over = {"state": {"$in": ["dead", "gone"]}, "expires_at": {"$lt": now - WORKER_KEPT}}
        await self._db[WORKERS].delete_many(over)
        return int(result.modified_count)

    async def _give_back(self, runs: Sequence[Run], now: datetime, swept: Swept) -> None:
        """Count the loss of a worker, then publish the starts of those that need not wait (ADR 10)."""
        at_once, changes = [], []
        for run in runs:
            crash = crash_change(run, now, self._settings.crash_backoff_s)
            back = crash["$set"] | {"status": "pending", "owner": None, "updated_at": now}
            if back["not_before"] <= now:
                at_once.append(run)
                back["swept_at"] = now
            ours = {"_id": run["_id"], "status": "running", "owner": run["owner"]}
            changes.append(UpdateOne(ours, {**crash, "$set": back}))
        await self._db[RUNS].bulk_write(changes, ordered=False)
        for run in runs:
            log.warning("run.recovered", run_id=run["_id"], thread_id=run["thread_id"], owner=run["owner"])
        swept.recovered += len(runs)
        await self._publish_starts(at_once, StartReason.RECOVERED, swept)

    async def _publish_starts(self, runs: Sequence[Run], reason: StartReason, swept: Swept) -> None:
        """Publish starts at the same time; one that is refused is logged, and published again after its grace period."""
        starts = await asyncio.gather(*(self._start(run, reason) for run in runs), return_exceptions=True)
        for run, error in zip(runs, starts, strict=True):
            if error is None:
                swept.started += reason is StartReason.SWEPT
            else:
                swept.refused += 1
                log.error("run.start_refused", run_id=run["_id"], thread_id=run["thread_id"], error=repr(error))

    async def _start(self, run: Run, reason: StartReason) -> None:
        await self._producer.send(COMMANDS.name, start_record(run, reason, SOURCE))

    async def _settle_threads(self, thread_ids: Collection[str], swept: Swept) -> None:
        """Publish the events of every unsettled run of these threads that has ended, in the order of each thread's history."""
        query = {"thread_id": {"$in": [*thread_ids]}, "settled": False, "ended_seq": {"$exists": True}, "owner": None}
        by_thread: dict[str, list[Run]] = {}
        if thread_ids:
            async for run in self._db[RUNS].find(query, RUN_FIELDS):
                by_thread.setdefault(run["thread_id"], []).append(run)
        threads = list(by_thread.values())
        for start in range(0, len(threads), AT_ONCE):
            await asyncio.gather(*(self._settle(runs, swept) for runs in threads[start : start + AT_ONCE]))

    async def _settle(self, runs: Sequence[Run], swept: Swept) -> None:
        """Publish every event of a thread's ended runs again, then settle each run.

        Nothing is published past a run whose events cannot be: a thread's events keep their order. No other thread waits.
        """
        for run in sorted(runs, key=lambda one: one.get("first_seq", 0)):
            try:
                await self._publish_events(run)
            except PyMongoError:
                raise
            except Exception as error:
                swept.refused += 1
                log.exception("run.not_settled", run_id=run["_id"], thread_id=run["thread_id"], error=repr(error))
                return
            swept.settled += 1

    async def _publish_events(self, run: Run) -> None:
        entries = self._db[NOTEBOOK].find(
            {
                "thread": run["thread_id"],
                "seq": {"$gte": run["first_seq"], "$lte": run["ended_seq"]},
                "run": run["_id"],
            },
            {"body": 0},
        )
        async for entry in entries:
            if (event := event_of(run, entry)) is not None:
                await publish_event(self._producer, run, event, SOURCE)
        await self._db[RUNS].update_one(
            {"_id": run["_id"], "ended_seq": run["ended_seq"], "owner": None}, {"$set": {"settled": True}}
        )
        log.info("run.settled", run_id=run["_id"], thread_id=run["thread_id"])

    async def _touch(self, runs: Sequence[Run], now: datetime) -> None:
        """Let those that were looked at come again after their grace period, behind those that were not."""
        if runs:
            query = {"_id": {"$in": [run["_id"] for run in runs]}, "settled": False, "owner": None}
            await self._db[RUNS].update_many(query, {"$set": {"swept_at": now}})

    @staticmethod
    def _first_of_thread(runs: Sequence[Run]) -> list[Run]:
        """One start a thread is enough: the claim takes the oldest."""
        return list({run["thread_id"]: run for run in runs}.values())


def _due(now: datetime, publish_grace: timedelta, settle_grace: timedelta) -> dict[str, Any]:
    """Runs that nobody owns and for which something is due by the time; see :func:`perdure.scheduler.domain.decide`."""
    pending: dict[str, Any] = {"status": "pending", "delayed": None}
    ended = {"status": {"$nin": ["pending", "running"]}}
    branches: list[dict[str, Any]] = [
        {**pending, "not_before": {"$lte": now}, "$expr": {"$lt": ["$swept_at", "$not_before"]}},
    ]
    for status, grace in ((pending, publish_grace), (ended, settle_grace)):
        branches.append({**status, "swept_at": {"$lte": now - grace}})
        branches.append({**status, "swept_at": None, "updated_at": {"$lte": now - grace}})
    return {"settled": False, "owner": None, "$or": branches}
