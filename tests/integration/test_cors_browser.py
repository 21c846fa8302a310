"""A web page of another origin in a real browser: its requests are let through, and it can read the headers that clients need."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, Error, Page
from tests.support.gateway import OpenGateway, fresh_database, open_gateway
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.local.resources import free_port
from perdure.schemas import topics

GRAPH = {"_id": "agent", "version": "v1", "nodes": ["a"], "input_schema": None, "updated_at": now()}
FETCH = """async ([url, method, body]) => {
  const headers = {"Content-Type": "application/json", "X-Api-Key": "k", "Authorization": "Bearer t"};
  const answer = await fetch(url, {method, headers, body: body && JSON.stringify(body)});
  return {status: answer.status, headers: Object.fromEntries(answer.headers), body: await answer.text()};
}"""


@contextlib.asynccontextmanager
async def page_of(chromium: Browser, host: str) -> AsyncIterator[tuple[Page, str]]:
    """A page of an origin of its own, and that origin."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>app</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", show)
    runner, port = web.AppRunner(app), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    context = await chromium.new_context()
    try:
        page = await context.new_page()
        await page.goto(f"http://{host}:{port}/")
        yield page, f"http://{host}:{port}"
    finally:
        await context.close()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def serving(mongodb_uri: str, kafka_bootstrap: str, origins: str) -> AsyncIterator[OpenGateway]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    uri = fresh_database(mongodb_uri, "cors")
    async with open_gateway(uri, kafka_bootstrap, OpenGateway, [GRAPH], cors_allow_origins=origins) as opened:
        await until(opened.ready, "the gateway is ready")
        yield opened
        await opened.drop_database()


@pytest.mark.parametrize("named", [False, True], ids=["any", "named"])
async def test_a_page_of_an_allowed_origin(
    mongodb_uri: str, kafka_bootstrap: str, chromium: Browser, *, named: bool
) -> None:
    async with (
        page_of(chromium, "localhost") as (page, origin),
        serving(mongodb_uri, kafka_bootstrap, origin if named else "*") as gateway,
    ):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.method))
        started: Any = await page.evaluate(
            FETCH, [f"{gateway.url}/runs", "POST", {"assistant_id": "agent", "input": {}}]
        )
        assert started["status"] == 200, "fetch cannot read the body of a 202 through the SDK"
        assert started["headers"]["content-location"] == started["headers"]["location"]
        assert started["headers"]["location"].startswith("/threads/")
        search: Any = await page.evaluate(FETCH, [f"{gateway.url}/threads/search", "POST", {"limit": 1}])
        assert search["headers"]["x-pagination-total"] == "1"
        patch = [f"{gateway.url}/threads/{'t' * 8}", "PATCH", {"metadata": {}}]
        missing: Any = await page.evaluate(FETCH, patch)
        assert missing["status"] == 404, "a page reads problems, too"
        assert "unknown-thread" in missing["body"]
        deleted: Any = await page.evaluate(FETCH, [f"{gateway.url}/nowhere", "DELETE", None])
        assert deleted["status"] == 404
        assert "POST" in asked


async def test_a_page_of_another_origin_reads_nothing(
    mongodb_uri: str, kafka_bootstrap: str, chromium: Browser
) -> None:
    async with (
        page_of(chromium, "foreign.test") as (page, _),
        serving(mongodb_uri, kafka_bootstrap, "https://app.example.com") as gateway,
    ):
        body = {"assistant_id": "agent", "input": {}}
        with pytest.raises(Error, match="Failed to fetch"):
            await page.evaluate(FETCH, [f"{gateway.url}/runs", "POST", body])
        with pytest.raises(Error, match="Failed to fetch"):
            await page.evaluate(f"fetch('{gateway.url}/ok').then(answer => answer.text())")
        assert await gateway.database.runs.count_documents({}) == 0, "the preflight kept the start away"
