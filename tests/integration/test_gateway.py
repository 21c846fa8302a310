"""The gateway against a real database and a real broker: starts, idempotency, reads, cancellation, the public client."""

from __future__ import annotations

import asyncio
import json
import operator
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from aiohttp import web
from confluent_kafka import Consumer
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.payload import unpack
from perdure.checkpoint import PerdureSaver
from perdure.gateway.app import make_app
from perdure.gateway.http.gunzip import AUTO_DECOMPRESS
from perdure.gateway.settings import GatewaySettings
from perdure.registry.runs import assistant_id_of, new_id
from perdure.schemas import topics
from perdure.schemas.commands import COMMANDS, CancelRun, StartRun
from perdure.schemas.envelope import Decoded, decode

GRAPH = "agent"
DEADLINE_S = 20.0
LARGE = 3 * 1024 * 1024


@dataclass
class Gateway:
    """A gateway on a free port, with a database of its own."""

    url: str
    database: mongo.Database
    http: httpx.AsyncClient

    async def start(self, path: str = "/runs", **body: Any) -> httpx.Response:
        given = {} if "command" in body else {"input": {}}
        return await self.http.post(path, json={"assistant_id": GRAPH, **given, **body})


@pytest.fixture(scope="module")
async def gateway(mongodb_uri: str, kafka_bootstrap: str) -> AsyncIterator[Gateway]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    uri = mongodb_uri.rsplit("/", 1)[0] + f"/gateway_{uuid.uuid4().hex}"
    client = mongo.connect(uri)
    database = mongo.database(client, uri)
    settings = GatewaySettings(
        mongodb_uri=uri,
        kafka_bootstrap_servers=kafka_bootstrap,
        opensearch_url="http://127.0.0.1:9",
        gateway_body_limit_bytes=8 * 1024 * 1024,
        gateway_join_timeout_s=2.0,
    )
    runner = web.AppRunner(make_app(settings), access_log=None, auto_decompress=AUTO_DECOMPRESS)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        ready = Gateway(url, database, http)
        await eventually(lambda: is_ready(ready))
        empty = await ready.start()
        assert empty.status_code == 503
        assert empty.json()["type"] == "urn:perdure:problem:not-ready"
        assert "agent-step" in empty.json()["detail"]
        await database.graphs.insert_one(
            {"_id": GRAPH, "version": "v1", "nodes": ["a"], "input_schema": {"type": "object"}, "updated_at": now()}
        )
        await eventually(lambda: knows_graph(ready))
        yield ready
    await runner.cleanup()
    await client.drop_database(database.name)
    client.close()


@pytest.fixture
async def sdk(gateway: Gateway) -> AsyncIterator[LangGraphClient]:
    client = get_client(url=gateway.url, api_key=None)
    yield client
    await client.aclose()


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)


async def is_ready(gateway: Gateway) -> bool:
    return (await gateway.http.get("/ready")).status_code == 200


async def knows_graph(gateway: Gateway) -> bool:
    return bool((await gateway.http.get("/graphs")).json())


async def new_thread(gateway: Gateway, **body: Any) -> str:
    response = await gateway.http.post("/threads", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["thread_id"])


async def end(gateway: Gateway, run_id: str, status: str, **fields: Any) -> None:
    """What agent-step writes at the end of a run."""
    await gateway.database.runs.update_one({"_id": run_id}, {"$set": {"status": status, "ended_at": now(), **fields}})


def commands_of(kafka_bootstrap: str, run_id: str, count: int) -> list[Decoded]:
    """The first ``count`` commands of a run, read from the beginning of the topic."""
    consumer = Consumer(
        {"bootstrap.servers": kafka_bootstrap, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topics.COMMANDS.name])
    found: list[Decoded] = []
    deadline = time.monotonic() + DEADLINE_S
    try:
        while len(found) < count and time.monotonic() < deadline:
            record = consumer.poll(0.2)
            if record is None or record.error():
                continue
            if dict(record.headers() or ()).get("ce_correlationid") != run_id.encode():
                continue  # another test's, perhaps broken on purpose
            found.append(decode(record.headers(), record.value(), COMMANDS))  # type: ignore[arg-type]
    finally:
        consumer.close()
    return found


