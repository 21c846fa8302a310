"""The gateway's adapter for batches: read them and their items, ask for pause, resume, cancellation and redrive (ADR 14).

Contract: every method sees the caller's tenant only, and changes the batch's document only; the scheduler does what it says. Items
are read by ranges of their keys, so a page costs what it shows, and a filter the items that it passes over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.resources.batches.upload import Upload
from perdure.gateway.stores.store import Store
from perdure.registry.batch_progress import ended_of
from perdure.registry.runs import new_id
from perdure.schemas.batch_documents import BATCH_ITEMS, BATCHES, BatchDocument, BatchStatus, ItemStatus, item_range

WINDOW: Final = 2_000
WITHOUT_PAYLOAD: Final = {"payload": 0}
RUNNABLE: Final = [BatchStatus.PENDING.value, BatchStatus.RUNNING.value]
GOING: Final = [*RUNNABLE, BatchStatus.PAUSED.value]
ENDED: Final = [BatchStatus.COMPLETED.value, BatchStatus.CANCELLED.value]

Document = dict[str, Any]


class BatchStore:
    """Batches of all tenants. Belongs to one event loop."""

    def __init__(self, database: Database, store: Store, items_limit: int) -> None:
        self.database = database
        self._batches = database[BATCHES]
        self._items = database[BATCH_ITEMS]
        self._store = store
        self._items_limit = items_limit

    def upload(self, batch: BatchDocument, room: int | None = None) -> Upload:
        """An upload of this batch, with nothing stored yet; ``room``: items that its tenant may have besides those it has."""
        return Upload(self.database, self._store, batch, self._items_limit, room)

    async def of_key(self, tenant: str, key: str) -> Document | None:
        """The batch that was registered with this idempotency key."""
        return await self._store.read(lambda: self._batches.find_one({"tenant": tenant, "idempotency_key": key}))

    async def require(self, batch_id: str, tenant: str) -> Document:
        """The batch with this id.

        Raises:
            RequestProblem: ``unknown-batch``.

        """
        query = {"_id": batch_id, "tenant": tenant, "total": {"$exists": True}}
        found = await self._store.read(lambda: self._batches.find_one(query))
        if found is None:
            raise RequestProblem(
                "unknown-batch", f"There is no batch {batch_id!r}; GET /batches lists those that there are."
            )
        return found

    async def page(self, tenant: str, status: str | None, limit: int, before: str | None) -> list[Document]:
        """Batches, newest first, older than the id ``before``."""
        query: Document = {"tenant": tenant, "total": {"$exists": True}}
        if status is not None:
            query["status"] = status
        if before is not None:
            query["_id"] = {"$lt": before}
        return await self._store.read(lambda: self._batches.find(query).sort("_id", -1).limit(limit).to_list(None))

    async def items(self, batch: Mapping[str, Any], statuses: Sequence[str], limit: int, after: int) -> list[Document]:
        """At most ``limit`` items with a higher number than ``after``, in any of these statuses (none: in all)."""
        found: list[Document] = []
        async for part in self.windows(batch, statuses, after, limit if not statuses else WINDOW):
            found += part
            if len(found) >= limit:
                break
        return found[:limit]

    async def windows(
        self, batch: Mapping[str, Any], statuses: Sequence[str], after: int, width: int
    ) -> AsyncIterator[list[Document]]:
        """The same, all of them, in parts."""
        for first in range(after + 1, batch["total"] + 1, width):
            query: Document = item_range(batch["_id"], first, min(first + width, batch["total"] + 1))
            if statuses:
                query["status"] = {"$in": list(statuses)}
            yield await self._store.read(
                lambda query=query: self._items.find(query, WITHOUT_PAYLOAD).sort("_id", 1).to_list(None)  # type: ignore[misc]
            )

    async def pause(self, batch_id: str, tenant: str) -> Document:
        """Start no further item; nothing to do where it is paused."""
        change = {"status": BatchStatus.PAUSED.value, "pause_reason": "asked for"}
        return await self._ask(batch_id, tenant, RUNNABLE, {"$set": change}, BatchStatus.PAUSED)

    async def resume(self, batch_id: str, tenant: str) -> Document:
        """Go on; failures until now do not count against the threshold any more."""
        again: list[Document] = [
            {
                "$set": {
                    "status": BatchStatus.RUNNING.value,
                    "pause_reason": None,
                    "samples": [],
                    "forgiven": "$counts.failed",
                    "started_at": {"$ifNull": ["$started_at", "$$NOW"]},
                    "updated_at": now(),
                }
            }
        ]
        return await self._ask(batch_id, tenant, [BatchStatus.PAUSED.value], again, BatchStatus.RUNNING)

    async def cancel(self, batch_id: str, tenant: str) -> Document:
        """Cancel what has not ended; nothing to do where that is under way or done."""
        change = {"status": BatchStatus.CANCELLING.value, "pause_reason": None}
        return await self._ask(batch_id, tenant, GOING, {"$set": change}, BatchStatus.CANCELLING, BatchStatus.CANCELLED)

    async def redrive(self, batch_id: str, tenant: str, statuses: Sequence[str]) -> Document:
        """Start items again that ended so. A batch that has ended runs again; a paused one stays paused."""
        known = await self.require(batch_id, tenant)
        if not any(known["counts"].get(status) for status in statuses):
            raise RequestProblem(
                "nothing-to-redrive", f"Batch {batch_id!r} has no item that is {' or '.join(statuses)}."
            )
        order = {"id": new_id(), "statuses": list(statuses), "asked_at": now()}
        change: Document = {"redrive": order, "open": True, "samples": []}
        if ItemStatus.FAILED in statuses:
            change["forgiven"] = 0
        ended = {"$set": {**change, "status": BatchStatus.RUNNING.value}, "$unset": {"ended_at": ""}}
        if known["status"] in ENDED:
            return await self._ask(batch_id, tenant, ENDED, ended)
        return await self._ask(batch_id, tenant, GOING, {"$set": change})

    async def _ask(
        self, batch_id: str, tenant: str, expected: Sequence[str], change: Any, *already: BatchStatus
    ) -> Document:
        """Change a batch that stands as expected; one that stands as asked for is answered as it is."""
        if isinstance(change, dict):
            change["$set"]["updated_at"] = now()
        query = {"_id": batch_id, "tenant": tenant, "status": {"$in": list(expected)}}
        done = await self._store.read(lambda: self._batches.update_one(query, change))
        found = await self.require(batch_id, tenant)
        if done.matched_count or found["status"] in already:
            return found
        ended = f"{ended_of(found['counts'])} of {found['total']} items have ended"
        raise RequestProblem(
            "batch-status",
            f"Batch {batch_id!r} is {found['status']} ({ended}); this needs one that is {' or '.join(expected)}.",
        )
