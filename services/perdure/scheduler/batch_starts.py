"""Registers the runs of begun items: the decision is in the item, so it can be done again (ADR 14).

Contract: :meth:`Starts.register` may be called any number of times for an attempt; there is one run of it. An item whose failed run
somebody has retried by hand takes that run for its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from perdure.chassis.clock import now
from perdure.chassis.inserts import insert_new
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.registry.batches import item_retry, item_run, item_thread, run_id_of
from perdure.registry.runs import publish_start
from perdure.scheduler.batch_items import Items
from perdure.scheduler.sweeps import SOURCE
from perdure.schemas.commands import StartReason
from perdure.schemas.documents import PAYLOADS, RUNS, THREADS, RunDocument, RunStatus

log = logger(__name__)

BACKOFF_CAP_S: Final = 300.0
ENDED: Final = [status.value for status in RunStatus if not status.active]

Document = dict[str, Any]


class Starts:
    """Registers runs of items."""

    def __init__(self, db: Database, producer: Producer, items: Items, backoff_s: float) -> None:
        self._db = db
        self._producer = producer
        self._items = items
        self._backoff_s = backoff_s

    async def register(self, batch: Mapping[str, Any], begun: Sequence[Mapping[str, Any]]) -> None:
        """Register the runs of items whose attempt has begun, and publish their starts."""
        moment = now()
        wanted = [item["retry_of"] for item in begun if "retry_of" in item]
        failed = {run["_id"]: run async for run in self._db[RUNS].find({"_id": {"$in": wanted}})} if wanted else {}
        again = [item for item in begun if item.get("retry_of") in failed]
        fresh = [item for item in begun if item.get("retry_of") not in failed]
        if fresh:
            await insert_new(self._db[THREADS], [item_thread(batch, item, moment) for item in fresh])
            made = [item_run(batch, item, moment) for item in fresh]
            if chunks := [chunk for _, of_run in made for chunk in of_run]:
                await insert_new(self._db[PAYLOADS], chunks)
            runs = [run for run, _ in made]
            await insert_new(self._db[RUNS], runs)
            self._publish(runs, StartReason.REGISTERED)
        if again:
            await self._register_retries(again, failed, moment)

    async def mend(self, batch: Mapping[str, Any], going: Sequence[Mapping[str, Any]]) -> int:
        """Register the runs of begun items that were never registered, and let ends that were not seen be seen; how many."""
        named = {item.get("run_id") or run_id_of(item): item for item in going}
        found = self._db[RUNS].find({"_id": {"$in": list(named)}}, {"status": 1})
        status = {run["_id"]: run["status"] async for run in found}
        missing = [item for run_id, item in named.items() if run_id not in status and item["status"] == "started"]
        if missing:
            log.info("batch.starts_mended", batch_id=batch["_id"], count=len(missing))
            await self.register(batch, await self._items.with_payload(missing))
        ended = [run_id for run_id, item in named.items() if _unseen(status.get(run_id), item)]
        if ended:
            await self._db[RUNS].update_many({"_id": {"$in": ended}}, {"$set": {"batch_noted": False}})
        return len(missing) + len(ended)

    async def _register_retries(
        self, items: Sequence[Mapping[str, Any]], failed: Mapping[str, Document], moment: datetime
    ) -> None:
        runs: list[RunDocument] = []
        for item in items:
            before = failed[item["retry_of"]]
            run = item_retry(before, item, moment, moment + self._pause(item))
            await self._copy_payload(before, run)
            runs.append(run)
        await insert_new(self._db[RUNS], runs)
        known = self._db[RUNS].find({"_id": {"$in": [run["_id"] for run in runs]}}, {"_id": 1})
        registered = {run["_id"] async for run in known}
        for item, run in zip(items, runs, strict=True):
            if run["_id"] not in registered:
                await self._adopt(item, run)
        self._publish(
            [run for run in runs if run["_id"] in registered and "not_before" not in run], StartReason.RESUMED
        )

    async def _adopt(self, item: Mapping[str, Any], refused: RunDocument) -> None:
        """The failed run has been retried already, by hand: that run is the item's attempt."""
        key = {"tenant": refused["tenant"], "idempotency_key": refused["idempotency_key"]}
        other = await self._db[RUNS].find_one(key, {"resumes": 1})
        if other is None:
            raise LookupError(f"run {refused['_id']} of item {item['_id']} was refused, and nobody has its key")
        if other.get("resumes") != refused["resumes"]:  # a client's run took that key: it is nobody's retry
            unkeyed: Any = {name: value for name, value in refused.items() if name != "idempotency_key"}
            await insert_new(self._db[RUNS], [unkeyed])
            self._publish([unkeyed], StartReason.RESUMED)
            return
        await self._items.adopt(item, other["_id"])
        await self._db[RUNS].update_one({"_id": other["_id"]}, {"$set": {"batch": refused["batch"]}})
        # What ended before it was marked is shown as an end that nobody has noted.
        ended = {"_id": other["_id"], "status": {"$in": ENDED}}
        await self._db[RUNS].update_one(ended, {"$set": {"batch_noted": False}})

    async def _copy_payload(self, before: Mapping[str, Any], run: RunDocument) -> None:
        chunks = range(before.get("payload_chunks", 0))
        found = {
            chunk["_id"]: chunk
            async for chunk in self._db[PAYLOADS].find({"_id": {"$in": [f"{before['_id']}:{n}" for n in chunks]}})
        }
        copies = [{**found[f"{before['_id']}:{n}"], "_id": f"{run['_id']}:{n}", "run_id": run["_id"]} for n in chunks]
        if copies:
            await insert_new(self._db[PAYLOADS], copies)

    def _pause(self, item: Mapping[str, Any]) -> timedelta:
        """Before the n-th attempt in a row: doubled each time, none after a redrive."""
        before = item["attempt"] - item.get("base", 0) - 1
        return timedelta(seconds=min(BACKOFF_CAP_S, self._backoff_s * 2 ** min(before - 1, 30)) if before > 0 else 0.0)

    def _publish(self, runs: Sequence[RunDocument], reason: StartReason) -> None:
        for run in runs:
            publish_start(self._producer, run, reason, SOURCE)


def _unseen(status: str | None, item: Mapping[str, Any]) -> bool:
    """Whether a run has ended and its item does not say so."""
    return status in ENDED and not (status == RunStatus.INTERRUPTED and item["status"] == "interrupted")
