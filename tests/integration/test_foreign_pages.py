"""Pages that want to drive the gateway through a browser of this machine: foreign names and origins, forms; in Chromium, too."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from playwright.async_api import Browser
from tests.integration.test_cors_browser import page_of
from tests.support.gateway import OpenGateway, fresh_database, open_gateway
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.local.resources import free_port
from perdure.schemas import topics

GRAPH = {"_id": "agent", "version": "v1", "nodes": ["a"], "input_schema": None, "updated_at": now()}
URN = "urn:perdure:problem:"
FOREIGN = {"Origin": "https://evil.example"}
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
async def gateway(mongodb_uri: str, kafka_bootstrap: str) -> AsyncIterator[OpenGateway]:
    """A gateway on loopback that asks nobody, with a page for people elsewhere."""
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    uri = fresh_database(mongodb_uri, "foreign")
    settings = {"public_url": "https://agents.example.com/perdure", "gateway_hosts": "perdure.internal"}
    async with open_gateway(uri, kafka_bootstrap, OpenGateway, [GRAPH], **settings) as opened:
        await until(opened.ready, "the gateway is ready")
        yield opened
        await opened.drop_database()


async def test_it_answers_under_its_own_names_only(gateway: OpenGateway) -> None:
    port = urlsplit(gateway.url).port
    own = [f"127.0.0.1:{port}", "localhost", f"LOCALHOST:{port}", "[::1]:8123", "app.localhost", "agents.example.com"]
    own += ["perdure.internal:99", "127.9.9.9", "localhost."]
    for host in own:
        assert (await gateway.http.get("/info", headers={"Host": host})).status_code == 200, host
    foreign = ["evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "192.0.2.7"]
    foreign += ["agents.example.com.evil.example", "[", "127.0.0.1@evil.example", "gateway"]
    for host in foreign:
        for method, path in (
            ("GET", "/info"),
            ("GET", "/console"),
            ("POST", "/threads"),
            ("GET", "/nowhere"),
            ("GET", "/ok"),
        ):
            refused = await gateway.http.request(method, path, headers={"Host": host})
            assert refused.status_code in {400, 403}, (host, path)
            if refused.status_code == 403:
                assert refused.json()["type"] == URN + "host-refused"
    assert await gateway.database.threads.count_documents({}) == 0


@pytest.mark.parametrize(
    "headers",
    [
        FOREIGN,
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example:3000"},
        {"Origin": "http://agents.example.com"},
        {**FOREIGN, "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda headers: ",".join(headers.values()),
)
async def test_a_foreign_page_changes_nothing(gateway: OpenGateway, headers: dict[str, str]) -> None:
    """With a body, with an empty one, as a form: nothing of it reaches a handler."""
    before = await gateway.database.threads.count_documents({})
    for path in ("/threads", "/dead-letters/redrive", "/deliveries/redrive", "/runs", "/threads/t/runs/r/cancel"):
        for body in ({"content": b""}, {"json": {}}, {"content": b"a=b", "headers": {"Content-Type": FORM}}):
            sent = {**headers, **body.get("headers", {})}  # type: ignore[dict-item]
            refused = await gateway.http.post(path, headers=sent, **{k: v for k, v in body.items() if k != "headers"})  # type: ignore[arg-type]
            assert refused.status_code == 403, path
            assert refused.json()["type"] == URN + "origin-refused"
    assert (await gateway.http.delete("/threads/t", headers=headers)).status_code == 403
    assert await gateway.database.threads.count_documents({}) == before
    if "Origin" in headers:
        assert (await gateway.http.get("/threads/t", headers=headers)).status_code == 403, "nor does it read"
    else:
        assert (await gateway.http.get("/console", headers=headers)).status_code == 200, "a link leads to the console"


async def test_local_programs_and_pages_work_on(gateway: OpenGateway) -> None:
    port = urlsplit(gateway.url).port
    for headers in (
        {},
        {"sec-fetch-mode": "cors"},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:5173", "Sec-Fetch-Site": "same-site"},
        {"Origin": "http://[::1]:5173"},
        {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://agents.example.com"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
    ):
        assert (await gateway.http.post("/threads", headers=headers)).status_code == 200, headers
        assert (await gateway.http.post("/threads", headers=headers, json={})).status_code == 200, headers


async def test_a_page_sends_no_form(gateway: OpenGateway) -> None:
    """The types that HTML forms have are refused, also without a body; a program's empty POST is not."""
    page = {"Origin": "http://localhost:3000"}
    for kind in (FORM, "text/plain", "multipart/form-data; boundary=x"):
        refused = await gateway.http.post("/threads", headers={**page, "Content-Type": kind})
        assert refused.status_code == 415, kind
    assert (await gateway.http.post("/threads", headers={"Content-Type": FORM})).status_code == 200


