"""Batches: keeps as many items of each running as it may, counts what ends, and says when it is over (ADR 14).

Contract: turns of the leader. Everything that is decided is in the items and in the batch's document before it is done, so whoever
leads next goes on from there: an item begins an attempt by a compare-and-set, and its run has an id that follows from it. The
counts of a batch are kept in memory and stored as absolute numbers; they are taken from the items when the batch is taken over,
when anything was not as expected, and before it is said to be over.

Outside: storing what was uploaded, and what clients ask for (the gateway changes the batch's document and nothing else).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import Counter, Gauge
from pymongo.errors import PyMongoError

from perdure.chassis.at_rest import sealed
from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.registry.batch_progress import open_of, over_threshold, sampled
from perdure.registry.runs import new_id
from perdure.registry.waits import Waits
from perdure.scheduler import batch_events
from perdure.scheduler.batch_cancelling import Cancelling
from perdure.scheduler.batch_ends import Ends, Moved
from perdure.scheduler.batch_items import WINDOW, Items, windows
from perdure.scheduler.batch_rules import Window, deal, places
from perdure.scheduler.batch_starts import Starts
from perdure.scheduler.settings import SchedulerSettings
from perdure.schemas.batch_documents import BATCHES, BatchStatus, ItemStatus, Sample
from perdure.schemas.documents import RUNS, WORKERS

log = logger(__name__)

RUNNING = Gauge("perdure_batch_items_running", "Items of batches that run now")
PLACES = Gauge("perdure_batch_places", "Items of batches that may run at once")
STARTED = Counter("perdure_batch_items_started", "Attempts at items that were begun")
ENDED = Counter("perdure_batch_items_ended", "Items by how they ended", ["status"])

START_AT_ONCE: Final = 200
"""Items of one batch that a turn starts at most: their payloads are in memory, a megabyte each at most."""
CANCEL_EVERY_S: Final = 0.5
RECOUNT_EVERY_S: Final = 300.0
REST_S: Final = 0.5
"""How long to rest while no batch is open: a new one begins that much later at most."""
NOTE_EVERY_S: Final = 5.0
"""How often to note runs that end after their batch, while none is open."""

Document = dict[str, Any]


@dataclass(slots=True)
class Going:
    """What the leader knows of one open batch."""

    batch: Document
    counts: dict[str, int]
    samples: list[Sample]
    counted_at: float = field(default_factory=time.monotonic)
    next: int = 1
    """Where the next waiting items are looked for; below it only those in ``again`` wait."""
    again: list[int] = field(default_factory=list)
    cancelling: Cancelling | None = None
    cancel_at: float = 0.0
    stored: dict[str, int] | None = None

    @property
    def status(self) -> BatchStatus:
        """As its document said at the beginning of this turn, or as this turn has changed it."""
        return BatchStatus(self.batch["status"])

    def move(self, by: Mapping[str, int]) -> None:
        """Change the counts."""
        for status, number in by.items():
            self.counts[status] += number

    def room(self) -> int:
        """Items that it could start now, if it were alone."""
        if self.status is not BatchStatus.RUNNING:
            return 0
        free = int(self.batch["concurrency"]) - self.counts[ItemStatus.STARTED]
        return max(0, min(free, self.counts[ItemStatus.WAITING]))


class Batches:
    """All open batches. Belongs to one event loop."""

    def __init__(self, db: Database, producer: Producer, waits: Waits, settings: SchedulerSettings) -> None:
        self._db = db
        self._batches = db[BATCHES]
        self._producer = producer
        self._waits = waits
        self._settings = settings
        self._items = Items(db)
        self._starts = Starts(db, producer, self._items, settings.batch_backoff_s)
        self._ends = Ends(db, self._items)
        self._going: dict[str, Going] = {}
        self._turned_at = 0.0
        self._window = Window(settings.batch_patience_s)
        self._owner = new_id()

    async def rest_s(self) -> float:
        """For how many seconds there is nothing to do; 0 while a batch is open, and now and then to note what ended late.

        Raises:
            PyMongoError: the database does not answer.

        """
        if self._going or time.monotonic() - self._turned_at >= NOTE_EVERY_S:
            return 0.0
        found = await self._batches.find_one({"open": True}, {"_id": 1})
        return REST_S if found is None else 0.0

    async def turn(self) -> None:
        """Bring every open batch on.

        Raises:
            PyMongoError: the database does not answer; everything is read anew by the next turn.

        """
        self._turned_at = time.monotonic()
        try:
            await self._turn()
        except PyMongoError:
            self._going.clear()
            raise

    async def _turn(self) -> None:
        found = {one["_id"]: one async for one in self._batches.find({"open": True})}
        self._going = {id_: going for id_, going in self._going.items() if id_ in found}
        for batch in found.values():
            await self._guarded(batch["_id"], self._look(batch))
        self._take_over(await self._ends.note())
        for id_ in list(self._going):
            await self._guarded(id_, self._decide(self._going[id_]))
        await self._refill()
        for id_ in list(self._going):
            await self._guarded(id_, self._conclude(self._going[id_]))
        RUNNING.set(sum(going.counts[ItemStatus.STARTED] for going in self._going.values()))

    async def _guarded(self, batch_id: str, step: Any) -> None:
        """A batch that fails holds up no other; it is read anew by the next turn."""
        try:
            await step
        except PyMongoError:
            raise
        except Exception:
            self._going.pop(batch_id, None)
            log.exception("batch.turn_failed", batch_id=batch_id)

    async def _look(self, batch: Document) -> None:
        """Take over what its document says now; the counts where we do not have them."""
        going = self._going.get(batch["_id"])
        if going is None or batch.get("owner") != self._owner:
            going = await self._load(batch)
        going.batch = batch
        if going.status is BatchStatus.PENDING:
            await self._set(going, {"status": BatchStatus.RUNNING.value, "started_at": now()})
        if "redrive" in batch:
            await self._redrive(going)
        if not batch.get("samples"):
            going.samples = sampled([], going.counts, now())  # at the beginning, and after a pause or a redrive

    async def _load(self, batch: Document) -> Going:
        """Become its owner, and see how its items stand."""
        await self._batches.update_one({"_id": batch["_id"]}, {"$set": {"owner": self._owner}})
        mended = 0
        async for part in self._items.going(batch):
            mended += await self._starts.mend(batch, part)
        going = Going(batch, await self._items.count(batch), list(batch.get("samples", ())))
        self._going[batch["_id"]] = going
        log.info("batch.taken_over", batch_id=batch["_id"], counts=going.counts, mended=mended)
        return going

    def _take_over(self, moved: Mapping[str, Moved]) -> None:
        for batch_id, change in moved.items():
            for status, number in change.by.items():
                if number > 0 and ItemStatus(status).ended:
                    ENDED.labels(status=status).inc(number)
            going = self._going.get(batch_id)
            if going is None:
                continue
            if not change.certain:
                del self._going[batch_id]
                continue
            going.move(change.by)
            going.again += change.again

    async def _decide(self, going: Going) -> None:
        """Pause it when too many items failed; go on cancelling."""
        if going.status is BatchStatus.RUNNING and over_threshold(going.batch, going.counts):
            failed = going.counts[ItemStatus.FAILED]
            reason = (
                f"{failed} of {going.batch['total']} items failed; {going.batch['failure_threshold']:g} are allowed"
            )
            told = batch_events.threshold_reached(going.batch, going.counts, now())
            change = {"status": BatchStatus.PAUSED.value, "pause_reason": reason, "reached": going.batch["reached"] + 1}
            if await self._set(going, {**change, "counts": dict(going.counts)}, told):
                log.warning("batch.paused", batch_id=going.batch["_id"], reason=reason)
        if going.status is not BatchStatus.CANCELLING:
            going.cancelling = None
        elif time.monotonic() >= going.cancel_at:
            going.cancelling = going.cancelling or Cancelling(self._db, self._producer, self._items, self._waits)
            going.move(await going.cancelling.step(going.batch))
            going.cancel_at = time.monotonic() + CANCEL_EVERY_S

    async def _refill(self) -> None:
        """Start items where there is room, the batches in turn."""
        room = {id_: going.room() for id_, going in self._going.items()}
        if not any(room.values()):
            return
        workers = await self._db[WORKERS].find({"state": "alive"}, {"slots": 1}).to_list(None)
        running = {id_: going.counts[ItemStatus.STARTED] for id_, going in self._going.items()}
        most = places(workers, self._settings.batch_share, self._settings.batch_runs_limit)
        most = self._window.after(await self._unclaimed_s(), sum(running.values()), most)
        PLACES.set(most)
        for id_, wanted in deal(running, room, most - sum(running.values())).items():
            if wanted:
                await self._guarded(id_, self._start(self._going[id_], min(wanted, START_AT_ONCE)))

    async def _unclaimed_s(self) -> float:
        """For how many seconds the oldest run of a batch has waited for a worker that could take it."""
        moment = now()
        query = {"settled": False, "owner": None, "status": "pending", "batch.id": {"$exists": True}}
        waiting = self._db[RUNS].find(query, {"updated_at": 1, "not_before": 1, "crashes": 1})
        since = [
            max(run["updated_at"], run.get("not_before", run["updated_at"]))
            async for run in waiting
            if not run.get("crashes")
        ]
        return (moment - min(since)).total_seconds() if since else 0.0

    async def _start(self, going: Going, wanted: int) -> None:
        numbers, going.again = going.again[:wanted], going.again[wanted:]
        items = await self._items.some(going.batch, numbers) if numbers else []
        if len(items) < wanted:
            more, going.next = await self._items.waiting(going.batch, going.next, wanted - len(items))
            known = {item["_id"] for item in items}
            items += [item for item in more if item["_id"] not in known]
        begun = await self._items.begin(items, now()) if items else []
        going.move({ItemStatus.WAITING: -len(begun), ItemStatus.STARTED: len(begun)})
        if begun:
            await self._starts.register(going.batch, begun)
            STARTED.inc(len(begun))
        if len(begun) < len(items):
            self._going.pop(going.batch["_id"], None)

    async def _redrive(self, going: Going) -> None:
        """Let items that ended without success wait again; the order goes away when all of them do."""
        order = going.batch["redrive"]
        for first, end in windows(going.batch["total"], WINDOW):
            await self._items.put_back(going.batch, order["statuses"], first, end)
        await self._count_anew(going)
        query = {"_id": going.batch["_id"], "redrive.id": order["id"]}
        await self._batches.update_one(query, {"$unset": {"redrive": ""}})
        del going.batch["redrive"]
        log.info("batch.redriven", batch_id=going.batch["_id"], counts=going.counts)

    async def _conclude(self, going: Going) -> None:
        """Store the counts, say so when it is over, and leave it alone when that is told."""
        batch = going.batch
        if not going.status.ended and open_of(going.counts) == 0:
            await self._count_anew(going)
            if open_of(going.counts) == 0:
                await self._finish(going)
        elif time.monotonic() - going.counted_at > RECOUNT_EVERY_S:
            await self._count_anew(going)
        if going.status is BatchStatus.RUNNING:
            going.samples = sampled(going.samples, going.counts, now())
        await self._store_counts(going)
        if going.status.ended and not batch.get("outbox"):
            over = {"_id": batch["_id"], "status": batch["status"], "outbox": [], "redrive": {"$exists": False}}
            await self._batches.update_one(over, {"$unset": {"open": ""}})

    async def _finish(self, going: Going) -> None:
        cancelling = going.status is BatchStatus.CANCELLING
        status = BatchStatus.CANCELLED if cancelling else BatchStatus.COMPLETED
        moment = now()
        told = batch_events.finished(going.batch, going.counts, status, moment)
        change = {"status": status.value, "ended_at": moment, "finished": going.batch["finished"] + 1}
        if await self._set(going, {**change, "pause_reason": None, "counts": dict(going.counts)}, told):
            log.info("batch.finished", batch_id=going.batch["_id"], status=status, counts=going.counts)

    async def _set(self, going: Going, change: Document, told: Document | None = None) -> bool:
        """Change a batch that is as we know it; false when somebody changed it meanwhile, which the next turn sees."""
        known = {name: going.batch[name] for name in ("_id", "status", "finished", "reached")}
        query = {**known, "owner": self._owner, "redrive": {"$exists": "redrive" in going.batch}}
        update: Document = {"$set": {**change, "updated_at": now()}}
        if told is not None:
            (kept,) = sealed(BATCHES, {"outbox": [told]}, going.batch["_id"])["outbox"]
            update["$push"] = {"outbox": kept}
        changed = await self._batches.update_one(query, update)
        if not changed.modified_count:
            return False
        going.batch |= change
        if told is not None:
            going.batch["outbox"] = [*going.batch.get("outbox", ()), told]
        return True

    async def _count_anew(self, going: Going) -> None:
        going.counts = await self._items.count(going.batch)
        going.counted_at, going.next, going.again = time.monotonic(), 1, []

    async def _store_counts(self, going: Going) -> None:
        known, newest = dict(going.counts), going.samples[-1]["at"] if going.samples else None
        stored = going.batch.get("samples") or [{"at": None}]
        if known == going.stored and stored[-1]["at"] == newest:
            return
        changed = await self._batches.update_one(
            {"_id": going.batch["_id"], "owner": self._owner},
            {"$set": {"counts": known, "samples": going.samples, "updated_at": now()}},
        )
        going.stored = known
        if not changed.matched_count:
            self._going.pop(going.batch["_id"], None)  # another instance leads, or it is gone
