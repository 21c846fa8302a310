"""Waiting for the ends of runs: one query for all that are waited for.

Contract: :meth:`RunWatch.wait` returns true when the run is not active any more, false when the time is over or this
gateway ends. While nobody waits
nothing is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from perdure.gateway.http.problems import RequestProblem

INTERVAL_S = 0.1
ASKED_PER_S = 5_000
"""Runs that are asked about at most in a second: the more are waited for, the longer the interval."""


class RunWatch:
    """Watches runs that somebody waits for."""

    def __init__(self, ended: Callable[[Sequence[str]], Awaitable[set[str]]]) -> None:
        self._ended = ended
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def wait(self, run_id: str, timeout_s: float | None) -> bool:
        """Wait at most ``timeout_s`` seconds, or as long as it takes, for the run's end; whether it ended."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, []).append(future)
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name="run-watch")
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            self._leave(run_id, future)
        return True

    async def close(self) -> None:
        """Let everybody go, as if the time were over."""
        if self._task is not None:
            self._task.cancel()
        for futures in list(self._waiting.values()):
            for future in futures:
                if not future.done():
                    future.set_exception(TimeoutError())

    def _leave(self, run_id: str, future: asyncio.Future[None]) -> None:
        futures = self._waiting.get(run_id)
        if futures is not None and future in futures:
            futures.remove(future)
            if not futures:
                del self._waiting[run_id]

    async def _watch(self) -> None:
        try:
            while self._waiting:
                try:
                    ended = await self._ended(list(self._waiting))
                except RequestProblem:
                    ended = set()  # an outage: those who wait go on waiting
                for run_id in ended:
                    for future in self._waiting.pop(run_id, ()):
                        if not future.done():
                            future.set_result(None)
                if self._waiting:
                    await asyncio.sleep(max(INTERVAL_S, len(self._waiting) / ASKED_PER_S))
        finally:
            self._task = None
