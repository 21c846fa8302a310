"""The gateway against a real database and a real broker: starts, idempotency, reads, cancellation, the public client."""

from __future__ import annotations

import asyncio
import json
import time
import uuid

from confluent_kafka import Consumer
from langgraph_sdk.client import LangGraphClient
from tests.integration.gateway_stage import GRAPH, Gateway, end, gateway_of_module, gateway_sdk, new_thread  # noqa: F401

from perdure.chassis.payload import unpack
from perdure.registry.runs import assistant_id_of, new_id
from perdure.schemas import topics
from perdure.schemas.commands import COMMANDS, CancelRun, StartRun
from perdure.schemas.envelope import Decoded, decode

DEADLINE_S = 20.0
LARGE = 3 * 1024 * 1024


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


async def test_of_starts_at_once_that_reject_one_is_accepted(gateway: Gateway) -> None:
    body = {"assistant_id": GRAPH, "input": {}, "multitask_strategy": "reject"}
    path = f"/threads/{await new_thread(gateway)}/runs"
    for _ in range(3):
        answers = await asyncio.gather(*(gateway.http.post(path, json=body) for _ in range(8)))
        assert sorted(answer.status_code for answer in answers) == [202, *[409] * 7]
        assert {one.json()["type"] for one in answers if one.status_code == 409} == {"urn:perdure:problem:thread-busy"}
        (active,) = (await gateway.http.get(path, params={"status": "pending"})).json()
        await end(gateway, active["run_id"], "success")
    key = {"Idempotency-Key": uuid.uuid4().hex}
    answers = await asyncio.gather(*(gateway.http.post(path, json=body, headers=key) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["run_id"] for answer in answers}) == 1


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
    assert read["kwargs"] is None, "what a run was started with is shown up to 1 MiB of JSON"
    assert await gateway.database.payloads.count_documents({"run_id": run["run_id"]}) > 0
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
    await asyncio.to_thread(commands_of, kafka_bootstrap, run["run_id"], 4)
    await end(gateway, run["run_id"], "cancelled")
    waited = await waiting
    assert (waited.status_code, waited.json()) == (200, {}), "the values, as join answers them"
    assert (waited.headers["Location"], waited.headers["Content-Location"]) == (f"{path}/join", path)
    ended = (await gateway.http.get(path)).json()
    assert (ended["status"], ended["perdure_status"]) == ("interrupted", "cancelled"), "the SDK knows no cancelled"
    listing = f"/threads/{run['thread_id']}/runs"
    for status, count in (("interrupted", 1), ("cancelled", 1), ("success", 0)):
        assert len((await gateway.http.get(listing, params={"status": status})).json()) == count
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
