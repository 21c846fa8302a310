"""Bodies and connections against a real server of the gateway's plumbing, with a handler that says what it read."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import httpx
import pytest
from aiohttp import web

from perdure.gateway.http import bodies, connections
from perdure.gateway.http.bodies import BODIES, Bodies
from perdure.gateway.http.connections import Connections
from perdure.gateway.http.gunzip import AUTO_DECOMPRESS
from perdure.gateway.http.middleware import SECRET_BELOW, problems
from perdure.gateway.http.requests import read_bytes, read_json

JSON = {"Content-Type": "application/json"}
LIMIT = 1024 * 1024


async def echo(request: web.Request) -> web.Response:
    return web.json_response(await read_json(request))


async def count(request: web.Request) -> web.Response:
    return web.json_response(len(await read_bytes(request, LIMIT)))


@pytest.fixture
async def url(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(connections, "EVERY_S", 0.02)
    app = web.Application(middlewares=[problems], client_max_size=LIMIT)
    app[SECRET_BELOW] = ()
    app[BODIES] = Bodies(LIMIT, 1_000, 2 * LIMIT, lambda _: "default")
    watched = Connections(0.3, 60)
    watched.install(app)
    app.router.add_post("/json", echo)
    app.router.add_post("/bytes", count)
    runner = web.AppRunner(app, access_log=None, auto_decompress=AUTO_DECOMPRESS)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    watching = asyncio.create_task(watched.watch(lambda: runner.server.connections if runner.server else []))
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    watching.cancel()
    await runner.cleanup()


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
async def test_values_are_counted_before_they_are_parsed(http: httpx.AsyncClient, packed: bool) -> None:
    for text, status in (
        (b"[" + b"[]," * 499 + b"0]", 200),
        (b"[" + b"[]," * 600 + b"0]", 413),
        (b"[" + b"[]," * 300_000, 413),
        (b'"' + b"[]," * 300_000 + b'"', 200),
        (b'"' + b"x" * LIMIT + b'"', 413),
    ):
        content = gzip.compress(text) if packed else text
        answer = await http.post("/json", content=content, headers=JSON)
        assert answer.status_code == status, (text[:9], answer.text[:200])
        assert status == 200 or answer.json()["type"] == "urn:perdure:problem:body-too-large"


async def test_more_than_there_is_room_for_waits(http: httpx.AsyncClient) -> None:
    content = b'"' + b"x" * (LIMIT - 2) + b'"'
    answers = await asyncio.gather(*(http.post("/json", content=content, headers=JSON) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}


async def trickle(url: str, path: str, length: str) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{length}\r\n\r\n".encode())
    answering = asyncio.create_task(reader.read(4096))
    while not answering.done():
        writer.write(b" " if "Length" in length else b"1\r\n \r\n")
        await asyncio.wait({answering}, timeout=0.02)
    writer.close()
    return answering.result()


@pytest.mark.parametrize("path", ["/json", "/bytes"])
@pytest.mark.parametrize("length", ["Content-Length: 90000", "Content-Length: 900", "Transfer-Encoding: chunked"])
async def test_a_body_that_trickles_is_given_up(
    url: str, path: str, length: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "TIME_S", 0.2)
    answer = await asyncio.wait_for(trickle(url, path, length), 10)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"body-too-slow" in answer


@pytest.mark.parametrize("sent", [b"", b"POST /json HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half of the headers"])
async def test_a_connection_without_headers_is_closed(url: str, sent: bytes) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    try:
        assert await asyncio.wait_for(reader.read(), 10) == b""
    except ConnectionError:
        pass
    writer.close()
