"""The ends of batches' runs, brought to their items (ADR 14).

Contract: agent-step marks a batch's run in the write that ends it (``batch_noted: false``). The mark comes off when the item says
so; between the two anything may die, and it is done again. A look costs what has ended since the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.registry.batches import after_end
from perdure.scheduler.batch_items import Items
from perdure.schemas.batch_documents import BATCHES, BatchStatus, ItemStatus, item_key
from perdure.schemas.documents import RUNS

log = logger(__name__)

FIELDS: Final = dict.fromkeys(("status", "batch", "error", "wait_id", "cancel_requested_at", "ended_at"), 1)
BATCH_FIELDS: Final = {"max_attempts": 1, "status": 1}
TOGETHER: Final = 1_000
CANCELLED: Final = (BatchStatus.CANCELLING, BatchStatus.CANCELLED)

Document = dict[str, Any]


@dataclass(slots=True)
class Moved:
    """What ends changed in one batch."""

    by: dict[str, int] = field(default_factory=dict)
    """How the counts change, by status."""
    again: list[int] = field(default_factory=list)
    """Numbers of items that wait for their next attempt."""
    certain: bool = True
    """False when fewer items changed than should have: count anew."""


class Ends:
    """Notes the ends of runs."""

    def __init__(self, db: Database, items: Items) -> None:
        self._db = db
        self._items = items

    async def note(self) -> dict[str, Moved]:
        """Note what has ended; what changed, by batch."""
        found: list[Document] = await self._db[RUNS].find({"batch_noted": False}, FIELDS).to_list(None)
        found.sort(key=lambda run: (run["ended_at"], run["_id"]))
        moved: dict[str, Moved] = {}
        for start in range(0, len(found), TOGETHER):
            part = found[start : start + TOGETHER]
            await self._note(part, moved)
            await self._db[RUNS].update_many(
                {"_id": {"$in": [run["_id"] for run in part]}, "batch_noted": False}, {"$unset": {"batch_noted": ""}}
            )
        return moved

    async def _note(self, runs: Sequence[Document], moved: dict[str, Moved]) -> None:
        named = {run["_id"]: item_key(run["batch"]["id"], run["batch"]["number"]) for run in runs}
        items = await self._items.by_key(set(named.values()))
        ids = list({item["batch"] for item in items.values()})
        batches = {one["_id"]: one async for one in self._db[BATCHES].find({"_id": {"$in": ids}}, BATCH_FIELDS)}
        changes: dict[str, Document] = {}
        for run in runs:
            item = items.get(named[run["_id"]])
            batch = batches.get(run["batch"]["id"])
            if item is None or batch is None:
                continue  # removed since
            current = item | changes.get(item["_id"], {})
            change = after_end(
                current,
                run,
                max_attempts=batch["max_attempts"],
                retry=batch["status"] not in CANCELLED,
            )
            if change is not None:
                changes[item["_id"]] = changes.get(item["_id"], {}) | change
        by_batch: dict[str, list[tuple[Document, Document]]] = {}
        for key, change in changes.items():
            by_batch.setdefault(items[key]["batch"], []).append((items[key], change))
        for batch_id, pairs in by_batch.items():
            await self._apply(pairs, moved.setdefault(batch_id, Moved()))

    async def _apply(self, pairs: Sequence[tuple[Mapping[str, Any], Document]], into: Moved) -> None:
        changed = await self._items.change(pairs, now())
        into.certain = into.certain and changed == len(pairs)
        for item, change in pairs:
            into.by[item["status"]] = into.by.get(item["status"], 0) - 1
            into.by[change["status"]] = into.by.get(change["status"], 0) + 1
            if change["status"] == ItemStatus.WAITING:
                into.again.append(item["number"])
