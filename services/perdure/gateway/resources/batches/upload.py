"""Stores the items of an upload while it comes, and lets the batch be seen when the last line is valid (ADR 14).

Contract: memory holds a block of lines, whatever the length of the upload. Until :meth:`Upload.finish` nobody sees the batch; an
upload that ends otherwise removes what it stored, or the scheduler's sweep does. Reading goes on after a wrong line, to name the
others, until ``WRONG_SHOWN`` are wrong, but nothing more is stored. Lines are cut and parsed beside the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from hashlib import blake2b
from typing import Any, Final

import orjson
from pymongo.errors import DuplicateKeyError

from perdure.chassis.at_rest import sealed
from perdure.chassis.clock import now
from perdure.chassis.inserts import insert_new
from perdure.chassis.mongo import Database
from perdure.chassis.outage import outlast
from perdure.chassis.telemetry import logger
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.resources.batches.lines import Line, Lines, Parsed, parse_items, parse_lines
from perdure.gateway.stores.quotas import over_room
from perdure.gateway.stores.store import Store
from perdure.registry.batch_progress import counted
from perdure.schemas.batch_documents import BATCH_ITEMS, BATCHES, BatchDocument, BatchStatus, ItemDocument, item_key
from perdure.schemas.problem import InvalidField

log = logger(__name__)

BLOCK_BYTES: Final = 1024 * 1024
"""Of lines that are parsed and stored together."""
BLOCK_LINES: Final = 1_000
TOUCH_EVERY_S: Final = 10.0
WRONG_SHOWN: Final = 100
REMOVED: Final = 5_000

Document = dict[str, Any]


class KeyTakenError(Exception):
    """Another batch has this idempotency key."""


class Upload:
    """One upload."""

    def __init__(
        self, database: Database, store: Store, batch: BatchDocument, items_limit: int, room: int | None = None
    ) -> None:
        self._batches = database[BATCHES]
        self._items = database[BATCH_ITEMS]
        self._store = store
        self._batch = batch
        self._limit = items_limit
        self._room = room
        self._touched = time.monotonic()
        self._wrong: list[InvalidField] = []
        self._wrong_count = 0
        self._stored = 0
        self._begun = False

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        """Store the items of an NDJSON stream."""
        lines = Lines()
        block: list[Line] = []
        size = 0
        async for chunk in chunks:
            found = await asyncio.to_thread(lines.feed, chunk)
            block += found
            size += sum(len(line.data or b"") for line in found)
            while len(block) >= BLOCK_LINES or size >= BLOCK_BYTES:
                await self._take(block[:BLOCK_LINES])
                block = block[BLOCK_LINES:]
                size = sum(len(line.data or b"") for line in block)
            if self._wrong_count >= WRONG_SHOWN:
                return
        await self._take([*block, *lines.end()])

    async def take(self, values: list[Any]) -> None:
        """Store the items of a JSON body."""
        parsed = await asyncio.to_thread(parse_items, values, self._batch["_id"])
        for start in range(0, max(1, len(parsed.items)), BLOCK_LINES):
            part = parsed.items[start : start + BLOCK_LINES]
            await self._store_block(Parsed(part, parsed.wrong if start == 0 else []))

    async def finish(self, digest: str | None) -> BatchDocument:
        """Let the batch be seen, with everything that was stored; ``digest`` of the request where it has an idempotency key.

        Raises:
            RequestProblem: ``invalid-request``: a line is wrong, or there is none.
            KeyTakenError: another batch has its idempotency key; what was stored is removed.

        """
        if self._wrong or not self._stored:
            await self.abandon()
            raise self._refusal()
        seen = {
            **{name: value for name, value in self._batch.items() if name not in ("_id", "touched_at")},
            "status": (BatchStatus.PAUSED if self._batch.get("pause_reason") else BatchStatus.PENDING).value,
            "total": self._stored,
            "counts": counted({"waiting": self._stored}),
            "updated_at": now(),
            "open": True,
        }
        if digest is not None:
            seen["idempotency_digest"] = digest
        query = {"_id": self._batch["_id"], "status": BatchStatus.UPLOADING.value, "given_up": {"$exists": False}}
        change = {"$set": sealed(BATCHES, seen, self._batch["_id"]), "$unset": {"touched_at": ""}}
        try:
            done = await self._store.patiently(
                outlast(lambda: self._batches.update_one(query, change), self._store.availability)
            )
        except DuplicateKeyError:
            await self.abandon()
            raise KeyTakenError from None
        if not done.matched_count and not await self._is_seen():
            await self.abandon()
            raise RequestProblem(
                "upload-lost", "The upload took too long between two lines and was removed. Send it again."
            )
        return {**self._batch, **seen}  # type: ignore[typeddict-item]

    async def abandon(self) -> None:
        """Remove everything that was stored; what a lost database prevents is the sweep's."""
        if not self._begun:
            return
        id_ = self._batch["_id"]
        hidden = {"_id": id_, "status": BatchStatus.UPLOADING.value}
        await self._batches.update_one(hidden, {"$set": {"given_up": True}})
        if await self._is_seen():
            return
        for first in range(1, self._stored + BLOCK_LINES + 1, REMOVED):
            await self._items.delete_many(
                {"_id": {"$gte": item_key(id_, first), "$lt": item_key(id_, first + REMOVED)}}
            )
        await self._batches.delete_one({"_id": id_, "given_up": True})

    async def _is_seen(self) -> bool:
        query = {"_id": self._batch["_id"], "total": {"$exists": True}}
        return await self._store.read(lambda: self._batches.find_one(query, {"_id": 1})) is not None

    async def _take(self, block: list[Line]) -> None:
        await self._store_block(await asyncio.to_thread(parse_lines, block, self._batch["_id"], self._stored + 1))

    async def _store_block(self, parsed: Parsed) -> None:
        self._wrong_count += len(parsed.wrong)
        self._wrong += parsed.wrong[: WRONG_SHOWN - len(self._wrong)]
        if self._stored + len(parsed.items) > self._limit:
            raise RequestProblem(
                "batch-too-large",
                f"More than {self._limit} items (PERDURE_GATEWAY_BATCH_ITEMS_LIMIT). Nothing was registered; split the upload.",
            )
        if self._room is not None and self._stored + len(parsed.items) > self._room:
            raise over_room(self._batch["tenant"], self._room)
        if self._wrong_count or not parsed.items:
            return
        if not self._begun:
            await self._begin()
        self._store.require_available()
        await self._store.patiently(self._insert(parsed.items))
        self._stored += len(parsed.items)
        if time.monotonic() - self._touched > TOUCH_EVERY_S:
            self._touched = time.monotonic()
            await self._store.read(
                lambda: self._batches.update_one({"_id": self._batch["_id"]}, {"$set": {"touched_at": now()}})
            )

    async def _begin(self) -> None:
        """Its document, hidden: without the key, which only an upload that is complete may take."""
        self._begun = True
        hidden = {
            "tenant": self._batch["tenant"],
            "status": BatchStatus.UPLOADING.value,
            "created_at": self._batch["created_at"],
            "touched_at": now(),
        }
        query = {"_id": self._batch["_id"]}
        await self._store.read(lambda: self._batches.update_one(query, {"$setOnInsert": hidden}, upsert=True))

    async def _insert(self, items: list[ItemDocument]) -> None:
        # After an outage some are there already: they are ours, for the id of the batch is.
        await outlast(lambda: insert_new(self._items, items), self._store.availability)

    def _refusal(self) -> RequestProblem:
        if not self._wrong:
            return RequestProblem("invalid-request", "The upload holds no item.")
        count, first = self._wrong_count, self._wrong[0]
        how_many = "1 item is wrong" if count == 1 else f"{count} items are wrong"
        if count >= WRONG_SHOWN:
            how_many = f"{count} items are wrong in what was read until then"
        shown = f" (the first {len(self._wrong)} are named)" if count > len(self._wrong) else ""
        detail = f"{how_many}{shown}; nothing was registered. {first.pointer}: {first.detail}"
        return RequestProblem("invalid-request", detail, self._wrong)


class StreamDigest:
    """Digest of an upload: of its options and of its bytes."""

    def __init__(self, options: Document) -> None:
        self._hash = blake2b(orjson.dumps(options, option=orjson.OPT_SORT_KEYS) + b"\0", digest_size=16)

    async def over(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same bytes, seen."""
        async for chunk in chunks:
            self._hash.update(chunk)
            yield chunk

    def hex(self) -> str:
        """32 hex digits."""
        return self._hash.hexdigest()
