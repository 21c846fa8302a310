"""Fires schedules whose time has come by the database's clock (ADR 7).

Contract: a turn looks at what is due and begins to fire it; the registry sees to it that each fire time is fired once. Schedules do
not hold up one another, and one whose firing fails is tried again.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from prometheus_client import Counter, Histogram

from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.registry.schedules import Schedules
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.shares import Shares
from perdure.schemas.documents import SCHEDULES

log = logger(__name__)

LOOK_LIMIT = 1_000
AT_ONCE = 50
"""Schedules that are being fired at once."""
STEPS = 50
"""Fire times of one schedule that a turn does before it looks again."""
RETRY_S = 5.0
CLOSE_S = 2.0

FIRED = Counter("perdure_schedules_fired", "Fire times by what came of them", ["what"])
LATENESS = Histogram(
    "perdure_schedule_lateness_seconds",
    "From a fire time until its run is registered",
    buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 60, 3600),
)


class Firings:
    """Fires what is due. Belongs to one event loop."""

    def __init__(self, db: Database, schedules: Schedules, clock: DatabaseClock, shares: Shares) -> None:
        self._db = db
        self._schedules = schedules
        self._clock = clock
        self._shares = shares
        self._going: dict[str, asyncio.Task[None]] = {}

    async def turn(self) -> None:
        """Begin to fire what is due now.

        Raises:
            PyMongoError: the database does not answer.

        """
        now = await self._clock.now()
        cursor = self._db[SCHEDULES].find({"next_at": {"$lte": now}}, {"_id": 1}).sort("next_at", 1).limit(LOOK_LIMIT)
        due = [one["_id"] async for one in cursor if one["_id"] not in self._going]
        ours, taken = self._shares.choose((one, one) for one in due)
        for one in ours + taken:
            self._begin(one)

    async def finish(self) -> None:
        """Finish what somebody decided out of turn (a trigger, a backfill) and left, perhaps because of a crash.

        Raises:
            PyMongoError: the database does not answer.

        """
        decided = self._db[SCHEDULES].find({"firing.at": {"$exists": True}}, {"_id": 1}).limit(LOOK_LIMIT)
        async for one in decided:
            self._begin(one["_id"])

    async def aclose(self) -> None:
        """Wait for what was begun, a few seconds at most: what is left is finished by the other instances."""
        if self._going:
            _, left = await asyncio.wait(self._going.values(), timeout=CLOSE_S)
            for task in left:
                task.cancel()

    def _begin(self, schedule_id: str) -> None:
        """Fire one schedule, unless it is in hand, or too many are: then a later turn does."""
        if schedule_id not in self._going and len(self._going) < AT_ONCE:
            self._going[schedule_id] = asyncio.create_task(self._fire(schedule_id))

    async def _fire(self, schedule_id: str) -> None:
        try:
            for _ in range(STEPS):
                schedule: Any = await self._db[SCHEDULES].find_one({"_id": schedule_id})
                now = await self._clock.now()
                if schedule is None or not (schedule.get("firing") or _is_due(schedule, now)):
                    return
                fired = await self._schedules.fire_next(schedule, now)
                if fired is not None and fired.new:
                    FIRED.labels(what="fired" if fired.run_id else "skipped").inc()
                    LATENESS.observe(max(0.0, (now - fired.at).total_seconds()))
        except Exception:
            log.exception("schedule.not_fired", schedule_id=schedule_id, again_in_s=RETRY_S)
            await asyncio.sleep(RETRY_S)
        finally:
            self._going.pop(schedule_id, None)


def _is_due(schedule: Any, now: datetime) -> bool:
    next_at = schedule.get("next_at")
    return next_at is not None and next_at <= now
