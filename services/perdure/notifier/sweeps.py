"""What dead processes and broken endpoints left: deliveries whose time is over, and notices that a digest came too early for.

Contract: every change is a compare-and-set and repeatable, so that all instances may sweep.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.notifier.matching import digest_for
from perdure.notifier.outcome import let_go
from perdure.notifier.queue import Queue
from perdure.notifier.settings import NotifierSettings
from perdure.registry.subscriptions import Subscriptions
from perdure.schemas.notices import DELIVERIES, DIGEST, DeliveryState

log = logger(__name__)

BATCH: Final = 500
GRACE: Final = timedelta(minutes=5)
"""After its time, so that the last attempt, which is due then, has had its turn."""
ORPHANED: Final = timedelta(seconds=10)


class Sweeper:
    """Sweeps deliveries."""

    def __init__(self, db: Database, queue: Queue, subscriptions: Subscriptions, settings: NotifierSettings) -> None:
        self._deliveries = db[DELIVERIES]
        self._queue = queue
        self._subscriptions = subscriptions
        self._patience_s = settings.notifier_patience_s

    async def turn(self) -> None:
        """Do everything that is due once."""
        moment = now()
        await self._let_go(moment)
        await self._gather_again(moment)

    async def _let_go(self, now: datetime) -> None:
        """Deliveries whose endpoint was left alone for all of their time are dead."""
        query: dict[str, Any] = {"due_at": {"$lte": now}, "give_up_at": {"$lt": now - GRACE}}
        for one in await self._deliveries.find(query, {"data": 0}).limit(BATCH).to_list(None):
            change = let_go(one, now)
            result = await self._deliveries.update_one({"_id": one["_id"], "due_at": one["due_at"]}, change)
            if not result.modified_count:
                continue
            log.warning("notice.dead", delivery_id=one["_id"], endpoint=one["endpoint"])
            if one["kind"] == DIGEST:
                ending = {name: change["$set"][name] for name in ("state", "ended_at", "expires_at", "reason")}
                members = {"digest": one["_id"], "state": DeliveryState.GATHERED.value}
                await self._deliveries.update_many(members, {"$set": ending | {"told": False}})

    async def _gather_again(self, now: datetime) -> None:
        """Notices that were stored when their digest had been sent already go into the next one."""
        query = {"state": DeliveryState.GATHERED.value, "digest": {"$exists": True}}
        groups = await self._deliveries.distinct("digest", query)
        for digest in groups:
            there = await self._deliveries.find_one({"_id": digest}, {"state": 1, "members": 1})
            if there is not None and there["state"] == DeliveryState.PENDING and "members" not in there:
                continue
            told = (there or {}).get("members") or []
            late = {"digest": digest, "state": DeliveryState.GATHERED.value, "created_at": {"$lt": now - ORPHANED}}
            found = await self._deliveries.find(late | {"_id": {"$nin": told}}).limit(BATCH).to_list(None)
            if found:
                await self._regather(found, now)

    async def _regather(self, found: list[dict[str, Any]], now: datetime) -> None:
        subscriptions = await self._subscriptions.by_id({one["subscription_id"] for one in found})
        for one in found:
            subscription: Any = subscriptions.get(one["subscription_id"])
            query = {"_id": one["_id"], "digest": one["digest"], "state": DeliveryState.GATHERED.value}
            if subscription is None or not subscription.get("digest_s"):
                # There are no digests any more: told on its own, or dropped where the subscription is gone.
                change: dict[str, Any] = {"state": DeliveryState.PENDING.value, "due_at": now}
                await self._deliveries.update_one(query, {"$set": change, "$unset": {"digest": ""}})
                continue
            digest = digest_for(one, subscription, now, self._patience_s)
            await self._queue.insert([digest])
            await self._deliveries.update_one(query, {"$set": {"digest": digest["_id"]}})
