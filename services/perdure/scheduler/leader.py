"""One leader among the scheduler's instances: a lease in ``leaders``, by the database's clock."""

from __future__ import annotations

from uuid import uuid4

from pymongo.errors import DuplicateKeyError

from perdure.chassis.mongo import Database, from_now
from perdure.scheduler.clock import DatabaseClock
from perdure.schemas.documents import LEADERS


class Leadership:
    """The lease of one role."""

    def __init__(self, db: Database, clock: DatabaseClock, role: str, instance: str, ttl_s: float) -> None:
        self._clock = clock
        self._leaders = db[LEADERS]
        self._role = role
        # Two processes may have been given one name: the lease is of a process.
        self._holder = f"{instance}:{uuid4().hex[:12]}"
        self._ttl_s = ttl_s

    async def acquire(self) -> bool:
        """Take or renew the lease; whether this instance leads now."""
        lease = {"holder": self._holder, "expires_at": from_now(self._ttl_s)}
        now = await self._clock.now()
        ours_or_free = {
            "_id": self._role,
            "$or": [{"holder": self._holder}, {"expires_at": {"$lt": now}}],
        }
        try:
            # With upsert, "somebody else holds it" shows as a duplicate key.
            await self._leaders.update_one(ours_or_free, [{"$set": lease}], upsert=True)
        except DuplicateKeyError:
            return False
        return True

    async def resign(self) -> None:
        """Give the lease back, so that nobody waits for it to expire."""
        await self._leaders.delete_one({"_id": self._role, "holder": self._holder})