async def test_a_start_is_durable_and_accepted(gateway: Gateway, kafka_bootstrap: str) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    thread_id = await new_thread(gateway, metadata={"team": "red"})
    response = await gateway.http.post(
        f"/threads/{thread_id}/runs",
        json={"assistant_id": GRAPH, "input": {"x": 1}, "config": {"tags": ["t"]}, "metadata": {"case": 7}},
        headers={"traceparent": trace},
    )
    assert response.status_code == 202
    run = response.json()
    location = f"/threads/{thread_id}/runs/{run['run_id']}"
    assert response.headers["Location"] == response.headers["Content-Location"] == location
    assert (await gateway.http.get(location)).json() == run
    assert run["status"] == "pending"
    assert run["kwargs"] == {"input": {"x": 1}, "config": {"tags": ["t"]}}
    stored = await gateway.database.runs.find_one({"_id": run["run_id"]})
    assert stored is not None
    assert unpack(stored["payload"]) == run["kwargs"]
    assert stored["metadata"] == {"team": "red", "case": 7}
    assert (stored["epoch"], stored["settled"], stored["owner"], stored["new_thread"]) == (0, False, None, False)
    assert (stored["graph_id"], stored["assistant_id"]) == (GRAPH, assistant_id_of(GRAPH))
    (command,) = await asyncio.to_thread(commands_of, kafka_bootstrap, run["run_id"], 1)
    assert isinstance(command.message, StartRun)
    assert command.envelope.id == f"{run['run_id']}:start:registered:{run['run_id']}:0"
    assert command.envelope.traceparent == stored["traceparent"] == trace
    assert (await gateway.http.get(f"/threads/{thread_id}")).json()["status"] == "busy"


async def test_a_run_makes_its_thread(gateway: Gateway) -> None:
    response = await gateway.start(assistant_id=assistant_id_of(GRAPH), input=[1], metadata={"m": 1})
    assert response.status_code == 202
    run = response.json()
    stored = await gateway.database.runs.find_one({"_id": run["run_id"]})
    thread = (await gateway.http.get(f"/threads/{run['thread_id']}")).json()
    assert stored is not None
    assert stored["new_thread"] is True
    assert thread["metadata"] == {"m": 1, "graph_id": GRAPH, "assistant_id": assistant_id_of(GRAPH)}


