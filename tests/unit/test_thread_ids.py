"""Ids of threads at the gateway's border: as clients write them outside, as they are stored inside."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from perdure.gateway.http.middleware import SECRET_BELOW, problems
from perdure.gateway.http.problems import invalid
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.thread_ids import QUALIFIER, query_thread, show_headers, shown, thread_ids
from perdure.schemas.thread_ids import both_ids, qualifier, shown_id, stored_id


@pytest.mark.parametrize(
    ("tenant", "given", "stored"),
    [
        ("default", "order", "order"),
        ("acme", "order", "acme~order"),
        ("acme", "acme~order", "acme~order"),
        ("beta", "acme~order", "beta~acme~order"),
        ("default", "acme~order", "acme~order"),
    ],
)
def test_a_stored_id(tenant: str, given: str, stored: str) -> None:
    assert stored_id(tenant, given) == stored


def test_a_stored_id_shows_what_its_client_wrote() -> None:
    assert shown_id(stored_id("acme", "order:7")) == "order:7"
    assert shown_id("order:7") == "order:7"
    assert both_ids("acme", "order") == ("acme~order", "order")
    assert both_ids("default", "order") == ("order",)


@web.middleware
async def of_tenant(request: web.Request, handler: Any) -> web.StreamResponse:
    """In place of authentication."""
    request[QUALIFIER] = qualifier(request.headers["Perdure-Tenant"])
    return await handler(request)


async def inside(request: web.Request) -> web.StreamResponse:
    """Answers what stands behind the border, in every form."""
    thread, form = request.match_info["thread_id"], request.query.get("form")
    told = {
        "thread_id": thread, "last_thread_id": thread, "link": f"/threads/{thread}/runs",
        "asked": query_thread(request) is not None, "text": f"{thread} is its text", "values": [{"thread_id": "other~order"}],
    }  # fmt: skip
    if form == "problem":
        raise invalid("path:thread_id", f"Thread {thread!r} is not there")
    if form == "stream":
        response = web.StreamResponse(headers={"Location": f"/threads/{thread}/stream"})
        await response.prepare(request)
        await response.write(shown(request, b"data: " + (json_response(told).body or b"")))  # type: ignore[operator]
        return response
    return json_response(told, headers={"Location": f"/threads/{thread}"})


async def answered(tenant: str, path: str) -> tuple[str, str | None]:
    app = web.Application(middlewares=[problems, of_tenant, thread_ids])
    app[SECRET_BELOW] = ()
    app.on_response_prepare.append(show_headers)
    app.router.add_get("/threads/{thread_id}", inside)
    async with TestClient(TestServer(app)) as client:
        response = await client.get(path, headers={"Perdure-Tenant": tenant})
        return await response.text(), response.headers.get("Location")


@pytest.mark.parametrize("form", ["json", "stream"])
@pytest.mark.parametrize("given", ["order", "acme~order"])
async def test_an_answer_names_threads_as_the_client_does(form: str, given: str) -> None:
    text, location = await answered("acme", f"/threads/{given}?form={form}&thread_id=x")
    assert '"thread_id":"order","last_thread_id":"order","link":"/threads/order/runs","asked":true' in text
    assert '"text":"acme~order is its text"' in text, "what is text stays as it is"
    assert '"values":[{"thread_id":"other~order"}]' in text
    assert location == ("/threads/order/stream" if form == "stream" else "/threads/order")


async def test_a_problem_names_threads_as_the_client_does() -> None:
    text, _ = await answered("acme", "/threads/order?form=problem")
    assert text.count("Thread 'order' is not there") == 2
    assert "acme~" not in text


async def test_the_unqualified_tenant_has_its_ids_as_they_are() -> None:
    text, location = await answered("default", "/threads/order")
    assert '"thread_id":"order"' in text
    assert location == "/threads/order"
