"""The scheduler's loops: one task each, so that none holds up another, and the leader's turn at the sweeps.

Contract: a loop takes a turn each interval until it is told to stop; one that knows when the next thing falls due rests until then.
A turn that fails is logged and the next one tries again; a turn that hangs (a database that does not answer) holds up its own loop
only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter, Gauge
from pymongo.errors import PyMongoError

from perdure.chassis.telemetry import logger
from perdure.scheduler.leader import Leadership
from perdure.scheduler.settings import SchedulerSettings
from perdure.scheduler.sweeps import Sweeper, Swept

log = logger(__name__)

LEADS = Gauge("perdure_scheduler_leads", "1 while this instance leads")
SWEPT = Counter("perdure_scheduler_swept", "What the sweeps took up again", ["what"])
FAILED = Counter("perdure_scheduler_failed_turns", "Turns that ended with an error", ["loop"])

Turn = Callable[[], Awaitable[None]]

LAST_TURN_S = 5.0
"""How long a turn in hand may take to end, once the scheduler is told to stop."""


class Resting(Protocol):
    """Knows whether there is anything to take a turn for."""

    async def rest_s(self) -> float:
        """For how many seconds there is nothing; 0 when there is something now."""


@dataclass(frozen=True, slots=True)
class Loop:
    """One thing that the scheduler does again and again."""

    name: str
    every_s: float
    """Between the end of a turn and the next one, in seconds."""
    turn: Turn
    ahead: Resting | None = None
    """Says for how long there is nothing to take a turn for."""


class Lead:
    """Whether this instance leads, renewed by a loop of its own (:meth:`renew`)."""

    def __init__(self, leadership: Leadership, settings: SchedulerSettings) -> None:
        self._leadership = leadership
        self._ttl_s = settings.leader_ttl_s
        self._lease_ttl_s = settings.lease_ttl_s
        self._until = 0.0
        self._answered_since = float("inf")

    @property
    def answering(self) -> bool:
        """Whether the database answered last time."""
        return self._answered_since < float("inf")

    @property
    def leads(self) -> bool:
        """Whether the lease, as of the last renewal, still holds."""
        return time.monotonic() < self._until

    @property
    def steady(self) -> bool:
        """Whether the database has answered for a worker's whole lease.

        The leader of a moment ago may have seen an outage that we did not: nobody is dead before that.
        """
        return time.monotonic() - self._answered_since >= self._lease_ttl_s

    def lost(self) -> None:
        """The database did not answer: whoever depends on its having answered for some time begins anew."""
        self._answered_since = float("inf")

    async def renew(self) -> None:
        """Take or renew the lease."""
        asked = time.monotonic()
        leads = await self._leadership.acquire()
        self._until = asked + self._ttl_s if leads else 0.0
        self._answered_since = min(self._answered_since, time.monotonic())
        LEADS.set(leads)

    async def resign(self) -> None:
        """Give the lease back; when the database does not answer, it expires."""
        try:
            await self._leadership.resign()
        except PyMongoError as error:
            log.warning("leader.resign_failed", error=str(error))

    def only(self, turn: Turn) -> Turn:
        """A turn that is taken only while this instance leads."""

        async def led() -> None:
            if self.leads:
                await turn()

        return led


def recovering(sweeper: Sweeper, lead: Lead) -> Turn:
    """The leader's turn at the runs of dead workers."""

    async def recover() -> None:
        _count(await sweeper.recover(declare_dead=lead.steady))

    return lead.only(recover)


def sweeping(sweeper: Sweeper, lead: Lead) -> Turn:
    """The leader's turn at what was never published."""

    async def sweep() -> None:
        _count(await sweeper.sweep())

    return lead.only(sweep)


def _count(swept: Swept) -> None:
    for what in ("workers_dead", "recovered", "started", "settled", "refused"):
        SWEPT.labels(what=what).inc(getattr(swept, what))


async def run_loops(loops: Sequence[Loop], lead: Lead, stopping: asyncio.Event) -> None:
    """Run all loops until ``stopping``; a turn in hand is finished, or cancelled when it hangs. Then resign."""
    async with asyncio.TaskGroup() as tasks:
        for loop in loops:
            tasks.create_task(_run(loop, lead, stopping), name=loop.name)
    await lead.resign()


async def _run(loop: Loop, lead: Lead, stopping: asyncio.Event) -> None:
    stopped = asyncio.create_task(stopping.wait())
    while not stopping.is_set():
        turn = asyncio.create_task(_guarded(loop, lead))
        await asyncio.wait((turn, stopped), return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            await _let_end(turn)
            return
        await asyncio.wait((stopped,), timeout=turn.result())


async def _guarded(loop: Loop, lead: Lead) -> float:
    """One turn, unless there is nothing to take one for; how many seconds to wait then.

    A loop outlives every error: the others depend on nothing that it does.
    """
    try:
        if loop.ahead is not None and (rest_s := await loop.ahead.rest_s()) > 0:
            return rest_s
        await loop.turn()
    except PyMongoError as error:
        lead.lost()
        FAILED.labels(loop=loop.name).inc()
        log.warning("scheduler.database_away", loop=loop.name, error=str(error))
    except Exception:
        FAILED.labels(loop=loop.name).inc()
        log.exception("scheduler.turn_failed", loop=loop.name)
    return loop.every_s


async def _let_end(turn: asyncio.Task[float]) -> None:
    await asyncio.wait((turn,), timeout=LAST_TURN_S)
    if not turn.done():
        turn.cancel()
        await asyncio.wait((turn,))
