"""How much of something a tenant has: counted seldom, and kept up in between.

Contract: :meth:`Usage.take` costs the database nothing as a rule. A count is repeated at most every second, in the background after
``REFRESH_S``, and never more than a hundredth of the time is spent on counting one thing. What other gateways add is seen with
the next count, so that a limit is passed by what they take until then.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from perdure.chassis.telemetry import logger

log = logger(__name__)

REFRESH_S: Final = 30.0
AGAIN_S: Final = 1.0
"""A count that refuses is repeated after so long at the earliest, in seconds."""
SHARE: Final = 100
"""A count is repeated after so many times its own duration at the earliest."""
KEPT: Final = 10_000
"""Things whose counts are remembered."""

Key = tuple[str, str]
Counting = Callable[[], Awaitable[int]]


@dataclass(slots=True)
class _Known:
    count: int = 0
    added: int = 0
    """By this gateway since the count began."""
    counted_at: float | None = None
    duration_s: float = 0.0
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def age(self) -> float:
        return float("inf") if self.counted_at is None else time.monotonic() - self.counted_at


class Usage:
    """Counts by key. Belongs to one event loop."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, _Known] = OrderedDict()

    async def take(
        self, key: Key, limit: int, counting: Counting, amount: int = 1, *, uncounted: int = 0, waits: bool = True
    ) -> bool:
        """Take ``amount`` more, if that stays within ``limit``.

        Args:
            key: What is counted, and of whom.
            limit: The most that there may be.
            counting: Asks the database. It may stop counting above the limit.
            amount: How much is taken.
            waits: Whether the first count is waited for.
            uncounted: So much may be taken here before the database is asked for the first time: for what is many and small.

        """
        known = self._of(key)
        if known.counted_at is None:
            if known.added + amount > uncounted:
                counted = self._begin(known, counting)
                if waits:
                    await asyncio.shield(counted)
        else:
            over = known.count + known.added + amount > limit
            if known.age() > max(AGAIN_S if over else REFRESH_S, SHARE * known.duration_s):
                counted = self._begin(known, counting)
                if over:
                    await asyncio.shield(counted)
        if known.counted_at is not None and known.count + known.added + amount > limit:
            return False
        known.added += amount
        return True

    def _of(self, key: Key) -> _Known:
        known = self._known.setdefault(key, _Known())
        self._known.move_to_end(key)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return known

    def _begin(self, known: _Known, counting: Counting) -> asyncio.Task[None]:
        if known.task is None or known.task.done():
            known.task = asyncio.create_task(_counted(known, counting), name="usage")
            known.task.add_done_callback(_logged)
        return known.task


async def _counted(known: _Known, counting: Counting) -> None:
    began, before = time.monotonic(), known.added
    known.count = await counting()
    known.added -= before
    known.counted_at = time.monotonic()
    known.duration_s = known.counted_at - began


def _logged(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("quota.not_counted", reason=repr(error))
