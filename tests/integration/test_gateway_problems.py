"""Every error is a problem document that says what, where and what to do; an outage is told quickly and survived."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from tests.support.gateway import OpenGateway, fresh_database, open_gateway
from tests.support.polling import until

from perdure.gateway.stores.store import Store
from perdure.local.stack import Stack
from perdure.schemas.problem import MEDIA_TYPE, Problem

LIMIT = 64 * 1024
JSON = {"Content-Type": "application/json"}
START = {"assistant_id": "agent", "input": {}}
URN = "urn:perdure:problem:"


def serving(uri: str, kafka: str) -> AbstractAsyncContextManager[OpenGateway]:
    settings: dict[str, Any] = {"gateway_body_limit_bytes": LIMIT, "gateway_store_timeout_s": 2.0}
    return open_gateway(uri, kafka, OpenGateway, [{"_id": "agent", "nodes": []}], **settings)


@pytest.fixture(scope="module")
async def served(mongodb_uri: str, kafka_bootstrap: str) -> AsyncIterator[OpenGateway]:
    async with serving(fresh_database(mongodb_uri, "gateway"), kafka_bootstrap) as opened:
        yield opened
        await opened.drop_database()


@pytest.fixture
def http(served: OpenGateway) -> httpx.AsyncClient:
    return served.http


def problem_of(response: httpx.Response, status: int, name: str) -> Problem:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"].startswith(MEDIA_TYPE)
    problem = Problem.model_validate_json(response.content)
    assert (problem.type, problem.status) == (URN + name, status)
    assert problem.instance == response.request.url.path
    assert problem.detail
    return problem


def pointers(problem: Problem) -> set[str]:
    return {error.pointer for error in problem.errors}


async def test_malformed_json_says_where(http: httpx.AsyncClient) -> None:
    answer = await http.post("/runs", content=b'{"assistant_id": "agent",\n  "input": }', headers=JSON)
    problem = problem_of(answer, 400, "malformed-json")
    assert "line 2, column 12" in problem.detail


@pytest.mark.parametrize("content", [b"\xff", b'"\\ud800"', b"{" * 5000, b"NaN"])
async def test_other_malformed_bodies(http: httpx.AsyncClient, content: bytes) -> None:
    problem_of(await http.post("/runs", content=content, headers=JSON), 400, "malformed-json")


@pytest.mark.parametrize("levels", [201, 255, 1000])
@pytest.mark.parametrize("field", ["input", "metadata"])
async def test_json_that_is_nested_too_deep(http: httpx.AsyncClient, field: str, levels: int) -> None:
    nested = b'{"a":' * (levels - 1) + b"1" + b"}" * (levels - 1)
    content = b'{"assistant_id": "agent", "' + field.encode() + b'": ' + nested + b"}"
    problem = problem_of(await http.post("/runs", content=content, headers=JSON), 422, "invalid-request")
    assert "nested deeper than 200 levels" in problem.detail


async def test_every_wrong_field_is_named(http: httpx.AsyncClient) -> None:
    body = {
        "assistant_id": 3,
        "metadata": [1],
        "config": {"recursion_limit": 0, "tags": [1]},
        "command": {"goto": [{"nod": "x"}]},
        "multitask_strategy": "whatever",
        "webhook": "ftp://x",
        "interrupt_before": ["a", 7],
        "after_seconds": -1,
        "checkpoint_id": "a\u001fb",
    }
    problem = problem_of(await http.post("/runs", json=body), 422, "invalid-request")
    assert pointers(problem) >= {
        "/assistant_id",
        "/metadata",
        "/config/recursion_limit",
        "/config/tags/0",
        "/command/goto/0/node",
        "/command/goto/0/nod",
        "/multitask_strategy",
        "/webhook",
        "/interrupt_before/1",
        "/after_seconds",
        "/checkpoint_id",
    }


@pytest.mark.parametrize(
    ("body", "name", "pointer"),
    [
        ({}, "invalid-request", "/assistant_id"),
        ({"command": {}}, "invalid-request", "/input"),
        ({"command": []}, "invalid-request", "/command"),
        ({"command": {"resume": None}}, "invalid-request", "/command/resume"),
        ({"command": {"resume": 1, "x": 2}}, "invalid-request", "/command/x"),
        ({"metadata": {"a": 2**63}}, "invalid-request", "/metadata"),
        ({"after_seconds": 1e12}, "invalid-request", "/after_seconds"),
        ({"on_completion": "burn"}, "invalid-request", "/on_completion"),
    ],
)
async def test_starts_that_cannot_be(http: httpx.AsyncClient, body: dict[str, Any], name: str, pointer: str) -> None:
    complete = body if not body else {"assistant_id": "agent", **body}
    problem = problem_of(await http.post("/runs", json=complete), 422, name)
    assert pointers(problem) == {pointer}


@pytest.mark.parametrize(
    ("body", "name", "pointer"),
    [
        ({"thread_id": "a b"}, "invalid-request", "/thread_id"),
        ({"if_exists": "maybe"}, "invalid-request", "/if_exists"),
        ({"supersteps": [{}]}, "invalid-request", "/supersteps/0/updates"),
        ({"supersteps": [{"updates": []}]}, "invalid-request", "/supersteps/0/updates"),
        ({"supersteps": [{"updates": [{"values": {}}]}]}, "invalid-request", "/supersteps/0/updates/0/as_node"),
        ({"ttl": {"ttl": 5, "strategy": "forget"}}, "invalid-request", "/ttl/strategy"),
        ([1], "invalid-request", ""),
    ],
)
async def test_threads_that_cannot_be(http: httpx.AsyncClient, body: Any, name: str, pointer: str) -> None:
    assert pointers(problem_of(await http.post("/threads", json=body), 422, name)) == {pointer}


async def test_the_body_must_be_json(http: httpx.AsyncClient) -> None:
    answer = await http.post("/threads", content=b"a=1", headers={"Content-Type": "text/plain"})
    assert pointers(problem_of(answer, 415, "unsupported-media-type")) == {"header:Content-Type"}


async def test_a_body_over_the_limit(http: httpx.AsyncClient) -> None:
    declared = await http.post("/threads", json={"metadata": {"x": "y" * LIMIT}})
    assert str(LIMIT) in problem_of(declared, 413, "body-too-large").detail

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * (LIMIT // 4)

    streamed = await http.post("/threads", content=pieces(), headers=JSON)
    assert str(LIMIT) in problem_of(streamed, 413, "body-too-large").detail


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/threads/none", "unknown-thread"),
        ("/threads/none/state", "unknown-thread"),
        ("/threads/none/history", "unknown-thread"),
        ("/threads/none/runs", "unknown-thread"),
        ("/threads/none/runs/none", "unknown-run"),
        ("/threads/none/runs/none/join", "unknown-run"),
        ("/nowhere", "unknown-route"),
        ("/docs/../../etc/passwd", "unknown-route"),
        ("/docs/none.js", "unknown-route"),
        ("/assistants/none", "unknown-graph"),
    ],
)
async def test_what_is_not_there(http: httpx.AsyncClient, path: str, name: str) -> None:
    problem_of(await http.get(path), 404, name)


async def test_an_unknown_graph_names_the_known(http: httpx.AsyncClient) -> None:
    problem = problem_of(await http.post("/runs", json={"assistant_id": "none"}), 404, "unknown-graph")
    assert "'none'" in problem.detail
    assert "agent" in problem.detail


async def test_an_unknown_checkpoint(http: httpx.AsyncClient) -> None:
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    problem_of(await http.get(f"/threads/{thread_id}/state/none"), 404, "unknown-checkpoint")
    problem_of(await http.get(f"/threads/{thread_id}/state", params={"checkpoint_id": "no"}), 404, "unknown-checkpoint")
    assert (await http.post(f"/threads/{thread_id}/history", json={"before": {}})).status_code == 422


@pytest.mark.parametrize("named", [{"checkpoint_id": "none"}, {"checkpoint": {"checkpoint_id": "none"}}])
@pytest.mark.parametrize("more", [{}, {"input": {}}, {"command": {"resume": 1}}, {"command": {"update": {"n": 1}}}])
async def test_a_start_at_an_unknown_checkpoint(
    served: OpenGateway, named: dict[str, Any], more: dict[str, Any]
) -> None:
    http = served.http
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    for path in (f"/threads/{thread_id}/runs", "/runs"):
        problem = problem_of(
            await http.post(path, json={"assistant_id": "agent", **named, **more}), 404, "unknown-checkpoint"
        )
        assert "'none'" in problem.detail
    assert await served.database.runs.find_one({"thread_id": thread_id}) is None


async def test_a_first_run_without_input(served: OpenGateway) -> None:
    http = served.http
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    for path in (f"/threads/{thread_id}/runs", "/runs"):
        problem = problem_of(await http.post(path, json={"assistant_id": "agent"}), 422, "invalid-request")
        assert pointers(problem) == {"/input"}
        assert "send an input" in problem.detail
    assert (await http.post(f"/threads/{thread_id}/runs", json=START)).status_code == 202
    later = await http.post(f"/threads/{thread_id}/runs", json={"assistant_id": "agent"})
    assert later.status_code == 202, "the run before may leave a state by then"


async def test_a_thread_that_waits_for_nothing_is_not_resumed(
    served: OpenGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    http, database = served.http, served.database
    answer = {"assistant_id": "agent", "command": {"resume": "yes"}}

    async def thread(**fields: Any) -> str:
        thread_id = str((await http.post("/threads", json={})).json()["thread_id"])
        await database.threads.update_one({"_id": thread_id}, {"$set": {"status": "idle", "next": [], **fields}})
        return thread_id

    problem_of(await http.post("/runs", json=answer), 409, "nothing-to-resume")
    at_rest = await thread(head="c", interrupts=[])
    path = f"/threads/{at_rest}/runs"
    assert at_rest in problem_of(await http.post(path, json=answer), 409, "nothing-to-resume").detail
    assert (await http.post(path, json=START)).status_code == 202
    assert (await http.post(path, json=answer)).status_code == 202, "the run before may wait by then"
    waiting = await thread(interrupts=[{"id": "i", "value": "sure?"}])
    assert (await http.post(f"/threads/{waiting}/runs", json=answer)).status_code == 202
    stopped = await thread(next=["b"], interrupts=[])
    assert (await http.post(f"/threads/{stopped}/runs", json=answer)).status_code == 202, "it stands before a node"

    ending = await thread(interrupts=[])

    async def ends_meanwhile(_: Store, thread_id: str) -> bool:
        await database.threads.update_one({"_id": thread_id}, {"$set": {"interrupts": [{"id": "i", "value": "?"}]}})
        return False

    monkeypatch.setattr(Store, "is_busy", ends_meanwhile)
    assert (await http.post(f"/threads/{ending}/runs", json=answer)).status_code == 202


async def test_the_same_start_is_answered_again_when_it_could_not_be_made_now(
    served: OpenGateway,
) -> None:
    http, database = served.http, served.database
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    await database.threads.update_one({"_id": thread_id}, {"$set": {"interrupts": [{"id": "i", "value": "sure?"}]}})
    answer, key = {"assistant_id": "agent", "command": {"resume": 1}}, {"Idempotency-Key": uuid.uuid4().hex}
    first = await http.post(f"/threads/{thread_id}/runs", json=answer, headers=key)
    await database.runs.update_one({"_id": first.json()["run_id"]}, {"$set": {"status": "success"}})
    await database.threads.update_one({"_id": thread_id}, {"$set": {"interrupts": []}})
    again = await http.post(f"/threads/{thread_id}/runs", json=answer, headers=key)
    assert (again.status_code, again.json()["run_id"]) == (202, first.json()["run_id"])


async def test_a_method_that_a_path_does_not_take(http: httpx.AsyncClient) -> None:
    answer = await http.put("/threads", json={})
    assert "PUT" in problem_of(answer, 405, "method-not-allowed").detail
    assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "parameters", "name"),
    [
        ("runs", {"limit": "0"}, "limit"),
        ("runs", {"limit": "x"}, "limit"),
        ("runs", {"offset": "-1"}, "offset"),
        ("runs", {"status": "sleeping"}, "status"),
        ("history", {"limit": "100000"}, "limit"),
        ("state", {"subgraphs": "perhaps"}, "subgraphs"),
        ("state", {"checkpoint_id": "a\x1fb"}, "checkpoint_id"),
        ("runs/r/join", {"timeout": "nan"}, "timeout"),
        ("runs/r/cancel", {"wait": "perhaps"}, "wait"),
        ("runs/r/cancel", {"action": "explode"}, "action"),
    ],
)
async def test_query_parameters(http: httpx.AsyncClient, path: str, parameters: dict[str, str], name: str) -> None:
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    method = "POST" if path.endswith("cancel") else "GET"
    answer = await http.request(method, f"/threads/{thread_id}/{path}", params=parameters)
    assert pointers(problem_of(answer, 422, "invalid-request")) == {f"query:{name}"}


@pytest.mark.parametrize(
    ("header", "value"), [("Idempotency-Key", "x" * 256), ("Idempotency-Key", ""), ("Perdure-Tenant", "a b")]
)
async def test_headers(http: httpx.AsyncClient, header: str, value: str) -> None:
    answer = await http.post("/runs", json=START, headers={header: value})
    assert pointers(problem_of(answer, 422, "invalid-request")) == {f"header:{header}"}


async def test_an_internal_error_has_an_id_and_no_traceback(
    served: OpenGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = served.http

    async def broken(*_: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(Store, "thread", broken)
    with capture_logs() as logs:
        problem = problem_of(await http.get("/threads/x"), 500, "internal-error")
    assert "secret" not in problem.model_dump_json()
    (line,) = [line for line in logs if line["event"] == "gateway.internal_error"]
    assert line["error_id"] in problem.detail
    assert str(line["exc_info"]) == "secret detail"


async def test_search_without_its_index(http: httpx.AsyncClient) -> None:
    answer = await http.get("/search", params={"q": "x"})
    problem_of(answer, 503, "search-unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    wrong = problem_of(await http.get("/search", params={"limit": "0"}), 422, "invalid-request")
    assert pointers(wrong) == {"query:limit"}


async def test_starts_are_accepted_while_kafka_is_down(mongodb_uri: str) -> None:
    async with serving(fresh_database(mongodb_uri, "gateway"), "127.0.0.1:9") as opened:
        http, database = opened.http, opened.database
        run = (await http.post("/runs", json=START)).json()
        stored = await database.runs.find_one({"_id": run["run_id"]})
        assert stored is not None
        assert (stored["status"], stored["settled"]) == ("pending", False)
        await until(opened.ready, "a load balancer keeps sending starts", 10)
        assert (await http.get("/ready")).json()["reported"]["kafka"] is False
        await opened.drop_database()


async def test_an_outage_is_told_quickly_and_survived(own_mongodb: Stack, kafka_bootstrap: str) -> None:
    uri = own_mongodb.environment()["PERDURE_MONGODB_URI"]
    async with serving(uri, kafka_bootstrap) as opened:
        http = opened.http
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        assert (await http.post("/runs", json=START)).status_code == 202
        await asyncio.to_thread(own_mongodb.stop_server, "mongodb", kill=True)
        for _ in range(3):
            asked = time.monotonic()
            answers = await asyncio.gather(
                http.post("/runs", json=START),
                http.post("/threads", json={}),
                http.get(f"/threads/{thread_id}"),
                http.get(f"/threads/{thread_id}/state"),
                http.post(f"/threads/{thread_id}/runs/r/cancel"),
            )
            for answer in answers:
                problem_of(answer, 503, "store-unavailable")
                assert int(answer.headers["Retry-After"]) > 0
            assert time.monotonic() - asked < 10.0, "a request waited much longer than the store's time-out"
        assert (await http.get("/ok")).status_code == 200
        assert (await http.get("/ready")).json()["conditions"]["mongodb"] is False
        await asyncio.to_thread(own_mongodb.start_server, "mongodb")
        await until(
            lambda: http.post("/runs", json=START),
            "starts are accepted again",
            holds=lambda answer: answer.status_code == 202,
        )
        assert (await http.get(f"/threads/{thread_id}")).status_code == 200


async def test_a_server_that_hangs_is_an_outage(own_mongodb: Stack, kafka_bootstrap: str) -> None:
    async with serving(own_mongodb.environment()["PERDURE_MONGODB_URI"], kafka_bootstrap) as opened:
        http = opened.http
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        own_mongodb.pause("mongodb")
        try:
            asked = time.monotonic()
            answers = await asyncio.gather(
                http.post("/threads", json={}),
                http.get(f"/threads/{thread_id}"),
                http.get(f"/threads/{thread_id}/history"),
            )
            for answer in answers:
                problem_of(answer, 503, "store-unavailable")
            assert time.monotonic() - asked < 15.0, "a request waited much longer than the store's time-out"
            assert (await http.get("/ready")).json()["conditions"]["mongodb"] is False
        finally:
            own_mongodb.resume("mongodb")
        await until(
            lambda: http.get(f"/threads/{thread_id}"),
            "reads are answered again",
            holds=lambda answer: answer.status_code == 200,
        )
