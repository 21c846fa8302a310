"""Connections that hold the gateway's memory and do nothing with it.

Contract: a connection that has not sent the headers of its first request in time is closed, and so is a connection whose client has
not taken a byte of its answer for long. aiohttp closes those that stay open between two requests; it has no time-out for these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import Counter

EVERY_S: Final = 1.0

CLOSED = Counter(
    "perdure_gateway_closed_connections_total", "Connections that were closed for doing nothing.", ("why",)
)


@dataclass(slots=True)
class _Seen:
    since: float
    """Since when it has sent no headers."""
    unsent: int = 0
    """Bytes of an answer that wait for the client."""
    taken_at: float = 0.0
    asked: bool = False


class Connections:
    """Watches the connections of a server.

    Args:
        headers_s: Until the headers of the first request are there.
        stalled_s: In which a client takes nothing of an answer.

    """

    def __init__(self, headers_s: float, stalled_s: float) -> None:
        self._headers_s = headers_s
        self._stalled_s = stalled_s
        self._seen: dict[Any, _Seen] = {}

    def install(self, app: web.Application) -> None:
        """Note the requests of an application."""
        app.middlewares.insert(0, self._noting)

    async def watch(self, connections: Callable[[], Sequence[Any]]) -> None:
        """Close what does nothing, for ever.

        Args:
            connections: The server's, now.

        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(EVERY_S)
            self.look(connections(), loop.time())

    def look(self, connections: Sequence[Any], now: float) -> None:
        """Close those of a server's connections that do nothing."""
        there = set(connections)
        for gone in self._seen.keys() - there:
            del self._seen[gone]
        for one in there:
            seen = self._seen.setdefault(one, _Seen(now))
            transport = one.transport
            if transport is None:
                continue
            unsent = transport.get_write_buffer_size()
            if not unsent or unsent != seen.unsent:
                seen.unsent, seen.taken_at = unsent, now
            if not seen.asked and now - seen.since > self._headers_s:
                _close(transport, "no headers")
            elif unsent and now - seen.taken_at > self._stalled_s:
                _close(transport, "answer not taken")

    @web.middleware
    async def _noting(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._seen.setdefault(request.protocol, _Seen(0.0)).asked = True
        return await handler(request)


CONNECTIONS: web.AppKey[Connections] = web.AppKey("connections", Connections)
"""Set by the composition root."""


def _close(transport: asyncio.Transport, why: str) -> None:
    CLOSED.labels(why).inc()
    transport.abort()