async def test_every_answer_says_what_it_is(gateway: OpenGateway) -> None:
    for path in (
        "/ok",
        "/info",
        "/threads/none",
        "/nowhere",
        "/console",
        "/docs",
        "/answer/x",
        "/",
        "/metrics",
        "/openapi.json",
    ):
        answer = await gateway.http.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'"), path
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], path


@contextlib.asynccontextmanager
async def rebound_to(gateway: OpenGateway) -> AsyncIterator[str]:
    """A name that leads to a page of somebody else's first, and to the gateway from then on; the page's address."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>before</title>", content_type="text/html")

    async def forward(request: web.Request) -> web.Response:
        names = ("Host", "Origin", "Sec-Fetch-Site", "Content-Type")
        sent = {name: request.headers[name] for name in names if name in request.headers}
        answer = await gateway.http.request(request.method, request.path, headers=sent, content=await request.read())
        return web.Response(status=answer.status_code, body=answer.content)

    app = web.Application()
    app.router.add_get("/before", show)
    app.router.add_route("*", "/{path:.*}", forward)
    runner, port = web.AppRunner(app), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://rebound.test:{port}/before"
    finally:
        await runner.cleanup()


async def test_a_browser_does_not_rebind(gateway: OpenGateway, chromium: Browser) -> None:
    """A page whose name leads to this machine is same-origin for the browser, and is refused by the gateway."""
    port = urlsplit(gateway.url).port
    context = await chromium.new_context()
    try:
        page = await context.new_page()
        answer = await page.goto(f"http://rebound.test:{port}/console")
        assert answer is not None
        assert answer.status == 403
        async with rebound_to(gateway) as address:
            await page.goto(address)
            for method, path in (("POST", "/threads"), ("GET", "/info")):
                script = f"fetch('{path}', {{method: '{method}'}}).then(answer => answer.text())"
                told: Any = await page.evaluate(script)
                assert "host-refused" in told
        own = await page.goto(f"http://localhost:{port}/console")
        assert own is not None
        assert own.status == 200
    finally:
        await context.close()


async def test_a_browser_forges_no_request(gateway: OpenGateway, chromium: Browser) -> None:
    """A foreign page sends a form, and a request that asks nobody first: the browser lets both go, the gateway takes none."""
    before = await gateway.database.threads.count_documents({})
    async with page_of(chromium, "foreign.test") as (page, _):
        await page.evaluate(
            "url => fetch(url, {method: 'POST', mode: 'no-cors', credentials: 'include'}).then(() => null)",
            f"{gateway.url}/threads",
        )
        async with page.expect_navigation() as moved:
            await page.evaluate(
                """url => {
                  document.body.innerHTML = `<form method="post" action="${url}"></form>`;
                  document.forms[0].submit();
                }""",
                f"{gateway.url}/threads",
            )
        answer = await moved.value
        assert answer is not None
        assert answer.status == 403
    assert await gateway.database.threads.count_documents({}) == before
    async with page_of(chromium, "localhost") as (page, _):
        made: Any = await page.evaluate(
            "url => fetch(url, {method: 'POST'}).then(answer => answer.status)", f"{gateway.url}/threads"
        )
        assert made == 200, "a local page works on"
