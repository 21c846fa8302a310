"""An HTTP server that misbehaves as a test asks, and readers of it that are closed at the end."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import pytest
from aiohttp import web

from perdure.chassis.addresses import AddressRules
from perdure.chassis.hosts import Hosts
from perdure.validator.reading import Reader
from perdure.validator.secrets import Secrets
from perdure.validator.sources.errors import SourceReader
from perdure.validator.sources.http import HOSTS_SETTING, TARGETS_SETTING, HttpReader

LIMIT = 64 * 1024


def http_reader(
    *only: str, allowed: tuple[str, ...] = ("127.0.0.0/8",), environment: dict[str, str] | None = None
) -> HttpReader:
    return HttpReader(
        AddressRules((*allowed, *only), TARGETS_SETTING),
        LIMIT,
        Secrets(environment or {}),
        Hosts(only, HOSTS_SETTING) if only else None,
    )


class World:
    """An HTTP server whose answers a test chooses, and what was asked of it."""

    def __init__(self) -> None:
        self.seen: list[web.Request] = []
        self.now = 0
        self.most = 0
        self.release = asyncio.Event()
        self.url = ""

    async def price(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"price": 10, "at": datetime.now(UTC).isoformat()})

    async def echo(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"key": request.headers.get("X-Key")})

    async def fails(self, _: web.Request) -> web.StreamResponse:
        raise web.HTTPInternalServerError

    async def flaky(self, _: web.Request) -> web.StreamResponse:
        if sum(one.path == "/flaky" for one in self.seen) < 3:
            raise web.HTTPServiceUnavailable
        return web.json_response({"price": 10})

    async def absent(self, _: web.Request) -> web.StreamResponse:
        raise web.HTTPNotFound

    async def moved(self, _: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/price")

    async def text(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>10</html>")

    async def nan(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text='{"price": NaN}', content_type="application/json")

    async def empty(self, _: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    async def huge(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"price": 10, "pad": "x" * LIMIT})

    async def bomb(self, _: web.Request) -> web.StreamResponse:
        packed = gzip.compress(b'{"price": 10, "pad": "' + b"x" * (8 * LIMIT) + b'"}')
        return web.Response(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    async def endless(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while not self.release.is_set():
            await answer.write(b" " * 4096)
        return answer

    async def liar(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "1000"})
        await answer.prepare(request)
        await answer.write(b'{"price": 10}')
        assert request.transport is not None
        request.transport.close()
        return answer

    async def held(self, _: web.Request) -> web.StreamResponse:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.release.wait()
        finally:
            self.now -= 1
        return web.json_response({"price": 10})

    @web.middleware
    async def note(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.seen.append(request)
        return await handler(request)


@pytest.fixture(name="world")
async def validator_world() -> AsyncIterator[World]:
    world = World()
    app = web.Application(middlewares=[world.note])
    names = "price echo fails flaky absent moved text nan empty huge bomb endless liar held"
    app.add_routes([web.get(f"/{name}", getattr(world, name)) for name in names.split()])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    world.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield world
    world.release.set()
    await runner.cleanup()


@pytest.fixture(name="opened")
async def opened_reader() -> AsyncIterator[Callable[..., Reader]]:
    """``opened(http=HttpReader(...), per_source=8)``: a reader that is closed at the end."""
    found: list[Reader] = []

    def start(per_source: int = 8, overall: int = 64, **by_kind: SourceReader) -> Reader:
        found.append(Reader(by_kind, per_source, overall))
        return found[-1]

    yield start
    for one in found:
        await one.close()
