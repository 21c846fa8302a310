"""The audit of a worker: the runs that the database says it owns, held against those that it executes (ADR 24).

Contract: :meth:`Audit.hold` is called on the event loop at every heartbeat. A run that is owned and not executed here, at two
heartbeats in a row, is given back. A run that makes no progress for ``idle_s`` seconds while none of its nodes is at work is
reported with its stacks and given back as a crash, so that one that stands still everywhere is parked in the end.

Only time in which the worker was seen to be idle counts: an outage of the database, a frozen process or a blocked event loop adds
nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from perdure.agent_step import idle, metrics
from perdure.agent_step.lease import Owned
from perdure.chassis.telemetry import logger

log = logger(__name__)

LOOKS = 3
"""Looks at the stacks within the time after which a run counts as idle."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """A run that this worker has a task for."""

    epoch: int
    task: asyncio.Task[None]


@dataclass(slots=True)
class _Standing:
    """How long a run has been without progress, and how often none of its nodes was at work."""

    progress: object
    seconds: float = 0.0
    looks: int = 0


class Audit:
    """The audit of one worker.

    Args:
        idle_s: Seconds without progress and without a node at work after which a run is given back.
        claiming: Tokens of the claims under way: what they took is not executed yet.

    """

    def __init__(self, idle_s: float, claiming: Callable[[], set[str]]) -> None:
        self._idle_s = idle_s
        self._claiming = claiming
        self._missing: set[tuple[str, int]] = set()
        self._standing: dict[tuple[str, int], _Standing] = {}
        self._at = time.monotonic()
        self._looked_at = 0.0

    def not_executed(self, owned: Sequence[Owned], held: Mapping[str, Ownership]) -> list[Owned]:
        """The owned runs that nothing here executes, now and at the heartbeat before."""
        claiming = self._claiming()
        missing = [
            one
            for one in owned
            if one.claim not in claiming and (one.run_id not in held or held[one.run_id].epoch != one.epoch)
        ]
        again = [one for one in missing if (one.run_id, one.epoch) in self._missing]
        self._missing = {(one.run_id, one.epoch) for one in missing}
        metrics.NOT_EXECUTED.set(len(missing))
        return again

    def idle(self, held: Mapping[str, Ownership], progress: Callable[[str], object], available: bool) -> list[str]:
        """The ids of the runs that have been idle for too long.

        Args:
            held: The runs here.
            progress: A value for each run that changes whenever the run makes progress.
            available: Whether the database answered since the last call.

        """
        now = time.monotonic()
        passed, self._at = now - self._at, now
        if not available:
            self._standing.clear()
            return []
        self._note_progress(held, progress, min(passed, self._idle_s / LOOKS))
        if now - self._looked_at >= self._idle_s / (LOOKS + 1):
            self._looked_at = now
            self._look(held)
        found = [
            run_id for (run_id, _), one in self._standing.items() if one.seconds >= self._idle_s and one.looks >= LOOKS
        ]
        metrics.IDLE.set(len(found))
        for run_id in found:
            del self._standing[run_id, held[run_id].epoch]
        return found

    def _note_progress(self, held: Mapping[str, Ownership], progress: Callable[[str], object], seconds: float) -> None:
        standing: dict[tuple[str, int], _Standing] = {}
        for run_id, one in held.items():
            key, where = (run_id, one.epoch), progress(run_id)
            before = self._standing.get(key)
            if before is None or before.progress != where:
                standing[key] = _Standing(where)
            else:
                before.seconds += seconds
                standing[key] = before
        self._standing = standing

    def _look(self, held: Mapping[str, Ownership]) -> None:
        """Look at the stacks of the runs that have made no progress since the last heartbeat."""
        still = {run_id: held[run_id].task for (run_id, _), one in self._standing.items() if one.seconds}
        if not still:
            return
        working = idle.working(still, asyncio.get_running_loop())
        for (run_id, _), one in self._standing.items():
            if run_id in working:
                one.seconds, one.looks = 0.0, 0
            elif run_id in still:
                one.looks += 1


def report(run_id: str, task: asyncio.Task[None], idle_s: float) -> str:
    """Log where an idle run stands; the same in a sentence, for its crash log."""
    metrics.GIVEN_BACK.labels(reason="idle").inc()
    log.error("run.idle", run_id=run_id, stacks=idle.stacks(run_id, task, asyncio.get_running_loop()))
    return f"it made no progress for {idle_s:g} s while none of its nodes was at work"
