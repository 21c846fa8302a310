"""Bodies of requests, read within budgets: of bytes, of values, of time, and of what is in memory at once.

Contract: a body comes within ``TIME_S`` seconds and at ``PACE_BYTES_S`` from then on. A body over ``SMALL_BYTES`` takes room for as
long as it is read and parsed: when there is none, it waits, and is refused with 503 when that takes too long. One tenant gets half
of the room at most. What takes long is done beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
from aiohttp import web

from perdure.gateway.http.aside import Aside
from perdure.gateway.http.budget import too_many_values
from perdure.gateway.http.depth import JSON_DEPTH, too_deep
from perdure.gateway.http.gunzip import MAGIC, BadGzipError, opened_whole
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.schemas.problem import InvalidField

SMALL_BYTES: Final = 64 * 1024
"""aiohttp keeps as much of each connection."""
TIME_S: Final = 30.0
PACE_BYTES_S: Final = 64 * 1024
WAIT_S: Final = 20.0
"""How long a body waits for room."""
THREADS: Final = 2


class Room:
    """Bytes that may be in memory at once, in all and of one tenant."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._share = total // 2
        self._used: Counter[str] = Counter()
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def taken(self, tenant: str, nbytes: int) -> AsyncIterator[None]:
        """Take so many bytes of room, at most a tenant's share, as soon as they are free.

        Raises:
            RequestProblem: ``busy``: they are not free in time.

        """
        part = min(nbytes, self._share)
        try:
            async with asyncio.timeout(WAIT_S), self._freed:
                await self._freed.wait_for(lambda: self._fits(tenant, part))
                self._used[tenant] += part
        except TimeoutError:
            raise busy("Too many large bodies are being read.") from None
        try:
            yield
        finally:
            self._used[tenant] -= part
            if not self._used[tenant]:
                del self._used[tenant]
            async with self._freed:
                self._freed.notify_all()

    def _fits(self, tenant: str, part: int) -> bool:
        return self._used[tenant] + part <= self._share and self._used.total() + part <= self._total


class Bodies:
    """Reads bodies.

    Args:
        limit_bytes: Of one body, after decompression.
        limit_values: Values and keys of one body.
        total_bytes: Of the bodies that are read at once.
        tenant_of: The tenant of a request.

    """

    def __init__(
        self, limit_bytes: int, limit_values: int, total_bytes: int, tenant_of: Callable[[web.Request], str]
    ) -> None:
        self._tenant_of = tenant_of
        self._limit_bytes = limit_bytes
        self._limit_values = limit_values
        self._room = Room(max(total_bytes, 2 * limit_bytes))
        self._aside = Aside(THREADS, "bodies")

    async def json(self, request: web.Request) -> Any:
        """A body as parsed JSON; an empty one is ``{}``.

        Raises:
            RequestProblem: ``body-too-large``, ``body-too-slow``, ``unsupported-media-type``, ``malformed-json``,
                ``invalid-request``, ``busy`` or ``bad-request``.

        """
        limit, announced = self._limit_bytes, request.content_length
        if announced is not None and announced > limit:
            raise too_large(limit, announced)
        if announced is not None and announced <= SMALL_BYTES:
            return await self._parsed(request, await received(request, limit, too_large))
        async with self._room.taken(self._tenant_of(request), announced or limit):
            body = await received(request, limit, too_large)
            if not body.startswith(MAGIC):
                return await self._parsed(request, body)
        return await self._parsed(request, body)

    async def _parsed(self, request: web.Request, body: bytes) -> Any:
        if body.startswith(MAGIC):
            async with self._room.taken(self._tenant_of(request), self._limit_bytes):
                return await self._parsed_plain(request, await self._unpacked(body))
        return await self._parsed_plain(request, body)

    async def _unpacked(self, body: bytes) -> bytes:
        try:
            found = await self._aside.run(opened_whole, body, self._limit_bytes)
        except BadGzipError as error:
            raise RequestProblem("bad-request", f"The body cannot be read: {error}.") from error
        if len(found) > self._limit_bytes:
            raise too_large(self._limit_bytes, None)
        return found

    async def _parsed_plain(self, request: web.Request, body: bytes) -> Any:
        if not body:
            return {}
        require_json_type(request)
        if len(body) <= SMALL_BYTES:
            return parsed(body, self._limit_values)
        return await self._aside.run(parsed, body, self._limit_values)


BODIES: web.AppKey[Bodies] = web.AppKey("bodies", Bodies)
"""Set by the composition root."""


async def received(request: web.Request, limit: int, refusal: Any) -> bytes:
    """The bytes of a body, at most ``limit`` of them.

    Raises:
        RequestProblem: ``refusal(limit, None)``, before the rest is read; ``body-too-slow``.

    """
    body = bytearray()
    began = asyncio.get_running_loop().time()
    while True:
        try:
            async with asyncio.timeout_at(began + TIME_S + len(body) / PACE_BYTES_S):
                chunk = await request.content.readany()
        except TimeoutError:
            raise RequestProblem(
                "body-too-slow",
                f"{len(body)} bytes of the body came within {TIME_S:g} s. Send it again.",
                headers=CLOSE,
            ) from None
        except ConnectionError as error:
            raise RequestProblem("bad-request", "The connection was lost.") from error
        if not chunk:
            return bytes(body)
        body += chunk
        if len(body) > limit:
            raise refusal(limit, None)


CLOSE: Final = {"Connection": "close"}


def parsed(body: bytes, limit_values: int) -> Any:
    """JSON as Python's values.

    Raises:
        RequestProblem: ``body-too-large``, ``malformed-json`` or ``invalid-request``.

    """
    if too_many_values(body, limit_values):
        raise RequestProblem(
            "body-too-large",
            f"The body holds more than {limit_values} values and keys (PERDURE_GATEWAY_BODY_LIMIT_VALUES). Store large values "
            "elsewhere and pass a reference.",
        )
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno} (character {error.pos})"
        detail = f"{error.msg} at {where}"
        raise RequestProblem("malformed-json", f"{detail}.", (InvalidField(pointer="", detail=detail),)) from None
    if too_deep(body, value):
        raise invalid("", f"nested deeper than {JSON_DEPTH} levels")
    return value


def require_json_type(request: web.Request) -> None:
    """Refuse a body of another type.

    Raises:
        RequestProblem: ``unsupported-media-type``.

    """
    if request.content_type != "application/json" and not request.content_type.endswith("+json"):
        raise RequestProblem(
            "unsupported-media-type",
            f"The body has the type {request.content_type!r}; send JSON with Content-Type: application/json.",
            (InvalidField(pointer="header:Content-Type", detail="must be application/json"),),
        )


def too_large(limit: int, size: int | None) -> RequestProblem:
    """The body is over the limit, both in bytes."""
    sent = f" of {size} bytes" if size is not None else ""
    return RequestProblem(
        "body-too-large",
        f"The body{sent} is larger than the limit of {limit} bytes (PERDURE_GATEWAY_BODY_LIMIT_BYTES). "
        "Store large values elsewhere and pass a reference.",
    )


def busy(why: str) -> RequestProblem:
    """The gateway has no room for a request now."""
    return RequestProblem("busy", f"{why} Try again in a moment.", headers={"Retry-After": "2"})
