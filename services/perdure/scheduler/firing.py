"""Fires schedules whose time has come by the database's clock (ADR 7).

Contract: a turn looks at what is due and begins to fire it; the registry sees to it that each fire time is fired once. Schedules do
not hold up one another, and one whose firing fails is tried again. Fire times that were missed are looked at by turns of their own:
they wait for the run before (ADR 19).
"""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import Counter, Histogram

from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.registry.schedules import Firing, Schedules, Step
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.shares import Shares
from perdure.schemas.documents import SCHEDULES

log = logger(__name__)

LOOK_LIMIT = 1_000
AT_ONCE = 50
"""Schedules that are being fired at once."""
STEPS = 50
"""Fire times of one schedule that a turn does before it looks again."""
MISSED_S = 0.5
"""How often to look whether a time that was missed can be made up."""
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

    def __init__(
        self, db: Database, schedules: Schedules, clock: DatabaseClock, shares: Shares, missed_shares: Shares
    ) -> None:
        self._db = db
        self._schedules = schedules
        self._clock = clock
        self._shares = shares
        self._missed_shares = missed_shares
        self._going: dict[str, asyncio.Task[None]] = {}

    async def turn(self) -> None:
        """Begin to fire what is due now.

        Raises:
            PyMongoError: the database does not answer.

        """
        await self._look("next_at", self._shares)

    async def make_up(self) -> None:
        """Begin to fire what was missed and no longer waits for the run before.

        Raises:
            PyMongoError: the database does not answer.

        """
        await self._look("catch_up.at", self._missed_shares)

    async def _look(self, field: str, shares: Shares) -> None:
        now = await self._clock.now()
        cursor = self._db[SCHEDULES].find({field: {"$lte": now}}, {"_id": 1}).sort(field, 1).limit(LOOK_LIMIT)
        due = [one["_id"] async for one in cursor if one["_id"] not in self._going]
        ours, taken = shares.choose((one, one) for one in due)
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
                if schedule is None:
                    return
                fired = await self._schedules.fire_next(schedule, now)
                if fired is Step.WAITING:
                    return
                if isinstance(fired, Firing) and fired.new:
                    FIRED.labels(what="fired" if fired.run_id else "skipped").inc()
                    LATENESS.observe(max(0.0, (now - fired.at).total_seconds()))
        except Exception:
            log.exception("schedule.not_fired", schedule_id=schedule_id, again_in_s=RETRY_S)
            await asyncio.sleep(RETRY_S)
        finally:
            self._going.pop(schedule_id, None)
