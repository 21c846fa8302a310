"""Waiting for the ends of runs: one query for all that are waited for.

Contract: :meth:`RunWatch.wait` returns true when the run is not active any more, false when the time is over or this
gateway ends. While nobody waits nothing is read. The event of an end has the database asked at once, and again until its
document says so, too; without events it is asked every ``INTERVAL_S``.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.streams.hub import Streams

INTERVAL_S = 0.1
ASKED_PER_S = 5_000
"""Runs that are asked about at most in a second: the more are waited for, the longer the interval."""
SOON_S: Final = 0.004
SOON_TIMES: Final = 60
"""How often the database is asked about a run whose end is known, before it is asked as about all others."""


class RunWatch:
    """Watches runs that somebody waits for.

    Args:
        ended: Which of these have ended: runs, or threads that have come to rest.
        streams: Tells of ends.

    """

    def __init__(self, ended: Callable[[Sequence[str]], Awaitable[set[str]]], streams: Streams) -> None:
        self._ended = ended
        self._streams = streams
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._threads: Counter[bytes] = Counter()
        self._soon: dict[str, int] = {}
        """What has ended by its event, and how often it is asked about yet."""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        streams.tell_ends(self)

    async def wait(self, name: str, thread_id: str, timeout_s: float | None) -> bool:
        """Wait at most ``timeout_s`` seconds, or as long as it takes, for an end; whether it came.

        Args:
            name: The run, or the thread, that is waited for.
            thread_id: The thread that its events are about.
            timeout_s: In seconds; ``None``: as long as it takes.

        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, []).append(future)
        key = thread_id.encode()
        self._threads[key] += 1
        self._streams.listen()
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name="run-watch")
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            self._threads[key] -= 1
            if not self._threads[key]:
                del self._threads[key]
            self._leave(name, future)
        return True

    @property
    def busy(self) -> bool:
        """Whether anything is waited for."""
        return bool(self._waiting)

    def wants(self, key: bytes) -> bool:
        """Whether something of the thread with this key is waited for. May be called in any thread."""
        return key in self._threads

    def soon(self, thread_id: str, run_id: str) -> None:
        """A run has ended; its document says so in a moment."""
        for name in (thread_id, run_id):
            if name in self._waiting:
                self._soon[name] = SOON_TIMES
                self._news.set()

    async def close(self) -> None:
        """Let everybody go, as if the time were over."""
        if self._task is not None:
            self._task.cancel()
        for futures in list(self._waiting.values()):
            for future in futures:
                if not future.done():
                    future.set_exception(TimeoutError())

    def _leave(self, name: str, future: asyncio.Future[None]) -> None:
        futures = self._waiting.get(name)
        if futures is not None and future in futures:
            futures.remove(future)
            if not futures:
                del self._waiting[name]

    async def _watch(self) -> None:
        everything_at = time.monotonic()
        try:
            while self._waiting:
                if time.monotonic() >= everything_at:
                    await self._look([*self._waiting])
                    everything_at = time.monotonic() + max(INTERVAL_S, len(self._waiting) / ASKED_PER_S)
                else:
                    await self._look([*self._soon])
                if self._waiting:
                    await self._pause(everything_at - time.monotonic())
        finally:
            self._task = None

    async def _pause(self, rest_s: float) -> None:
        if self._soon:
            await asyncio.sleep(min(SOON_S, max(0.0, rest_s)))
            return
        self._news.clear()
        try:
            async with asyncio.timeout(max(0.0, rest_s)):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _look(self, names: Sequence[str]) -> None:
        """Ask about these; those that ended are told."""
        if not names:
            return
        try:
            ended = await self._ended(names)
        except RequestProblem:
            ended = set()  # an outage: those who wait go on waiting
        for name in names:
            left = self._soon.pop(name, 0) - 1
            if name in ended:
                for future in self._waiting.pop(name, ()):
                    if not future.done():
                        future.set_result(None)
            elif left > 0 and name in self._waiting:
                self._soon[name] = left
