"""The items of batches in the database: read by ranges of keys, changed by compare-and-set on their status and attempt.

Contract: every change can be repeated. What a change did is told by how many items it changed; where that is less than asked for,
somebody else was there or an answer was lost, and the caller counts anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from pymongo import UpdateOne

from perdure.chassis.at_rest import sealed
from perdure.chassis.mongo import Database
from perdure.registry.batch_progress import counted
from perdure.registry.runs import new_id
from perdure.schemas.batch_documents import BATCH_ITEMS, ItemStatus, item_key, item_range

WINDOW: Final = 2_000
"""Items that one query or update looks at, so that none takes long."""
NARROWEST: Final = 50

Document = dict[str, Any]


class Items:
    """Items of all batches, as the scheduler's leader sees them."""

    def __init__(self, db: Database) -> None:
        self._items = db[BATCH_ITEMS]

    async def count(self, batch: Mapping[str, Any]) -> dict[str, int]:
        """How many there are by status: the truth."""
        pipeline: list[Document] = [
            {"$match": item_range(batch["_id"], 1, batch["total"] + 1)},
            {"$group": {"_id": "$status", "n": {"$sum": 1}}},
        ]
        return counted({row["_id"]: row["n"] async for row in self._items.aggregate(pipeline)})

    async def by_key(self, keys: Iterable[str]) -> dict[str, Document]:
        """Items without their payload."""
        found = await self._items.find({"_id": {"$in": list(keys)}}, {"payload": 0}).to_list(None)
        return {item["_id"]: item for item in found}

    async def waiting(self, batch: Mapping[str, Any], first: int, wanted: int) -> tuple[list[Document], int]:
        """At most about ``wanted`` waiting items from number ``first`` on, and from which number on to look next."""
        found: list[Document] = []
        looks = 0
        while len(found) < wanted and first <= batch["total"] and looks < 10:
            end = first + max(wanted - len(found), NARROWEST if not looks else WINDOW)
            query = {**item_range(batch["_id"], first, end), "status": ItemStatus.WAITING.value}
            most = wanted - len(found)
            part = await self._items.find(query).sort("_id", 1).limit(most).to_list(None)
            found += part
            first = part[-1]["number"] + 1 if len(part) == most else end
            looks += 1
        return found, first

    async def some(self, batch: Mapping[str, Any], numbers: Iterable[int]) -> list[Document]:
        """Of these items those that wait."""
        keys = [item_key(batch["_id"], number) for number in numbers]
        query = {"_id": {"$in": keys}, "status": ItemStatus.WAITING.value}
        return await self._items.find(query).sort("_id", 1).to_list(None)

    async def begin(self, items: Sequence[Mapping[str, Any]], moment: datetime) -> list[Document]:
        """Begin an attempt at waiting items; those that are ours, as they are now."""
        token, won = new_id(), 0
        by_attempt: dict[int, list[str]] = {}
        for item in items:
            by_attempt.setdefault(item["attempt"], []).append(item["_id"])
        for attempt, keys in by_attempt.items():
            change = {
                "$set": {
                    "status": ItemStatus.STARTED.value,
                    "attempt": attempt + 1,
                    "started_at": moment,
                    "claim": token,
                },
                "$unset": {"run_id": ""},
            }
            query = {"_id": {"$in": keys}, "status": ItemStatus.WAITING.value, "attempt": attempt}
            won += (await self._items.update_many(query, change)).modified_count
        if won == len(items):
            begun = {"status": ItemStatus.STARTED.value, "started_at": moment, "claim": token}
            return [
                {**{k: v for k, v in item.items() if k != "run_id"}, **begun, "attempt": item["attempt"] + 1}
                for item in items
            ]
        query = {"_id": {"$in": [item["_id"] for item in items]}, "claim": token}
        return await self._items.find(query).to_list(None)

    async def change(self, changes: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], moment: datetime) -> int:
        """Apply what the ends of runs change: pairs of item and change; how many items that changed."""
        same: dict[tuple[Any, ...], list[str]] = {}
        single: list[UpdateOne] = []
        for item, change in changes:
            status = ItemStatus(change["status"])
            ended = {"ended_at": moment} if status.ended else {}
            if change.keys() == {"status"}:
                same.setdefault((item["status"], item["attempt"], status), []).append(item["_id"])
            else:
                observed = {"_id": item["_id"], "status": item["status"], "attempt": item["attempt"]}
                single.append(UpdateOne(observed, {"$set": sealed(BATCH_ITEMS, {**change, **ended}, item["_id"])}))
        changed = 0
        for (before, attempt, status), keys in same.items():
            query = {"_id": {"$in": keys}, "status": before, "attempt": attempt}
            ended = {"ended_at": moment} if status.ended else {}
            changed += (
                await self._items.update_many(query, {"$set": {"status": status.value, **ended}})
            ).modified_count
        if single:
            changed += (await self._items.bulk_write(single, ordered=False)).modified_count
        return changed

    async def adopt(self, item: Mapping[str, Any], run_id: str) -> None:
        """Let another run tell how an item stands."""
        await self._items.update_one({"_id": item["_id"], "attempt": item["attempt"]}, {"$set": {"run_id": run_id}})

    async def cancel_waiting(self, batch: Mapping[str, Any], first: int, end: int, moment: datetime) -> int:
        """Cancel the items of a range that were not started; how many."""
        query = {**item_range(batch["_id"], first, end), "status": ItemStatus.WAITING.value}
        change = {"$set": {"status": ItemStatus.CANCELLED.value, "ended_at": moment}}
        return int((await self._items.update_many(query, change)).modified_count)

    async def put_back(self, batch: Mapping[str, Any], statuses: Sequence[str], first: int, end: int) -> int:
        """Let the items of a range that ended so wait again, with all their attempts before them; how many."""
        query = {**item_range(batch["_id"], first, end), "status": {"$in": list(statuses)}}
        again: list[Document] = [
            {"$set": {"status": ItemStatus.WAITING.value, "base": "$attempt"}},
            {"$unset": ["ended_at", "error"]},
        ]
        return int((await self._items.update_many(query, again)).modified_count)

    async def going(self, batch: Mapping[str, Any]) -> AsyncIterator[list[Document]]:
        """The items that were started and have not ended, without their payload, in parts."""
        statuses = [ItemStatus.STARTED.value, ItemStatus.INTERRUPTED.value]
        for first, end in windows(batch["total"], WINDOW * 5):
            query = {**item_range(batch["_id"], first, end), "status": {"$in": statuses}}
            found = await self._items.find(query, {"payload": 0}).to_list(None)
            for start in range(0, len(found), WINDOW):
                yield found[start : start + WINDOW]

    async def with_payload(self, items: Sequence[Mapping[str, Any]]) -> list[Document]:
        """The same items with their payload."""
        return await self._items.find({"_id": {"$in": [item["_id"] for item in items]}}).to_list(None)


def windows(total: int, width: int) -> list[tuple[int, int]]:
    """All numbers in ranges ``(first, end)``."""
    return [(first, min(first + width, total + 1)) for first in range(1, total + 1, width)]
