"""The sweeps: what dead processes left behind is taken up again (ADR 1 and 2).

Contract: every change is a compare-and-set and every publication is repeatable, so a second leader for a moment does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import UpdateOne

from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database, server_time
from perdure.chassis.telemetry import logger
from perdure.registry.crashes import crash_change
from perdure.registry.runs import start_record
from perdure.scheduler.domain import Action, decide
from perdure.scheduler.settings import SchedulerSettings
from perdure.schemas.commands import StartReason
from perdure.schemas.documents import NOTEBOOK, RUNS, WORKERS
from perdure.schemas.outbox import event_of, record_of
from perdure.schemas.topics import COMMANDS, EVENTS

log = logger(__name__)

SOURCE = "perdure/scheduler"
RUN_FIELDS = dict.fromkeys(
    (
        "tenant", "thread_id", "graph_id", "assistant_id", "graph_version", "metadata", "traceparent", "status", "owner",
        "epoch", "updated_at", "swept_at", "first_seq", "ended_seq", "crashes", "not_before",
    ),
    1,
)  # fmt: skip


@dataclass(slots=True)
class Swept:
    """What one sweep did."""

    workers_dead: int = 0
    recovered: int = 0
    started: int = 0
    settled: int = 0


class Sweeper:
    """Sweeps the unsettled runs."""

    def __init__(self, db: Database, producer: Producer, settings: SchedulerSettings) -> None:
        self._db = db
        self._producer = producer
        self._settings = settings

    async def sweep(self, *, declare_dead: bool) -> Swept:
        """Do everything that is due once.

        Args:
            declare_dead: Whether workers with an expired lease may be declared dead; not right after an outage of the
                database, in which no worker could renew.

        """
        swept = Swept()
        now = await server_time(self._db)
        if declare_dead:
            swept.workers_dead = await self._declare_dead(now)
        # Runs before workers: a worker registers before it claims, so an owner of a run seen here is seen there too.
        unsettled = await self._db[RUNS].find({"settled": False}, RUN_FIELDS).to_list(None)
        alive = {w["_id"] async for w in self._db[WORKERS].find({"state": "alive"}, {"_id": 1})}
        busy = {run["thread_id"] for run in unsettled if run["status"] == "running"}
        due: dict[Action, list[Mapping[str, Any]]] = {action: [] for action in Action}
        for run in unsettled:
            action = decide(
                run,
                now=now,
                alive=alive,
                busy_threads=busy,
                publish_grace=timedelta(seconds=self._settings.publish_grace_s),
                settle_grace=timedelta(seconds=self._settings.settle_grace_s),
            )
            due[action].append(run)
        swept.recovered = await self._recover(due[Action.RECOVER], now)
        swept.started = await self._publish_starts(self._first_of_thread(due[Action.PUBLISH_START]), now)
        for ended in due[Action.PUBLISH_EVENTS]:
            await self._publish_events(ended)
            swept.settled += 1
        return swept

    async def _declare_dead(self, now: datetime) -> int:
        result = await self._db[WORKERS].update_many(
            {"state": "alive", "expires_at": {"$lt": now}}, {"$set": {"state": "dead"}}
        )
        if result.modified_count:
            log.warning("workers.dead", count=result.modified_count)
        return int(result.modified_count)

    async def _recover(self, runs: Sequence[Mapping[str, Any]], now: datetime) -> int:
        """Give back runs whose owner is dead and count the loss, then publish the starts of those that need not wait (ADR 10)."""
        if not runs:
            return 0
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
        for run in at_once:
            await self._start(run, StartReason.RECOVERED)
        return len(runs)

    async def _publish_starts(self, runs: Sequence[Mapping[str, Any]], now: datetime) -> int:
        for run in runs:
            await self._start(run, StartReason.SWEPT)
        if runs:
            await self._db[RUNS].bulk_write(
                [UpdateOne({"_id": r["_id"], "status": "pending"}, {"$set": {"swept_at": now}}) for r in runs],
                ordered=False,
            )
        return len(runs)

    async def _start(self, run: Mapping[str, Any], reason: StartReason) -> None:
        await self._producer.send(COMMANDS.name, start_record(run, reason, SOURCE))

    async def _publish_events(self, run: Mapping[str, Any]) -> None:
        """Publish every event of an ended run again, then settle it."""
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
                await self._producer.send(EVENTS.name, record_of(run, event, SOURCE))
        await self._db[RUNS].update_one(
            {"_id": run["_id"], "ended_seq": run["ended_seq"], "owner": None}, {"$set": {"settled": True}}
        )
        log.info("run.settled", run_id=run["_id"], thread_id=run["thread_id"])

    @staticmethod
    def _first_of_thread(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """One start a thread is enough: the claim takes the oldest."""
        return list({run["thread_id"]: run for run in runs}.values())
