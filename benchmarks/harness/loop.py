"""A closed loop with a bound on what is open and on time, and the cost of what went on meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from harness.accounting import busy_seconds, cpu_seconds
from harness.system import System


@dataclass(slots=True)
class Done:
    """What came of a loop. Times in seconds."""

    count: int = 0
    wall_s: float = 0.0
    took_s: list[float] = field(default_factory=list)


async def closed_loop(
    count: int, opened: int, seconds: float, call: Callable[[int], Awaitable[object]], spread_s: float = 0.0
) -> Done:
    """``call(0)``, ``call(1)``, ...: at most ``opened`` under way; none is begun after ``seconds``. The first error ends it.

    ``spread_s``: the first ``opened`` are begun one after another within so many seconds, and not all at one instant.
    """
    done, numbers = Done(), itertools.count()
    began = time.perf_counter()

    async def work(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while time.perf_counter() - began < seconds and (number := next(numbers)) < count:
            started = time.perf_counter()
            await call(number)
            done.took_s.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for place in range(min(opened, count)):
            group.create_task(work(spread_s * place / opened))
    done.wall_s, done.count = time.perf_counter() - began, len(done.took_s)
    return done


class Cost:
    """CPU seconds of a system, of the driver, and of everything else on the machine since :meth:`__init__`."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._began = time.perf_counter()
        self._counted, self._driver, self._busy = self._read()

    def _read(self) -> tuple[float, float, float]:
        return cpu_seconds(self._system.all_processes()), cpu_seconds([os.getpid()]), busy_seconds()

    def per_thousand(self, count: int) -> dict[str, float]:
        """Until now, for 1,000 of ``count``; and how many cores were busy with something else."""
        counted, driver, busy = (now - then for now, then in zip(self._read(), self._before(), strict=True))
        both = counted if self._system.in_process else counted + driver
        return {
            "cpu_s_per_1000": round(counted / max(1, count) * 1000, 3),
            "driver_cpu_s_per_1000": 0.0 if self._system.in_process else round(driver / max(1, count) * 1000, 3),
            "other_cores": round(max(0.0, busy - both) / (time.perf_counter() - self._began), 2),
        }

    def _before(self) -> tuple[float, float, float]:
        return self._counted, self._driver, self._busy
