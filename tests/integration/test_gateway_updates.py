"""State updates as the gateway asks for them; what the worker records, tests write."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest
from tests.integration.gateway_stage import GRAPH, Gateway, end, gateway_of_module, new_thread  # noqa: F401
from tests.support.polling import until

from perdure.chassis.mongo import from_now
from perdure.schemas.state_updates import CANCELLED, MOVED_ON

PROBLEM = "urn:perdure:problem:"
CHECKPOINT = {"checkpoint_ns": "", "checkpoint_id": "1f0c0000-0000-6000-8000-000000000000", "checkpoint_map": {}}
MADE = {"update": {"checkpoint": CHECKPOINT}}
SUPERSTEPS = [{"updates": [{"values": {"n": 1}, "as_node": "a"}]}]


@pytest.fixture(autouse=True)
async def worker(gateway: Gateway) -> None:
    """A living worker, whom the test plays."""
    await lives(gateway, "w", 600, updates=True)


async def lives(gateway: Gateway, name: str, ttl_s: float, **more: Any) -> None:
    fields = {"graphs": [GRAPH], "state": "alive", "slots": 1, "expires_at": from_now(ttl_s), **more}
    await gateway.database.workers.update_one({"_id": name}, [{"$set": fields}], upsert=True)


def refused(kind: str) -> dict[str, Any]:
    return {"update": {"refused": {"type": kind, "message": "it was not made", "node": None}}}


async def answered(gateway: Gateway, sent: Any, thread: str, *ends: tuple[str, dict[str, Any]]) -> httpx.Response:
    """The answer to a request while the worker ends the thread's updates so, one after the other."""
    asking = asyncio.create_task(sent)

    async def pending() -> Any:
        return asking.done() or await gateway.database.runs.find_one({"thread_id": thread, "status": "pending"})

    for status, fields in ends:
        run = await until(pending, "the update is registered")
        assert not asking.done(), asking.result().text
        assert run["kind"] == "update"
        await end(gateway, run["_id"], status, settled=True, **fields)
    answer: httpx.Response = await asking
    return answer


def problem_of(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["type"]) == (status, PROBLEM + kind), problem
    return problem


@pytest.mark.parametrize(
    "ends",
    [
        (("cancelled", refused(CANCELLED)),),
        (("error", refused(MOVED_ON)),) * 3,
    ],
)
async def test_an_update_that_was_not_made_is_made_by_a_repeat(gateway: Gateway, ends: Any) -> None:
    thread = await new_thread(gateway, metadata={"graph_id": GRAPH})
    body = {"values": {"n": 1}, "as_node": "a"}

    def send() -> Any:
        return gateway.http.post(f"/threads/{thread}/state", json=body, headers={"Idempotency-Key": f"k-{thread}"})

    problem_of(await answered(gateway, send(), thread, *ends), 409, "thread-busy")
    made = await answered(gateway, send(), thread, ("success", MADE))
    assert (made.status_code, made.json()["checkpoint_id"]) == (200, CHECKPOINT["checkpoint_id"])
    again = await send()
    assert (again.status_code, again.headers["idempotent-replayed"], again.json()) == (200, "true", made.json())


async def test_an_update_that_was_overtaken_unseen_is_made_by_a_repeat(gateway: Gateway) -> None:
    """The gateway that asked for it is gone when it ends."""
    thread = await new_thread(gateway, metadata={"graph_id": GRAPH})
    body, key = {"values": {"n": 1}, "as_node": "a"}, {"Idempotency-Key": f"k-{thread}"}
    path = f"/threads/{thread}/state"
    asked = await gateway.http.post(path, json=body, headers=key)
    problem_of(asked, 409, "update-pending")
    made = await answered(
        gateway,
        gateway.http.post(path, json=body, headers=key),
        thread,
        ("error", refused(MOVED_ON)),
        ("success", MADE),
    )
    assert made.status_code == 200, made.text


async def test_the_states_of_a_new_thread_are_made_by_a_repeat(gateway: Gateway) -> None:
    thread = uuid.uuid4().hex

    def send() -> Any:
        body = {
            "thread_id": thread,
            "if_exists": "do_nothing",
            "metadata": {"graph_id": GRAPH},
            "supersteps": SUPERSTEPS,
        }
        return gateway.http.post("/threads", json=body)

    problem_of(await answered(gateway, send(), thread, ("cancelled", refused(CANCELLED))), 409, "thread-busy")
    left = {"seq": 2, "ended_first_seq": 1, "refused_run_id": "u"}  # what the worker records of a refusal
    await gateway.database.threads.update_one({"_id": thread}, {"$set": left})
    made = await answered(gateway, send(), thread, ("success", MADE))
    assert made.status_code == 200, made.text
    assert await gateway.database.runs.count_documents({"thread_id": thread, "status": "success"}) == 1


async def test_a_thread_that_has_other_states_keeps_them(gateway: Gateway) -> None:
    thread = uuid.uuid4().hex
    body = {"thread_id": thread, "if_exists": "do_nothing", "metadata": {"graph_id": GRAPH}, "supersteps": SUPERSTEPS}
    asked = gateway.http.post("/threads", json=body)
    problem_of(await answered(gateway, asked, thread, ("cancelled", refused(CANCELLED))), 409, "thread-busy")
    await gateway.database.threads.update_one({"_id": thread}, {"$set": {"seq": 5, "ended_run_id": "r"}})
    assert (await gateway.http.post("/threads", json=body)).status_code == 200
    assert await gateway.database.runs.count_documents({"thread_id": thread}) == 1


async def test_no_update_is_asked_of_a_worker_that_makes_none(gateway: Gateway) -> None:
    """A worker of an earlier version would execute nodes in its place."""
    thread = await new_thread(gateway, metadata={"graph_id": GRAPH})
    body = {"values": {"n": 1}, "as_node": "a"}
    await lives(gateway, "earlier", 600)
    problem = problem_of(await gateway.http.post(f"/threads/{thread}/state", json=body), 503, "no-worker")
    assert "earlier version" in problem["detail"]
    assert await gateway.database.runs.count_documents({"thread_id": thread}) == 0
    await lives(gateway, "earlier", -1)
    asked = gateway.http.post(f"/threads/{thread}/state", json=body)
    assert (await answered(gateway, asked, thread, ("success", MADE))).status_code == 200


@pytest.mark.parametrize(
    ("status", "fields"), [("success", {}), ("error", {"error": {"type": "ValueError", "message": "no", "node": "a"}})]
)
async def test_an_update_of_which_nothing_is_known_is_not_called_refused(
    gateway: Gateway, status: str, fields: dict[str, Any]
) -> None:
    thread = await new_thread(gateway, metadata={"graph_id": GRAPH})
    asked = gateway.http.post(f"/threads/{thread}/state", json={"values": {"n": 1}, "as_node": "a"})
    answer = await answered(gateway, asked, thread, (status, fields))
    problem = problem_of(answer, 409, "update-unknown")
    assert "othing was changed" not in problem["detail"]
    (run,) = await gateway.database.runs.find({"thread_id": thread}).to_list(None)
    assert answer.headers["location"] == f"/threads/{thread}/runs/{run['_id']}"
