"""The clock that ends waits: timers, time-outs and questions that expire (ADR 6 and 7).

Contract: every wait whose ``due_at`` has come by the database's clock is ended once, or its question goes to the next person once,
by whichever instance is first; the registry decides who was. A turn only begins the work: ending many waits at one instant does not
hold up those that are due next. After an outage everything overdue is ended, the oldest first.

Outside: what ending a wait means (``perdure.registry.waits``) and who does which part of the work (``shares``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from prometheus_client import Counter, Histogram

from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.registry.waits import WAKING, Waits
from perdure.scheduler import escalation
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.escalation import Escalations
from perdure.scheduler.shares import Shares
from perdure.schemas.documents import RUNS, WAITS, WaitStatus
from perdure.schemas.waits import OutcomeKind, WaitOutcome, wake_key

log = logger(__name__)

LOOK_AT_ALL_S = 0.3
"""Most looks are at what fell due since the last one; so often, in seconds, at everything that is due."""
LOOK_LIMIT = 5_000
"""Due waits that a turn looks at."""
TURN_LIMIT = 2_000
"""Waits that a turn begins to end."""
OPEN_LIMIT = 10_000
"""Waits that are being ended at once; at the limit, turns wait."""
LEFT_S = 5.0
"""A wait that another instance woke, and whose document still says that it is due after so long, was left by a crash."""
RETRY_S = 5.0
"""Before a wait that could not be ended is tried again."""
CLOSE_S = 4.0

LATENESS = Histogram(
    "perdure_wake_lateness_seconds",
    "From a wait's due time until its end is durable",
    buckets=(0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30, 60, 300, 3600),
)
WOKEN = Counter("perdure_waits_woken", "Waits that the clock ended", ["how"])

LOOKED_AT = {"_id": 1, "thread_id": 1, "tenant": 1, "due_at": 1}
NEEDED = dict.fromkeys((*WAKING, "due_at", "status", *escalation.NEEDED), 1)


class Timers:
    """Ends what is due. Belongs to one event loop."""

    def __init__(
        self, db: Database, waits: Waits, clock: DatabaseClock, shares: Shares, escalations: Escalations
    ) -> None:
        self._db = db
        self._waits = waits
        self._clock = clock
        self._shares = shares
        self._escalations = escalations
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._ended: set[str] = set()
        self._looked: datetime | None = None
        self._looked_at_all = 0.0

    async def turn(self) -> None:
        """Begin to end what is due now.

        Raises:
            PyMongoError: the database does not answer.

        """
        self._ended.clear()
        now = await self._clock.now()
        room = min(TURN_LIMIT, OPEN_LIMIT - len(self._ending))
        if room <= 0:
            return
        since = self._since(now)
        query: dict[str, Any] = {"due_at": {"$lte": now} if since is None else {"$lte": now, "$gt": since}}
        cursor = self._db[WAITS].find(query, LOOKED_AT).sort("due_at", 1).limit(LOOK_LIMIT)
        due = {wait["_id"]: wait async for wait in cursor}
        candidates = ((one, wait["thread_id"]) for one, wait in due.items() if self._is_new(one))
        ours, taken = self._shares.choose(candidates, everything=since is None)
        if taken:
            ours += await self._left([due[one] for one in taken])
        if not ours:
            return
        wanted = {"_id": {"$in": ours[:room]}, "due_at": {"$lte": now}}
        for wait in await self._db[WAITS].find(wanted, NEEDED).to_list(None):
            if self._is_new(wait["_id"]):
                task = asyncio.create_task(self._end(wait, now))
                self._ending[wait["_id"]] = task

    async def aclose(self) -> None:
        """Wait for what was begun, a few seconds at most: the other instances take over what is left."""
        if self._ending:
            _, left = await asyncio.wait(self._ending.values(), timeout=CLOSE_S)
            for task in left:
                task.cancel()
        await self._escalations.aclose(CLOSE_S)

    def _since(self, now: datetime) -> datetime | None:
        """Where this look begins: after the last one, or at the beginning (``None``) for what was left or stored late."""
        since, self._looked = self._looked, now
        if since is None or time.monotonic() - self._looked_at_all >= LOOK_AT_ALL_S:
            self._looked_at_all = time.monotonic()
            return None
        return since

    def _is_new(self, wait: str) -> bool:
        """Whether nothing was begun for it; what this turn read may be older than an end that is known."""
        return wait not in self._ending and wait not in self._ended

    async def _left(self, waits: Sequence[Mapping[str, Any]]) -> list[str]:
        """Those that nobody has woken yet, of what others should have done: a document may lag behind the run that decided."""
        woken: set[str] = set()
        for tenant in {wait["tenant"] for wait in waits}:
            keys = [wake_key(wait["_id"]) for wait in waits if wait["tenant"] == tenant]
            query = {"tenant": tenant, "idempotency_key": {"$in": keys}}
            woken.update([run["wait_id"] async for run in self._db[RUNS].find(query, {"wait_id": 1})])
        return [
            wait["_id"] for wait in waits if wait["_id"] not in woken or self._shares.waited_s(wait["_id"]) > LEFT_S
        ]

    async def _end(self, wait: Any, now: datetime) -> None:
        """End one wait, or ask the next person. A failure is tried again; it concerns this wait only."""
        try:
            if wait["status"] != WaitStatus.OPEN.value:
                await self._settle(wait)
            elif await self._escalations.escalate(wait, now):
                WOKEN.labels(how="escalated").inc()
            else:
                await self._wake(wait, now)
        except Exception:
            log.exception("wait.not_ended", wait_id=wait["_id"], thread_id=wait["thread_id"], again_in_s=RETRY_S)
            await asyncio.sleep(RETRY_S)
        finally:
            self._ended.add(wait["_id"])
            self._ending.pop(wait["_id"], None)

    async def _wake(self, wait: Any, now: datetime) -> None:
        outcome = WaitOutcome(kind=OutcomeKind.DUE, wait_id=wait["_id"], due_at=wait["due_at"], at=now)
        woken = await self._waits.wake(wait, outcome)
        WOKEN.labels(how="ended" if woken.won else "had_ended").inc()
        if woken.won:
            LATENESS.observe(max(0.0, (await self._clock.now() - wait["due_at"]).total_seconds()))

    async def _settle(self, wait: Any) -> None:
        """A wait that is over needs no due time."""
        query = {"_id": wait["_id"], "status": wait["status"], "due_at": wait["due_at"]}
        await self._db[WAITS].update_one(query, {"$unset": {"due_at": ""}})