async def test_twenty_starts_with_one_key_are_one_run(gateway: Gateway) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"assistant_id": GRAPH, "input": {"n": 1}, "metadata": {"race": key["Idempotency-Key"]}}
    answers = await asyncio.gather(*(gateway.http.post("/runs", json=body, headers=key) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert await gateway.database.runs.count_documents({"metadata.race": key["Idempotency-Key"]}) == 1
    assert await gateway.database.threads.count_documents({"metadata.race": key["Idempotency-Key"]}) == 1
    other = await gateway.http.post("/runs", json=body | {"input": {"n": 2}}, headers=key)
    assert other.status_code == 422
    assert other.json()["type"] == "urn:perdure:problem:idempotency-conflict"
    elsewhere = await gateway.http.post("/runs", json=body | {"input": {"n": 2}}, headers=key | {"Perdure-Tenant": "b"})
    assert elsewhere.status_code == 202


async def test_a_thread_of_another_tenant_is_unknown(gateway: Gateway) -> None:
    thread_id = await new_thread(gateway)
    assert (await gateway.http.get(f"/threads/{thread_id}", headers={"Perdure-Tenant": "b"})).status_code == 404


async def test_reject_refuses_a_busy_thread_and_knows_its_own_key(gateway: Gateway) -> None:
    path = f"/threads/{await new_thread(gateway)}/runs"
    body = {"assistant_id": GRAPH, "input": {}, "multitask_strategy": "reject"}
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = await gateway.http.post(path, json=body, headers=key)
    again = await gateway.http.post(path, json=body, headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["run_id"] == first.json()["run_id"]
    refused = await gateway.http.post(path, json=body)
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:perdure:problem:thread-busy"
    assert (await gateway.http.post(path, json={"assistant_id": GRAPH, "input": {}})).status_code == 202
    for run in (await gateway.http.get(path)).json():
        await end(gateway, run["run_id"], "success")
    assert (await gateway.http.post(path, json=body)).status_code == 202


async def test_a_thread_is_made_on_demand(gateway: Gateway) -> None:
    thread_id = f"order:{new_id()}"
    assert (await gateway.start(f"/threads/{thread_id}/runs")).status_code == 404
    answers = await asyncio.gather(
        *(gateway.start(f"/threads/{thread_id}/runs", if_not_exists="create") for _ in range(5))
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len((await gateway.http.get(f"/threads/{thread_id}/runs")).json()) == 5
    stored = await gateway.database.runs.find({"thread_id": thread_id}).to_list(None)
    assert {run["new_thread"] for run in stored} == {False}, (
        "another run of the thread may have been executed before it"
    )
    assert (await gateway.http.get(f"/threads/{thread_id}")).json()["metadata"]["graph_id"] == GRAPH


async def test_a_refused_start_leaves_the_thread_to_those_who_use_it(gateway: Gateway) -> None:
    """Whoever makes a thread on demand and is refused then may not take it away: others may have found it meanwhile."""
    key = {"Idempotency-Key": uuid.uuid4().hex}
    assert (await gateway.http.post("/runs", json={"assistant_id": GRAPH, "input": {}}, headers=key)).status_code == 202
    thread_id = f"order:{new_id()}"
    body = {"assistant_id": GRAPH, "if_not_exists": "create", "input": {"n": 1}}
    refused = await gateway.http.post(f"/threads/{thread_id}/runs", json=body, headers=key)
    assert refused.status_code == 422
    assert (await gateway.http.get(f"/threads/{thread_id}")).status_code == 200


async def test_existing_threads(gateway: Gateway) -> None:
    thread_id = await new_thread(gateway, thread_id=f"t.{new_id()}", metadata={"a": 1})
    refused = await gateway.http.post("/threads", json={"thread_id": thread_id})
    assert refused.status_code == 409
    same = await gateway.http.post("/threads", json={"thread_id": thread_id, "if_exists": "do_nothing"})
    assert (same.status_code, same.json()["metadata"]) == (200, {"a": 1})


async def test_a_large_input_is_kept_in_chunks(gateway: Gateway) -> None:
    import random

    text = random.Random(0).randbytes(LARGE).hex()[:LARGE]
    run = (await gateway.start(input={"text": text})).json()
    assert run["kwargs"] is None
    read = (await gateway.http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}")).json()
    assert read["kwargs"]["input"]["text"] == text
    listed = (await gateway.http.get(f"/threads/{run['thread_id']}/runs")).json()
    assert listed[0]["kwargs"] is None


async def test_runs_are_listed_newest_first(gateway: Gateway) -> None:
    thread_id = await new_thread(gateway)
    path = f"/threads/{thread_id}/runs"
    ids = [(await gateway.start(path)).json()["run_id"] for _ in range(4)]
    await end(gateway, ids[0], "success")
    listed = (await gateway.http.get(path)).json()
    assert [run["run_id"] for run in listed] == ids[::-1]
    page = (await gateway.http.get(path, params={"limit": 2, "offset": 1, "select": "run_id"})).json()
    assert page == [{"run_id": ids[2]}, {"run_id": ids[1]}]
    done = (await gateway.http.get(path, params={"status": "success"})).json()
    assert [run["run_id"] for run in done] == [ids[0]]


async def test_cancel(gateway: Gateway, kafka_bootstrap: str) -> None:
    run = (await gateway.start()).json()
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
    first = await gateway.http.post(f"{path}/cancel")
    assert first.status_code == 202
    asked_at = first.json()["cancel_requested_at"]
    assert asked_at is not None
    assert (await gateway.http.post(f"{path}/cancel")).json()["cancel_requested_at"] == asked_at
    commands = await asyncio.to_thread(commands_of, kafka_bootstrap, run["run_id"], 3)
    assert [type(command.message) for command in commands] == [StartRun, CancelRun, CancelRun]
    assert len({command.envelope.id for command in commands}) == 2
    waiting = asyncio.create_task(gateway.http.post(f"{path}/cancel", params={"wait": 1}))
    await end(gateway, run["run_id"], "cancelled")
    waited = await waiting
    assert (waited.status_code, waited.json()["status"]) in {(200, "cancelled"), (409, 409)}
    assert (await gateway.http.post(f"{path}/cancel")).status_code == 409
    assert (await gateway.http.post(f"{path}x/cancel")).status_code == 404


async def test_join_waits_for_the_end(gateway: Gateway) -> None:
    run = (await gateway.start()).json()
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
    early = await gateway.http.get(f"{path}/join", params={"timeout": 0.1})
    assert (early.status_code, early.headers["Location"]) == (202, path)
    joins = [asyncio.create_task(gateway.http.get(f"{path}/join")) for _ in range(3)]
    error = {"type": "ValueError", "message": "bad"}
    await end(gateway, run["run_id"], "error", error=error)
    for answer in await asyncio.gather(*joins):
        assert answer.status_code == 200
        assert answer.json() == {"__error__": {"error": "ValueError", "message": "bad"}}


async def test_resume_by_command_is_accepted(gateway: Gateway) -> None:
    thread_id = await new_thread(gateway)
    command = {"resume": None, "goto": ["a", {"node": "b", "input": 1}]}
    answer = await gateway.start(f"/threads/{thread_id}/runs", command=command)
    assert answer.status_code == 202
    assert answer.json()["kwargs"] == {"command": command}


class Talk(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    approved: bool


def talk_graph(saver: PerdureSaver) -> Any:
    def say(_: Talk) -> Talk:
        return {"messages": [AIMessage("hi", id="2")]}

    def ask(_: Talk) -> Talk:
        return {"approved": interrupt({"question": "go on?"})}

    inner = StateGraph(Talk).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END).compile()
    builder = StateGraph(Talk).add_node("say", say).add_node("approve", inner)
    return (
        builder.add_edge(START, "say").add_edge("say", "approve").add_edge("approve", END).compile(checkpointer=saver)
    )


async def test_states_are_those_of_the_graph(gateway: Gateway, sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create(metadata={"by": "sdk"})
    thread_id = thread["thread_id"]
    empty = await sdk.threads.get_state(thread_id)
    assert (empty["values"], empty["next"], empty["checkpoint"]["checkpoint_id"]) == ({}, [], None)
    graph = talk_graph(PerdureSaver(gateway.database))
    config: Any = {"configurable": {"thread_id": thread_id}}
    await graph.ainvoke({"messages": [HumanMessage("hello", id="1")]}, config)
    expected = await graph.aget_state(config, subgraphs=True)

    state = await sdk.threads.get_state(thread_id, subgraphs=True)
    assert state["next"] == list(expected.next) == ["approve"]
    assert [m["type"] for m in state["values"]["messages"]] == ["human", "ai"]  # type: ignore[call-overload,index]
    assert state["checkpoint"]["checkpoint_id"] == expected.config["configurable"]["checkpoint_id"]
    assert state["parent_checkpoint"] is not None
    (task,) = state["tasks"]
    assert (task["id"], task["name"]) == (expected.tasks[0].id, "approve")
    assert task["interrupts"][0]["value"] == {"question": "go on?"}
    assert task["interrupts"][0]["id"] == expected.tasks[0].interrupts[0].id
    assert task["state"] is not None
    assert task["state"]["next"] == ["ask"]
    assert [one["value"] for one in state["interrupts"]] == [{"question": "go on?"}]

    shown = await sdk.threads.get(thread_id)
    assert shown["interrupts"] == {task["id"]: task["interrupts"]}
    assert shown["values"] == state["values"]

    await graph.ainvoke(Command(resume=True), config)
    final = await sdk.threads.get_state(thread_id)
    assert (final["next"], final["tasks"], final["values"]["approved"]) == ([], [], True)  # type: ignore[call-overload]
    past = await sdk.threads.get_history(thread_id, limit=10)
    told = [snapshot async for snapshot in graph.aget_state_history(config)]
    assert [one["checkpoint"]["checkpoint_id"] for one in past] == [
        one.config["configurable"]["checkpoint_id"] for one in told
    ]
    assert [one["next"] for one in past] == [list(one.next) for one in told]
    older = await sdk.threads.get_history(thread_id, limit=1, before=past[1]["checkpoint"]["checkpoint_id"])
    assert [one["checkpoint"] for one in older] == [past[2]["checkpoint"]]
    chosen = await sdk.threads.get_state(thread_id, checkpoint_id=past[-1]["checkpoint"]["checkpoint_id"])
    assert chosen["checkpoint"] == past[-1]["checkpoint"]
    by_metadata = await sdk.threads.get_history(thread_id, metadata={"source": "input"})
    assert [one["metadata"]["source"] for one in by_metadata] == ["input"]  # type: ignore[index]


async def test_parallel_tasks_are_told_apart(gateway: Gateway) -> None:
    class Sums(TypedDict, total=False):
        a: int
        b: int
        c: int

    def fail(_: Sums) -> Sums:
        raise ValueError("no")

    builder = StateGraph(Sums)
    builder.add_node("a", lambda _: {"a": 1}).add_node("b", lambda _: {"b": interrupt("b?")}).add_node("c", fail)
    for node in ("a", "b", "c"):
        builder.add_edge(START, node).add_edge(node, END)
    graph = builder.compile(checkpointer=PerdureSaver(gateway.database))
    thread_id = await new_thread(gateway)
    config: Any = {"configurable": {"thread_id": thread_id}}
    with pytest.raises(ValueError, match="no"):
        await graph.ainvoke({}, config)
    expected = await graph.aget_state(config)
    state = (await gateway.http.get(f"/threads/{thread_id}/state")).json()
    assert sorted(state["next"]) == sorted(expected.next)
    by_name = {task["name"]: task for task in state["tasks"]}
    assert set(by_name) == {"a", "b", "c"}
    assert "ValueError" in by_name["c"]["error"]
    for task in expected.tasks:
        assert by_name[task.name]["interrupts"] == [{"id": one.id, "value": one.value} for one in task.interrupts]


async def test_fan_out_and_join(gateway: Gateway) -> None:
    class Parts(TypedDict, total=False):
        done: Annotated[list[int], operator.add]
        total: int

    def part(arg: Any) -> Parts:
        return {"done": [arg["n"] if arg["n"] != 1 else interrupt("one?")]}

    builder = StateGraph(Parts)
    builder.add_node("plan", lambda _: {}).add_node("part", part).add_node("last", lambda _: {})
    builder.add_node("sum", lambda state: {"total": sum(state["done"])})
    builder.add_edge(START, "plan").add_edge(["part", "last"], "sum").add_edge("sum", END)
    builder.add_conditional_edges("plan", lambda _: [*(Send("part", {"n": n}) for n in range(3)), "last"])
    graph = builder.compile(checkpointer=PerdureSaver(gateway.database))
    thread_id = await new_thread(gateway)
    config: Any = {"configurable": {"thread_id": thread_id}}
    await graph.ainvoke({"done": []}, config)
    expected = await graph.aget_state(config)
    state = (await gateway.http.get(f"/threads/{thread_id}/state")).json()
    assert sorted(state["next"]) == sorted(expected.next)
    assert {(task["id"], task["name"]) for task in state["tasks"]} == {(task.id, task.name) for task in expected.tasks}
    await graph.ainvoke(Command(resume=1), config)
    past = (await gateway.http.get(f"/threads/{thread_id}/history")).json()
    told = [snapshot async for snapshot in graph.aget_state_history(config)]
    assert [sorted(one["next"]) for one in past] == [sorted(one.next) for one in told]
    assert past[0]["values"] == {"done": [0, 1, 2], "total": 3}


async def test_the_public_client(gateway: Gateway, sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create(thread_id=str(uuid.uuid4()), if_exists="do_nothing")
    run = await sdk.runs.create(thread["thread_id"], GRAPH, input={"x": 1}, metadata={"m": 1}, durability="sync")
    assert (await sdk.runs.get(thread["thread_id"], run["run_id"]))["status"] == "pending"
    assert [one["run_id"] for one in await sdk.runs.list(thread["thread_id"])] == [run["run_id"]]
    assert (await sdk.threads.get(thread["thread_id"]))["status"] == "busy"
    await sdk.runs.cancel(thread["thread_id"], run["run_id"])
    await end(gateway, run["run_id"], "cancelled")
    assert await sdk.runs.join(thread["thread_id"], run["run_id"]) == {}
    stateless = await sdk.runs.create(None, GRAPH, input={"x": 1})
    assert stateless["thread_id"]
    (assistant,) = await sdk.assistants.search(graph_id=GRAPH)
    assert assistant["assistant_id"] == assistant_id_of(GRAPH)
    assert (await sdk.assistants.get(GRAPH))["graph_id"] == GRAPH


async def test_pages_and_descriptions(gateway: Gateway) -> None:
    assert (await gateway.http.get("/ok")).json() == {"ok": True}
    ready = (await gateway.http.get("/ready")).json()
    assert ready["conditions"] == {"mongodb": True}
    assert ready["reported"] == {"kafka": True, "opensearch": False}
    assert "perdure_gateway_request_seconds" in (await gateway.http.get("/metrics")).text
    assert (await gateway.http.get("/info")).json()["version"]
    assert (await gateway.http.get("/openapi.json")).json()["openapi"] == "3.1.0"
    page = await gateway.http.get("/docs")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "http" not in page.text.replace("Perdure HTTP API", "")
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js", "openapi.json"):
        assert (await gateway.http.get(f"/docs/{name}")).status_code == 200
    assert (await gateway.http.get("/docs/index.j2")).status_code == 404
    (graph,) = json.loads((await gateway.http.get("/graphs")).text)
    assert (graph["graph_id"], graph["assistant_id"]) == (GRAPH, assistant_id_of(GRAPH))
