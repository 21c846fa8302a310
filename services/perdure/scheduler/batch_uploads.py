"""Removes what uploads left behind that died half-way (ADR 14).

Contract: a turn of the leader. An upload that shows no sign of life is first marked, so that it cannot become visible, then its
items are removed, then its document: each can be repeated. What it still stores after that it removes itself, for it is not let
through.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.schemas.batch_documents import BATCH_ITEMS, BATCHES, BatchStatus, item_key

log = logger(__name__)

REMOVED: Final = 5_000
"""Items that one deletion removes."""


class Uploads:
    """Unfinished uploads."""

    def __init__(self, db: Database, grace_s: float) -> None:
        self._batches = db[BATCHES]
        self._items = db[BATCH_ITEMS]
        self._grace = timedelta(seconds=grace_s)

    async def sweep(self) -> None:
        """Remove those that nobody goes on with."""
        query = {"status": BatchStatus.UPLOADING.value, "touched_at": {"$lt": now() - self._grace}}
        for batch in await self._batches.find(query, {"touched_at": 1}).to_list(None):
            marked = await self._batches.update_one(
                {"_id": batch["_id"], "status": BatchStatus.UPLOADING.value, "touched_at": batch["touched_at"]},
                {"$set": {"given_up": True}},
            )
            if not marked.matched_count:
                continue
            await self._items.delete_many({"_id": {"$gte": item_key(batch["_id"], 0), "$lt": f"{batch['_id']};"}})
            await self._batches.delete_one({"_id": batch["_id"], "given_up": True})
            log.info("batch.upload_removed", batch_id=batch["_id"])
