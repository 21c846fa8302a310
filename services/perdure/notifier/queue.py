"""The queue of deliveries in MongoDB: what is due, claims, results (ADR 12).

Contract: a delivery is claimed by one compare-and-set that moves its ``due_at`` to the end of the claim: whoever dies with a claim
loses it by the clock, and the delivery is sent again under the same message id. A result counts only while its claim does.
Any number of instances share the queue, and none needs to know of another. A lost database is waited for.

Outside: what is sent (``dispatch``), and what a result means (:mod:`perdure.notifier.outcome`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.inserts import insert_new
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.notifier.results import Change
from perdure.schemas.notices import DELIVERIES, DeliveryDocument, DeliveryState

Document = dict[str, Any]

DUE_FIELDS: Final = {"endpoint": 1, "tenant": 1, "due_at": 1}


class Queue:
    """Deliveries that are to be sent. Belongs to one event loop."""

    def __init__(self, db: Database, availability: Availability, claim_s: float) -> None:
        self._deliveries = db[DELIVERIES]
        self._availability = availability
        self._results = GroupCommit(db[DELIVERIES], availability=availability)
        self._claim = timedelta(seconds=claim_s)

    async def insert(self, deliveries: Sequence[DeliveryDocument]) -> list[str]:
        """Store new ones; the ids of those that were new. One that is there stays as it is."""
        if not deliveries:
            return []
        return await outlast(lambda: self._insert(deliveries), self._availability)

    async def due(
        self, now: datetime, without: Collection[str], limit: int, without_tenants: Collection[str] = ()
    ) -> list[Document]:
        """Deliveries that are due, the longest first, without those to some endpoints or of some tenants: ``DUE_FIELDS``."""
        query: Document = {"due_at": {"$lte": now}}
        if without:
            query["endpoint"] = {"$nin": [*without]}
        if without_tenants:
            query["tenant"] = {"$nin": [*without_tenants]}
        return await outlast(
            lambda: self._deliveries.find(query, DUE_FIELDS).sort("due_at", 1).limit(limit).to_list(None),
            self._availability,
        )

    async def claim(self, ids: Sequence[str], now: datetime) -> list[Document]:
        """Claim deliveries that are still due; those that were won, whole."""
        token = uuid4().hex
        query = {"_id": {"$in": [*ids]}, "due_at": {"$lte": now}}
        change = {"$set": {"claim": token, "due_at": now + self._claim}}
        await outlast(lambda: self._deliveries.update_many(query, change), self._availability)
        ours = {"_id": {"$in": [*ids]}, "claim": token}
        return await outlast(lambda: self._deliveries.find(ours).to_list(None), self._availability)

    async def record(self, delivery: Mapping[str, Any], change: Change) -> None:
        """Write the result of an attempt, unless somebody else has claimed the delivery meanwhile."""
        await self._results.write(assignments=[change.of(delivery)])

    async def put_back(self, deliveries: Sequence[Mapping[str, Any]], due_at: datetime) -> None:
        """Give claimed deliveries back that were not tried."""
        if deliveries:
            query = {
                "_id": {"$in": [one["_id"] for one in deliveries]},
                "claim": {"$in": [*{one["claim"] for one in deliveries}]},
            }
            change = {"$set": {"due_at": due_at}, "$unset": {"claim": ""}}
            await outlast(lambda: self._deliveries.update_many(query, change), self._availability)

    async def gathered(self, digest: str) -> list[Document]:
        """What a digest tells, the oldest first."""
        query = {"digest": digest, "state": DeliveryState.GATHERED.value}
        return await outlast(
            lambda: self._deliveries.find(query).sort("created_at", 1).to_list(None), self._availability
        )

    async def members(self, ids: Sequence[str]) -> list[Document]:
        """Deliveries by their ids, the oldest first."""
        query = {"_id": {"$in": [*ids]}}
        return await outlast(
            lambda: self._deliveries.find(query).sort("created_at", 1).to_list(None), self._availability
        )

    async def fix_members(self, delivery: Mapping[str, Any], ids: Sequence[str]) -> None:
        """Decide what a digest tells, before it is sent for the first time: every attempt tells the same."""
        query = {"_id": delivery["_id"], "claim": delivery["claim"]}
        change = {"$set": {"members": [*ids]}}
        await outlast(lambda: self._deliveries.update_one(query, change), self._availability)

    async def end_members(self, digest: str, ids: Sequence[str], change: Mapping[str, Any]) -> None:
        """Let what a digest told end as the digest did."""
        query = {"_id": {"$in": [*ids]}, "digest": digest}
        await outlast(lambda: self._deliveries.update_many(query, dict(change)), self._availability)

    async def remove(self, delivery: Mapping[str, Any]) -> None:
        """Remove a digest that gathered nothing."""
        query = {"_id": delivery["_id"], "claim": delivery["claim"]}
        await outlast(lambda: self._deliveries.delete_one(query), self._availability)

    async def close(self) -> None:
        """Wait for the results that were submitted."""
        await self._results.close()

    async def _insert(self, deliveries: Sequence[DeliveryDocument]) -> list[str]:
        taken = set(await insert_new(self._deliveries, deliveries))
        return [one["_id"] for number, one in enumerate(deliveries) if number not in taken]
