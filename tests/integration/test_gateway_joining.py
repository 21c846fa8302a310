"""Answers that stay open until a run has ended: ``join`` and ``wait``, over HTTP against a real database."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from tests.integration.gateway_stage import GRAPH, Gateway, end, new_thread
from tests.support.gateway import fresh_database, open_gateway
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.schemas import topics

HEARTBEAT_S = 0.2
SERVED = {"_id": GRAPH, "version": "v1", "nodes": ["a"], "input_schema": None, "updated_at": now()}
BODY = {"assistant_id": GRAPH, "input": {}}
ERROR = {"type": "ValueError", "message": "bad"}
SAID = {"__error__": {"error": "ValueError", "message": "bad"}}


@pytest.fixture(scope="module", name="gateway")
async def quick_gateway(mongodb_uri: str, kafka_bootstrap: str) -> AsyncIterator[Gateway]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    uri = fresh_database(mongodb_uri, "joining")
    async with open_gateway(uri, kafka_bootstrap, Gateway, [SERVED], gateway_heartbeat_s=HEARTBEAT_S) as opened:
        await until(opened.ready, "the gateway is ready")
        yield opened
        await opened.drop_database()


async def read_open(
    gateway: Gateway, method: str, path: str, then: Callable[[httpx.Response], Awaitable[None]], **more: Any
) -> tuple[httpx.Response, str]:
    """Ask, do ``then`` after two newlines, and read to the end."""
    async with gateway.http.stream(method, path, **more) as answer:
        assert answer.status_code == 200, await answer.aread()
        text, asked = "", False
        async for part in answer.aiter_text():
            text += part
            if text == "\n\n" and not asked:
                asked = True
                await then(answer)
        assert asked
        return answer, text


def run_of(answer: httpx.Response) -> str:
    return answer.headers["Content-Location"].rpartition("/")[2]


async def active(gateway: Gateway, run_id: str) -> dict[str, Any]:
    found = await gateway.database.runs.find_one({"_id": run_id})
    assert found is not None
    return dict(found)


async def test_join_is_open_until_the_run_has_ended(gateway: Gateway) -> None:
    run = (await gateway.start()).json()
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"

    async def fail(_: httpx.Response) -> None:
        await end(gateway, run["run_id"], "error", error=ERROR)

    answer, text = await read_open(gateway, "GET", f"{path}/join", fail)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Content-Location"] == path
    assert text.startswith("\n\n")
    assert json.loads(text) == SAID
    assert (await gateway.http.get(f"{path}/join")).json() == SAID, "at once for a run that has ended"


@pytest.mark.parametrize("stateless", [False, True])
async def test_wait_starts_a_run_and_is_open_until_it_has_ended(gateway: Gateway, *, stateless: bool) -> None:
    path = "/runs/wait" if stateless else f"/threads/{await new_thread(gateway)}/runs/wait"
    started: list[str] = []

    async def fail(answer: httpx.Response) -> None:
        started.append(run_of(answer))
        await end(gateway, started[0], "error", error=ERROR)

    key = {"Idempotency-Key": uuid.uuid4().hex}
    answer, text = await read_open(gateway, "POST", path, fail, json=BODY, headers=key)
    assert json.loads(text) == SAID
    assert answer.headers["Location"] == f"{answer.headers['Content-Location']}/join"
    again = await gateway.http.post(path, json=BODY, headers=key)
    assert (again.json(), run_of(again), again.headers["Idempotent-Replayed"]) == (SAID, started[0], "true")


async def test_wait_refuses_what_a_start_refuses(gateway: Gateway) -> None:
    assert (await gateway.http.post("/threads/none/runs/wait", json=BODY)).status_code == 404
    assert (await gateway.http.post("/runs/wait", json={})).status_code == 422
    assert (await gateway.http.post("/runs/wait?follow=me", json=BODY)).status_code == 422
    assert await gateway.database.runs.count_documents({"thread_id": "none"}) == 0


@pytest.mark.parametrize("cancels", [False, True])
async def test_a_client_that_goes_away_cancels_only_where_it_said_so(gateway: Gateway, *, cancels: bool) -> None:
    body = BODY | ({"on_disconnect": "cancel"} if cancels else {})
    async with gateway.http.stream("POST", "/runs/wait", json=body) as answer:
        waited = run_of(answer)
    run = (await gateway.start()).json()
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/join"
    async with gateway.http.stream("GET", path, params={"cancel_on_disconnect": int(cancels)}) as answer:
        assert answer.status_code == 200

    async def asked() -> bool:
        documents = [await active(gateway, run_id) for run_id in (waited, run["run_id"])]
        return all(document.get("cancel_requested_at") for document in documents)

    if cancels:
        await until(asked, "the runs are asked to end")
    else:
        await asyncio.sleep(1.5)  # three looks at the connection
        assert not (await active(gateway, waited)).get("cancel_requested_at")
        assert not (await active(gateway, run["run_id"])).get("cancel_requested_at")


async def test_a_run_that_is_removed_while_somebody_waits(gateway: Gateway) -> None:
    run = (await gateway.start()).json()

    async def remove(_: httpx.Response) -> None:
        await gateway.database.runs.delete_one({"_id": run["run_id"]})

    _, text = await read_open(gateway, "GET", f"/threads/{run['thread_id']}/runs/{run['run_id']}/join", remove)
    assert json.loads(text)["__error__"]["error"] == "urn:perdure:problem:unknown-run"


async def test_the_python_client_waits(gateway: Gateway) -> None:
    client = get_client(url=gateway.url, api_key=None)
    try:
        told: list[dict[str, Any]] = []
        waiting = asyncio.create_task(
            client.runs.wait(
                None, GRAPH, input={}, raise_error=False, on_run_created=lambda run: told.append(dict(run))
            )
        )
        await until(lambda: _true(told), "the client knows its run")
        await asyncio.sleep(2 * HEARTBEAT_S)
        await end(gateway, told[0]["run_id"], "error", error=ERROR)
        assert await waiting == SAID
        assert await client.runs.join(told[0]["thread_id"], told[0]["run_id"]) == SAID
    finally:
        await client.aclose()


async def _true(value: Any) -> bool:
    return bool(value)


async def test_a_gateway_that_ends_gives_no_answer_that_looks_whole(mongodb_uri: str, kafka_bootstrap: str) -> None:
    uri = fresh_database(mongodb_uri, "joining")
    broken: list[type[Exception]] = []

    async def wait(url: str, open_: asyncio.Event) -> None:
        try:
            async with (
                httpx.AsyncClient(base_url=url, timeout=30) as http,
                http.stream("POST", "/runs/wait", json=BODY) as answer,
            ):
                open_.set()
                await answer.aread()
        except httpx.TransportError as error:
            broken.append(type(error))

    async with open_gateway(uri, kafka_bootstrap, Gateway, [SERVED], gateway_heartbeat_s=HEARTBEAT_S) as opened:
        await until(opened.ready, "the gateway is ready")
        open_ = asyncio.Event()
        waiting = asyncio.create_task(wait(opened.url, open_))
        await open_.wait()
    await waiting
    assert broken == [httpx.RemoteProtocolError]
