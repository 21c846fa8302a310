"""A breaker for each endpoint: an endpoint that fails again and again is left alone for a while, then tried with one delivery.

Contract: pure but for its own memory; the time comes in as an argument (seconds of a monotonic clock). Each instance of the
notifier learns for itself: it costs a few attempts and needs nobody else.

Outside: what counts as a failure of the endpoint and not of the delivery (``perdure.notifier.channels.result``).
"""

from __future__ import annotations

from perdure.chassis.breaker import Breaker


class Breakers:
    """The breakers of all endpoints."""

    def __init__(self, failures: int, first_s: float, cap_s: float) -> None:
        self._limit = failures
        self._first_s = first_s
        self._cap_s = cap_s
        self._by_endpoint: dict[str, Breaker] = {}

    def room(self, endpoint: str, now: float, cap: int) -> int:
        """How many deliveries may be under way to the endpoint: ``cap``, 1 when it is to be tried, or 0."""
        breaker = self._by_endpoint.get(endpoint)
        if breaker is None or not breaker.opened:
            return cap
        return 1 if breaker.due(now) else 0

    def waits_s(self, endpoint: str, now: float) -> float:
        """Seconds until the endpoint may be tried; 0 when it may be tried now."""
        breaker = self._by_endpoint.get(endpoint)
        return 0.0 if breaker is None else breaker.waits_s(now)

    def open(self, now: float) -> list[str]:
        """The endpoints that nothing is sent to now."""
        return [endpoint for endpoint, breaker in self._by_endpoint.items() if not breaker.due(now)]

    def worked(self, endpoint: str) -> None:
        """The endpoint answered."""
        self._by_endpoint.pop(endpoint, None)

    def failed(self, endpoint: str, now: float) -> bool:
        """The endpoint did not answer, or with an error of its own; whether it is left alone from now on."""
        breaker = self._by_endpoint.setdefault(endpoint, Breaker(self._limit, self._first_s, self._cap_s))
        return breaker.failed(now)
