"""A breaker for each endpoint: one that fails again and again is left alone for a while, then tried with a single delivery.

Contract: pure but for its own memory; the time comes in as an argument (seconds of a monotonic clock). Each instance of the
notifier learns for itself: it costs a few attempts and needs nobody else.

Outside: what counts as a failure of the endpoint and not of the delivery (``perdure.notifier.channels.result``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Record:
    failures: int = 0
    opened: int = 0
    """How often it was opened since it last worked."""
    until: float = 0.0
    """While open: when one delivery may try it."""


class Breakers:
    """The breakers of all endpoints."""

    def __init__(self, failures: int, first_s: float, cap_s: float) -> None:
        self._limit = failures
        self._first_s = first_s
        self._cap_s = cap_s
        self._records: dict[str, _Record] = {}

    def room(self, endpoint: str, now: float, cap: int) -> int:
        """How many deliveries may be under way to it: ``cap``, 1 when it is to be tried, or 0."""
        found = self._records.get(endpoint)
        if found is None or not found.opened:
            return cap
        return 1 if now >= found.until else 0

    def waits_s(self, endpoint: str, now: float) -> float:
        """Seconds until it may be tried; 0 when it may now."""
        found = self._records.get(endpoint)
        return max(0.0, found.until - now) if found is not None and found.opened else 0.0

    def open(self, now: float) -> list[str]:
        """The endpoints that nothing is sent to now."""
        return [name for name, found in self._records.items() if found.opened and now < found.until]

    def worked(self, endpoint: str) -> None:
        """It answered."""
        self._records.pop(endpoint, None)

    def failed(self, endpoint: str, now: float) -> bool:
        """It did not answer, or with an error of its own; whether it is left alone from now on."""
        found = self._records.setdefault(endpoint, _Record())
        found.failures += 1
        if found.opened and now < found.until:
            return True  # sent before it was opened
        if not found.opened and found.failures < self._limit:
            return False
        found.until = now + min(self._cap_s, self._first_s * 2.0 ** min(found.opened, 32))
        found.opened += 1
        return True
