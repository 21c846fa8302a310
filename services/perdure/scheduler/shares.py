"""Which instance does which piece of the work (ADR 7): a lease for each instance, rendezvous hashing, and taking over by rank.

Contract: what everybody sees is done at once by the first in rank for its key, by the second when it is still there
``TAKE_OVER_S`` later, and so on. So a dead instance delays its share by that, not by its lease. Doing a piece twice must be
harmless: shares only save work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import timedelta

from pymongo.errors import PyMongoError

from perdure.chassis.mongo import Database, from_now
from perdure.chassis.telemetry import logger
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.domain import rank
from perdure.schemas.documents import SCHEDULERS

log = logger(__name__)

LEASE_S = 2.0
"""An instance that does not renew for so long is counted out."""
RENEW_S = 0.5
TAKE_OVER_S = 0.3
FORGET = timedelta(minutes=5)
RESIGN_S = 2.0


class Members:
    """The live instances of the scheduler, by the database's clock."""

    def __init__(self, db: Database, clock: DatabaseClock, instance: str) -> None:
        self._db = db
        self._clock = clock
        self._instance = instance
        self._others: tuple[str, ...] = ()

    async def renew(self) -> None:
        """Renew this instance's lease and see who else is there."""
        lease = {"$set": {"expires_at": from_now(LEASE_S)}}
        await self._db[SCHEDULERS].update_one({"_id": self._instance}, [lease], upsert=True)
        now = await self._clock.now()
        known = await self._db[SCHEDULERS].find({}).to_list(None)
        self._others = tuple(one["_id"] for one in known if one["expires_at"] > now and one["_id"] != self._instance)
        if any(one["expires_at"] < now - FORGET for one in known):
            await self._db[SCHEDULERS].delete_many({"expires_at": {"$lt": now - FORGET}})

    async def leave(self) -> None:
        """Give the lease back; when the database does not answer, it expires."""
        try:
            async with asyncio.timeout(RESIGN_S):
                await self._db[SCHEDULERS].delete_one({"_id": self._instance})
        except (PyMongoError, TimeoutError) as error:
            log.warning("scheduler.leave_failed", error=str(error))

    def rank(self, key: str) -> int:
        """How many live instances come before this one for ``key``."""
        return rank(key, self._instance, self._others)


class Shares:
    """Chooses, among what is due, what this instance does now. One for each kind of work."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._seen: dict[str, float] = {}

    def choose(self, due: Iterable[tuple[str, str]], *, everything: bool = True) -> tuple[list[str], list[str]]:
        """What is ours, and what we take over from somebody who leaves it too long.

        Args:
            due: What is due now, as (id, key of the share).
            everything: Whether that is everything: what is missing then is forgotten.

        """
        now = time.monotonic()
        ours: list[str] = []
        taken: list[str] = []
        seen: dict[str, float] = {} if everything else self._seen
        for one, key in due:
            since = seen[one] = self._seen.get(one, now)
            place = self._members.rank(key)
            if place == 0:
                ours.append(one)
            elif now - since >= place * TAKE_OVER_S:
                taken.append(one)
        self._seen = seen
        return ours, taken

    def waited_s(self, one: str) -> float:
        """For how many seconds it has been seen as due."""
        return time.monotonic() - self._seen[one]
