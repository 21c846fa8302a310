"""A circuit around the calls to one server: while the server is away, its callers are answered at once.

Contract: a call that is slow is no failure. When a call has no answer after ``slow_s`` seconds, the smallest request there is
(the probe) is sent beside it. While the server answers probes, the call may take its time. A server that does not answer a probe
within ``probe_s`` seconds is away: the circuit opens, and every call that waits for the server fails at once. While the circuit is
open nothing is sent but the probe, one at a time, by :meth:`Circuit.watch`, which the owner keeps running; the first answered
probe closes the circuit.

So a frozen server costs a caller ``slow_s + probe_s`` seconds once, and nothing after that, without a limit on how long a heavy
query may take on a server that works. A caller that has less time than a busy server may need for a probe uses
:meth:`Circuit.unless_late`, which costs ``slow_s + late_s`` seconds. A server that answers with an error is not away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from perdure.chassis.breaker import Breaker
from perdure.chassis.errors import UnavailableError, UnreachableError
from perdure.chassis.telemetry import logger

log = logger(__name__)

T = TypeVar("T")

SLOW_S: Final = 0.3
LATE_S: Final = 0.4
PROBE_S: Final = 1.5
"""A server on a machine whose processors are all busy answers the smallest request within this time, in seconds."""
WATCH_S: Final = 1.0
"""Between two probes of a server that answers, in seconds."""
LONGEST_S: Final = 2.0
"""Between two probes of a server that is away, at most, in seconds."""
FIRST_S: Final = 0.5
"""Between two probes of a server that is away, at first; doubled up to :data:`LONGEST_S`."""
FAILURES: Final = 2
"""In a row: one lost connection opens nothing. A probe without an answer opens the circuit at once."""

SLOW_NOW: Final = "it is slow now; try again"


class Circuit:
    """The circuit of one server; belongs to one event loop.

    Args:
        server: Its name, for messages.
        address: Its address, for messages.
        ping: The smallest request; returns when the server works. Raises UnavailableError.
        slow_s: A call without an answer for this many seconds has the server probed.
        late_s: A probe without an answer for this many seconds is late.
        probe_s: A server that has not answered a probe for this many seconds is away.

    """

    def __init__(
        self,
        server: str,
        address: str,
        ping: Callable[[], Awaitable[None]],
        *,
        slow_s: float = SLOW_S,
        late_s: float = LATE_S,
        probe_s: float = PROBE_S,
    ) -> None:
        self._server = server
        self._address = address
        self._ping = ping
        self._slow_s = slow_s
        self._late_s = late_s
        self._probe_s = probe_s
        self._breaker = Breaker(FAILURES, FIRST_S, LONGEST_S)
        self._answered = False
        self._why = "it was not asked yet"
        self._probing: asyncio.Task[bool] | None = None
        self._away = asyncio.Event()
        self._late = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether calls are sent to the server."""
        return not self._breaker.opened

    @property
    def answers(self) -> bool:
        """Whether the server has answered and is not known to be away."""
        return self._answered and self.closed

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await ``call()``.

        Raises:
            UnreachableError: the server is away.
            Exception: what ``call`` raises.

        """
        if not self.closed:
            raise self._unreachable()
        task = asyncio.ensure_future(call())
        away: asyncio.Task[bool] | None = None
        try:
            done, _ = await asyncio.wait({task}, timeout=self._slow_s)
            if not done and not await self._is_there(task):
                raise self._unreachable()
            if not task.done():
                away = asyncio.ensure_future(self._away.wait())
                await asyncio.wait((task, away), return_when=asyncio.FIRST_COMPLETED)
                if not task.done():
                    raise self._unreachable()
            answer = task.result()
        except UnreachableError as error:
            if task.done():
                self._failed(error.detail)
            raise
        finally:
            task.cancel()
            if away is not None:
                away.cancel()
        self._worked()
        return answer

    async def unless_late(self, work: Awaitable[T]) -> T:
        """Await ``work``, whose calls go through this circuit, for as long as the server answers probes in time.

        Raises:
            UnreachableError: a probe is late, or the server is away.
            Exception: what ``work`` raises.

        """
        task, late = asyncio.ensure_future(work), asyncio.ensure_future(self._late.wait())
        try:
            await asyncio.wait((task, late), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise self._unreachable() if not self.closed else UnreachableError(self._server, self._address, SLOW_NOW)
        finally:
            task.cancel()
            late.cancel()

    async def probe(self) -> bool:
        """Whether the server answers the smallest request in time; callers at the same time share one probe."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.ensure_future(self._probe())
        return await asyncio.shield(self._probing)

    async def watch(self) -> None:
        """Probe the server until cancelled."""
        while True:
            there = await self.probe()
            pause_s = WATCH_S if there else max(FIRST_S, self._breaker.waits_s(time.monotonic()))
            await asyncio.sleep(pause_s)

    async def aclose(self) -> None:
        """Wait for the probe that is under way: ``probe_s`` seconds at most."""
        if self._probing is not None:
            await asyncio.wait({self._probing})

    async def _is_there(self, task: asyncio.Future[T]) -> bool:
        """Whether the call was answered after all, or the server answers a probe; else count the call as failed."""
        probing = asyncio.ensure_future(self.probe())
        try:
            await asyncio.wait((task, probing), return_when=asyncio.FIRST_COMPLETED)
            if task.done() or probing.result():
                return True
        finally:
            probing.cancel()
        self._failed(self._why)
        return False

    async def _probe(self) -> bool:
        late = asyncio.get_running_loop().call_later(self._late_s, self._late.set)
        try:
            async with asyncio.timeout(self._probe_s):
                await self._ping()
        except TimeoutError:
            self._failed(f"no answer within {self._probe_s:g} seconds", at_once=True)
            return False
        except UnavailableError as error:
            self._failed(error.detail)
            return False
        finally:
            late.cancel()
        self._worked()
        return True

    def _worked(self) -> None:
        if not self.closed:
            log.info("circuit.closed", server=self._server, address=self._address)
        self._answered = True
        self._breaker.worked()
        self._away.clear()
        self._late.clear()

    def _failed(self, why: str, *, at_once: bool = False) -> None:
        was_closed, self._why = self.closed, why
        if self._breaker.failed(time.monotonic(), at_once=at_once) and was_closed:
            log.warning("circuit.opened", server=self._server, address=self._address, detail=why)
            self._away.set()
            self._late.set()

    def _unreachable(self) -> UnreachableError:
        detail = f"{self._why}. It is asked again every {LONGEST_S:g} seconds"
        return UnreachableError(self._server, self._address, detail)
