"""The scheduler's turn: lead or follow, and sweep while leading."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import Counter, Gauge
from pymongo.errors import PyMongoError

from perdure.chassis.telemetry import logger
from perdure.scheduler.leader import Leadership
from perdure.scheduler.settings import SchedulerSettings
from perdure.scheduler.sweeps import Sweeper

log = logger(__name__)

LEADS = Gauge("perdure_scheduler_leads", "1 while this instance leads")
SWEPT = Counter("perdure_scheduler_swept", "What the sweeps took up again", ["what"])


class Turns:
    """Takes a turn each interval until it is told to stop. A failed turn is logged and the next one tries again."""

    def __init__(self, settings: SchedulerSettings, leadership: Leadership, sweeper: Sweeper) -> None:
        self._settings = settings
        self._leadership = leadership
        self._sweeper = sweeper
        self._answered_since = float("inf")
        self.answering = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Turn until ``stopping``; then resign."""
        while not stopping.is_set():
            await self._turn()
            try:
                await asyncio.wait_for(stopping.wait(), self._settings.sweep_interval_s)
            except TimeoutError:
                continue
        try:
            await self._leadership.resign()
        except PyMongoError as error:
            log.warning("leader.resign_failed", error=str(error))

    async def _turn(self) -> None:
        try:
            leads = await self._leadership.acquire()
            LEADS.set(leads)
            self._answered_since = min(self._answered_since, time.monotonic())
            self.answering = True
            if leads:
                # The leader of a moment ago may have seen the outage that we did not: nobody is dead until a whole lease has
                # passed in which the database answered us.
                steady = time.monotonic() - self._answered_since >= self._settings.lease_ttl_s
                swept = await self._sweeper.sweep(declare_dead=steady)
                for what in ("workers_dead", "recovered", "started", "settled"):
                    SWEPT.labels(what=what).inc(getattr(swept, what))
        except PyMongoError as error:
            self._answered_since = float("inf")
            self.answering = False
            LEADS.set(0)
            log.warning("scheduler.database_away", error=str(error))
