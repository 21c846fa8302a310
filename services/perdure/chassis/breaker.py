"""A circuit breaker's memory: whether a server that failed again and again is left alone, and for how long.

Contract: pure but for its own counts; the time comes in as an argument (seconds of a monotonic clock). The breaker opens after
``failures`` failures in a row; each time that it is tried in vain it stays open twice as long, ``cap_s`` seconds at most.

Outside: what counts as a failure, and who tries (``perdure.notifier.breaker``, ``perdure.chassis.circuit``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Breaker:
    """The breaker of one server.

    Attributes:
        limit: Failures in a row that open it.
        first_s: How long it is left alone at first, in seconds.
        cap_s: How long at most, in seconds.
        failures: In a row, since it last worked.
        opened: How often it opened since it last worked; 0 while it is closed.
        until: While it is open: when it may be tried.

    """

    limit: int
    first_s: float
    cap_s: float
    failures: int = 0
    opened: int = 0
    until: float = 0.0

    def due(self, now: float) -> bool:
        """Whether the server may be tried: always while the breaker is closed."""
        return not self.opened or now >= self.until

    def waits_s(self, now: float) -> float:
        """Seconds until the server may be tried; 0 when it may be tried now."""
        return max(0.0, self.until - now) if self.opened else 0.0

    def worked(self) -> None:
        """The server answered: close."""
        self.failures = self.opened = 0

    def failed(self, now: float, *, at_once: bool = False) -> bool:
        """The server did not answer, or with an error of its own. Returns whether it is left alone from now on.

        Args:
            now: Seconds of the monotonic clock.
            at_once: Open without waiting for ``limit`` failures.

        """
        self.failures = max(self.failures + 1, self.limit if at_once else 0)
        if self.opened and now < self.until:
            return True  # sent before the breaker opened
        if not self.opened and self.failures < self.limit:
            return False
        self.until = now + min(self.cap_s, self.first_s * 2.0 ** min(self.opened, 32))
        self.opened += 1
        return True
