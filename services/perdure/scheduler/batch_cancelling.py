"""Cancels what is left of a batch: what waits at once, what runs by asking, what hibernates by closing its waits (ADR 14).

Contract: steps of a turn; each can be repeated. An item that hibernates is cancelled one step after its waits are closed, so that
whoever was waking it at that moment is seen and asked to stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database
from perdure.registry.batches import newest_run_id, thread_id_of
from perdure.registry.waits import Waits
from perdure.scheduler.batch_items import WINDOW, Items
from perdure.scheduler.sweeps import SOURCE
from perdure.schemas.batch_documents import ItemStatus
from perdure.schemas.commands import CancelRun
from perdure.schemas.documents import RUNS, WAITS, WaitStatus
from perdure.schemas.envelope import encode
from perdure.schemas.topics import COMMANDS

WINDOWS: Final = 5
"""Ranges of waiting items that a step cancels: other batches want their turn."""
ACTIVE: Final = ["pending", "running"]

Document = dict[str, Any]


class Cancelling:
    """The cancelling of one batch, in steps."""

    def __init__(self, db: Database, producer: Producer, items: Items, waits: Waits) -> None:
        self._db = db
        self._producer = producer
        self._items = items
        self._waits = waits
        self._next = 1
        self._asked: set[str] = set()
        self._closed: set[str] = set()

    async def step(self, batch: Mapping[str, Any]) -> dict[str, int]:
        """Do some of it; how the counts change, by status."""
        moved = 0
        for _ in range(WINDOWS):
            if self._next > batch["total"]:
                break
            end = min(self._next + WINDOW, batch["total"] + 1)
            moved += await self._items.cancel_waiting(batch, self._next, end, now())
            self._next = end
        by = {ItemStatus.WAITING.value: -moved, ItemStatus.CANCELLED.value: moved}
        if self._next > batch["total"]:
            async for part in self._items.going(batch):
                ended = await self._stop(batch, part)
                by[ItemStatus.CANCELLED.value] += ended
                by[ItemStatus.INTERRUPTED.value] = by.get(ItemStatus.INTERRUPTED.value, 0) - ended
        return by

    async def _stop(self, batch: Mapping[str, Any], items: Sequence[Document]) -> int:
        """Ask runs to stop; of the items that hibernate, how many were cancelled."""
        threads = {thread_id_of(batch, item["number"]): item for item in items}
        query = {"thread_id": {"$in": list(threads)}, "status": {"$in": ACTIVE}, "settled": False}
        found = await self._db[RUNS].find(query, {"tenant": 1, "thread_id": 1, "traceparent": 1}).to_list(None)
        await self._ask([run for run in found if run["_id"] not in self._asked])
        busy = {run["thread_id"] for run in found}
        asleep = [one for one, item in threads.items() if item["status"] == ItemStatus.INTERRUPTED and one not in busy]
        gone = [threads[one] for one in asleep if one in self._closed]
        await self._close([one for one in asleep if one not in self._closed])
        cancelled = ItemStatus.CANCELLED.value
        changes = [(item, {"status": cancelled, "retry_of": newest_run_id(item)}) for item in gone]
        return await self._items.change(changes, now()) if changes else 0

    async def _ask(self, runs: Sequence[Document]) -> None:
        if not runs:
            return
        ids = [run["_id"] for run in runs]
        asked = {"_id": {"$in": ids}, "status": {"$in": ACTIVE}}
        await self._db[RUNS].update_many(asked, {"$min": {"cancel_requested_at": now()}})
        for run in runs:
            command = CancelRun(tenant=run["tenant"], thread_id=run["thread_id"], run_id=run["_id"])
            record = encode(
                command,
                id=f"{run['_id']}:cancel",
                source=SOURCE,
                correlation_id=run["_id"],
                traceparent=run.get("traceparent"),
                time=now(),
            )
            self._producer.produce(COMMANDS.name, record)
        self._asked.update(ids)

    async def _close(self, threads: Sequence[str]) -> None:
        if not threads:
            return
        query = {"thread_id": {"$in": list(threads)}, "status": WaitStatus.OPEN.value}
        found = await self._db[WAITS].find(query, {"_id": 1}).to_list(None)
        if found:
            await self._waits.close([wait["_id"] for wait in found], now())
        self._closed.update(threads)
