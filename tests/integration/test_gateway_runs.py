"""What the gateway does with runs that end others, are delayed, cancelled or deleted, or started several at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from langgraph_sdk.client import LangGraphClient
from tests.integration.gateway_stage import GRAPH, Gateway, end, gateway_of_module, gateway_sdk, new_thread  # noqa: F401
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.delayed import Delayed


async def stored(gateway: Gateway, run_id: str) -> dict[str, Any]:
    found = await gateway.database.runs.find_one({"_id": run_id})
    assert found is not None
    return dict(found)


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_a_start_asks_the_active_runs_to_end(gateway: Gateway, strategy: str) -> None:
    path = f"/threads/{await new_thread(gateway)}/runs"
    over, first, second = [(await gateway.start(path)).json()["run_id"] for _ in range(3)]
    await end(gateway, over, "success")
    last = await gateway.start(path, multitask_strategy=strategy)
    assert last.status_code == 202
    after = (await gateway.start(path)).json()["run_id"]
    for run_id in (first, second):
        run = await stored(gateway, run_id)
        assert run["cancel_requested_at"]
        assert run.get("cancel_action") == ("rollback" if strategy == "rollback" else None)
    for run_id in (over, last.json()["run_id"], after):
        assert "cancel_requested_at" not in await stored(gateway, run_id)


async def test_runs_are_cancelled_together(gateway: Gateway, sdk: LangGraphClient) -> None:
    thread_id = await new_thread(gateway)
    ids = [(await gateway.start(f"/threads/{thread_id}/runs")).json()["run_id"] for _ in range(3)]
    await end(gateway, ids[0], "success")
    await sdk.runs.cancel_many(thread_id=thread_id, run_ids=ids[:2], action="rollback")
    assert [(await stored(gateway, one)).get("cancel_action") for one in ids] == [None, "rollback", None]
    tenant = {"Perdure-Tenant": "cancelling"}
    body = {"assistant_id": GRAPH, "input": {}}
    mine = (await gateway.http.post("/runs", json=body, headers=tenant)).json()
    answer = await gateway.http.post("/runs/cancel", json={"status": "all"}, headers=tenant)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await stored(gateway, mine["run_id"]))["cancel_requested_at"]
    assert "cancel_requested_at" not in await stored(gateway, ids[2])
    await end(gateway, mine["run_id"], "cancelled")
    none = await gateway.http.post("/runs/cancel", json={"status": "pending"}, headers=tenant)
    assert (none.status_code, none.json()["type"]) == (404, "urn:perdure:problem:unknown-run")
    for wrong in (
        {},
        {"thread_id": thread_id},
        {"run_ids": ids},
        {"status": "all", "run_ids": ids},
        {"status": "error"},
    ):
        assert (await gateway.http.post("/runs/cancel", json=wrong)).status_code == 422, wrong


async def test_a_run_that_has_ended_is_deleted(gateway: Gateway, sdk: LangGraphClient) -> None:
    run = (await gateway.start()).json()
    path = f"/threads/{run['thread_id']}/runs"
    active = await gateway.http.delete(f"{path}/{run['run_id']}")
    assert (active.status_code, active.json()["type"]) == (409, "urn:perdure:problem:run-active")
    await end(gateway, run["run_id"], "success")
    await sdk.runs.delete(run["thread_id"], run["run_id"])
    assert (await gateway.http.get(f"{path}/{run['run_id']}")).status_code == 404
    assert (await gateway.http.get(path)).json() == []
    assert (await gateway.http.delete(f"{path}/{run['run_id']}")).status_code == 404


async def test_several_runs_are_started_or_none(gateway: Gateway, sdk: LangGraphClient) -> None:
    payloads: list[Any] = [{"assistant_id": GRAPH, "input": {"n": n}, "metadata": {"batch": "b1"}} for n in range(3)]
    runs = await sdk.runs.create_batch(payloads)
    assert [run["kwargs"]["input"] for run in runs] == [{"n": n} for n in range(3)]  # type: ignore[typeddict-item]
    assert len({run["thread_id"] for run in runs}) == 3
    assert {(await stored(gateway, run["run_id"]))["status"] for run in runs} == {"pending"}
    wrong = [{"assistant_id": GRAPH, "input": {}, "metadata": {"batch": "b2"}}, {"assistant_id": "nobody", "input": {}}]
    assert (await gateway.http.post("/runs/batch", json=wrong)).status_code == 404
    assert await gateway.database.runs.count_documents({"metadata.batch": "b2"}) == 0
    answer = await gateway.http.post("/runs/batch", json=[wrong[0], {"input": 1}])
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/1/assistant_id")
    for body in ([], {}, "x"):
        assert (await gateway.http.post("/runs/batch", json=body)).status_code == 422


async def test_a_delayed_run_is_pending_until_its_time(gateway: Gateway, kafka_bootstrap: str) -> None:
    answer = await gateway.start(after_seconds=3600, feedback_keys=["k"], durability="exit")
    assert answer.status_code == 202
    run = await stored(gateway, answer.json()["run_id"])
    assert (run["status"], run["delayed"]) == ("pending", True)
    assert run["start_at"] - run["created_at"] == timedelta(hours=1)
    producer = Producer(kafka_bootstrap, "test")
    scheduler = Delayed(gateway.database, producer, DatabaseClock(gateway.database))
    try:
        await scheduler.turn()
        assert (await stored(gateway, run["_id"]))["delayed"]
        await gateway.database.runs.update_one({"_id": run["_id"]}, {"$set": {"start_at": now()}})

        async def is_due() -> bool:
            await scheduler.turn()
            return "delayed" not in await stored(gateway, run["_id"])

        await until(is_due, "the time has come")
    finally:
        await producer.close(5)


async def test_an_empty_command_is_none(gateway: Gateway) -> None:
    started = await gateway.http.post("/runs", json={"assistant_id": "agent", "input": {"n": 1}, "command": {}})
    assert started.status_code == 202, started.text
    assert started.json()["kwargs"] == {"input": {"n": 1}}


async def test_fields_of_the_agent_server_that_change_nothing_are_accepted(gateway: Gateway) -> None:
    fields = {
        "feedback_keys": ["score"], "langsmith_tracer": {"project_name": "p", "example_id": None}, "checkpoint_during": False,
        "durability": "exit", "strict_resume": True, "stream_resumable": True,
    }  # fmt: skip
    started = await gateway.http.post("/runs", json={"assistant_id": "agent", "input": {}, **fields})
    assert started.status_code == 202, started.text
    wrong = await gateway.http.post("/runs", json={"assistant_id": "agent", "input": {}, "langsmith_tracer": "p"})
    assert wrong.status_code == 422


async def test_only_a_thread_that_is_made_with_a_run_is_deleted_after_it(gateway: Gateway) -> None:
    body = {"assistant_id": "agent", "input": {}, "on_completion": "delete"}
    run = (await gateway.http.post("/runs", json=body)).json()
    thread = await gateway.database.threads.find_one({"_id": run["thread_id"]})
    assert thread is not None
    assert thread["ephemeral"] is True
    assert (await stored(gateway, run["run_id"]))["ephemeral"] is True, (
        "so that it is known although the thread's insert was lost"
    )
    kept = (await gateway.http.post("/runs", json=body | {"on_completion": "keep"})).json()
    thread = await gateway.database.threads.find_one({"_id": kept["thread_id"]})
    assert thread is not None
    assert "ephemeral" not in thread
    refused = await gateway.http.post(f"/threads/{kept['thread_id']}/runs", json=body)
    assert refused.status_code == 422
    assert [one["pointer"] for one in refused.json()["errors"]] == ["/on_completion"]
