"""Schedules over HTTP, with the Agent Server's client and from the command line, on a real database and a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from tests.support.gateway import OpenGateway, fresh_database, open_gateway
from typer.testing import CliRunner, Result

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.cli.app import build
from perdure.schemas import topics

URN = "urn:perdure:problem:"


class Gateway(OpenGateway):
    async def make(self, **fields: Any) -> dict[str, Any]:
        body = {"assistant_id": "agent", "cron": "0 9 * * MON-FRI", "timezone": "Europe/Berlin", **fields}
        answer = await self.http.post("/schedules", json=body)
        assert answer.status_code == 201, answer.text
        assert answer.headers["Location"] == f"/schedules/{answer.json()['schedule_id']}"
        return answer.json()  # type: ignore[no-any-return]

    async def act(self, schedule: dict[str, Any], what: str, **body: Any) -> dict[str, Any]:
        answer = await self.http.post(f"/schedules/{schedule['schedule_id']}/{what}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
async def serving(mongodb_uri: str, kafka_bootstrap: str) -> AsyncIterator[Gateway]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    graphs = [{"_id": "agent", "version": "v1", "nodes": ["a"], "updated_at": now()}]
    uri = fresh_database(mongodb_uri, "schedules")
    async with open_gateway(uri, kafka_bootstrap, Gateway, graphs) as opened:
        await mongo.ensure_indexes(opened.database)
        yield opened
        await opened.drop_database()


@pytest.fixture
async def gateway(serving: Gateway) -> Gateway:
    for name in ("schedules", "runs", "threads"):
        await serving.database[name].delete_many({})
    return serving


@pytest.fixture
async def sdk(gateway: Gateway) -> AsyncIterator[LangGraphClient]:
    client = get_client(url=gateway.url, api_key=None)
    yield client
    await client.aclose()


async def test_a_schedule_is_made_changed_paused_resumed_and_removed(gateway: Gateway) -> None:
    made = await gateway.make(input={"topic": "whales"}, metadata={"team": "sea"}, config={"recursion_limit": 7})
    assert made["state"] == "active"
    assert made["overlap"] == "skip"
    assert made["payload"] == {"input": {"topic": "whales"}, "config": {"recursion_limit": 7}}
    assert len(made["following"]) == 4
    path = f"/schedules/{made['schedule_id']}"
    assert (await gateway.http.get(path)).json() == made
    assert [one["schedule_id"] for one in (await gateway.http.get("/schedules")).json()] == [made["schedule_id"]]
    other = {"Perdure-Tenant": "other"}
    assert (await gateway.http.get(path, headers=other)).status_code == 404

    changed = (await gateway.http.patch(path, json={"timezone": "Asia/Tokyo", "input": {"topic": "squid"}})).json()
    assert changed["next_at"] != made["next_at"]
    assert changed["payload"] == {"input": {"topic": "squid"}, "config": {"recursion_limit": 7}}
    paused = await gateway.act(made, "pause")
    assert (paused["state"], paused["next_at"]) == ("paused", None)
    resumed = await gateway.act(made, "resume")
    assert resumed["state"] == "active"
    assert datetime.fromisoformat(resumed["next_at"]) > datetime.now(UTC)
    past = (await gateway.http.patch(path, json={"end_at": "2026-01-01T00:00:00Z"})).json()
    assert (past["state"], past["next_at"]) == ("ended", None)
    assert (await gateway.http.patch(path, json={"end_at": None})).json()["state"] == "active"
    assert (await gateway.http.delete(path)).status_code == 204
    gone = await gateway.http.get(path)
    assert (gone.status_code, gone.json()["type"]) == (404, URN + "unknown-schedule")


@pytest.mark.parametrize(
    ("fields", "pointer", "says"),
    [
        ({"cron": "61 * * * *"}, "/cron", "minute"),
        ({"cron": "0 0 30 2 *"}, "/cron", "day-of-month"),
        ({"cron": "0 9 * *"}, "/cron", "fields"),
        ({"timezone": "Europe/Bonn"}, "/timezone", "Europe/Bonn"),
        ({"overlap": "queue"}, "/overlap", "thread_id"),
        ({"overlap": "sometimes"}, "/overlap", "skip"),
        ({"end_at": "2026-01-01T00:00:00"}, "/end_at", "timezone"),
        ({"catch_up_s": -1}, "/catch_up_s", "greater"),
        ({"metadata": {"big": "x" * 70_000}}, "/metadata", "larger"),
    ],
)
async def test_what_is_wrong_is_named_with_its_place(
    gateway: Gateway, fields: dict[str, Any], pointer: str, says: str
) -> None:
    body = {"assistant_id": "agent", "cron": "0 9 * * *", **fields}
    refused = await gateway.http.post("/schedules", json=body)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == pointer
    assert says in refused.json()["errors"][0]["detail"]


async def test_unknown_graphs_and_threads_are_refused(gateway: Gateway) -> None:
    for fields, name in (({"assistant_id": "nobody"}, "unknown-graph"), ({"thread_id": "t"}, "unknown-thread")):
        refused = await gateway.http.post("/schedules", json={"assistant_id": "agent", "cron": "@daily", **fields})
        assert (refused.status_code, refused.json()["type"]) == (404, URN + name)


async def test_trigger_respects_the_overlap_policy_and_its_key(gateway: Gateway) -> None:
    made = await gateway.make(input={"topic": "whales"})
    path = f"/schedules/{made['schedule_id']}/trigger"
    key = {"Idempotency-Key": "once"}
    first = (await gateway.http.post(path, headers=key)).json()
    assert first["result"] == "fired"
    run = (await gateway.http.get(f"/threads/{first['thread_id']}/runs/{first['run_id']}")).json()
    assert run["kwargs"] == {"input": {"topic": "whales"}}
    assert run["metadata"]["schedule_id"] == made["schedule_id"]
    again = (await gateway.http.post(path, headers=key)).json()
    assert (again["result"], again["run_id"]) == ("fired_before", first["run_id"])
    assert (await gateway.http.post(path)).json()["result"] == "skipped", "the run before is not finished"
    await gateway.database.runs.update_many({}, {"$set": {"status": "success"}})
    assert (await gateway.http.post(path)).json()["result"] == "fired"
    # The thread is asleep at a wait: that is not finished either.
    await gateway.database.runs.update_many({}, {"$set": {"status": "interrupted"}})
    await gateway.database.threads.update_many({}, {"$set": {"status": "interrupted"}})
    assert (await gateway.http.post(path)).json()["result"] == "skipped"


async def test_a_cancelled_run_does_not_make_its_schedule_skip_for_ever(gateway: Gateway) -> None:
    thread = (await gateway.http.post("/threads", json={})).json()["thread_id"]
    made = await gateway.make(thread_id=thread, overlap="skip")
    path = f"/schedules/{made['schedule_id']}/trigger"
    first = (await gateway.http.post(path)).json()
    # It was cancelled before its last node: the thread could go on, but nobody and nothing makes it.
    await gateway.database.runs.update_one({"_id": first["run_id"]}, {"$set": {"status": "cancelled"}})
    stands = {"status": "interrupted", "next": ["a"], "ended_run_id": first["run_id"], "last_run_id": first["run_id"]}
    asks = {"interrupts": [{"id": "i", "value": "?"}]}
    await gateway.database.threads.update_one({"_id": thread}, {"$set": stands | asks})
    assert (await gateway.http.post(path)).json()["result"] == "skipped", "it waits for an answer"
    await gateway.database.threads.update_one({"_id": thread}, {"$set": {"interrupts": []}})
    assert (await gateway.http.post(path)).json()["result"] == "fired"


async def test_a_backfill_fires_each_past_time_once(gateway: Gateway) -> None:
    made = await gateway.make(cron="0 * * * *", timezone="UTC", overlap="allow", paused=True)
    start = datetime(2026, 10, 1, tzinfo=UTC)
    period = {"start": start.isoformat(), "end": (start + timedelta(hours=9)).isoformat()}
    many = await asyncio.gather(*(gateway.act(made, "backfill", **period) for _ in range(3)))
    results = [one["result"] for filled in many for one in filled["firings"]]
    assert len(results) == 30
    assert await gateway.database.runs.count_documents({}) == 10
    keys = await gateway.database.runs.distinct("idempotency_key")
    assert f"schedule:{made['schedule_id']}:2026-10-01T03:00:00+00:00" in keys
    later = await gateway.act(made, "backfill", **period)
    assert {one["result"] for one in later["firings"]} == {"fired_before"}
    shown = (await gateway.http.get(f"/schedules/{made['schedule_id']}")).json()
    assert (shown["fired"], shown["state"]) == (10, "paused")
    skipping = await gateway.act(made, "backfill", **period, overlap="skip")
    assert {one["result"] for one in skipping["firings"]} == {"fired_before"}

    path = f"/schedules/{made['schedule_id']}/backfill"
    for end, says in (("2028-01-01T00:00:00Z", "future"), ("2026-09-01T00:00:00Z", "before start")):
        refused = await gateway.http.post(path, json={"start": period["start"], "end": end})
        assert refused.status_code == 422
        assert says in refused.json()["errors"][0]["detail"]
    long = await gateway.http.post(path, json={"start": "2020-01-01T00:00:00Z", "end": period["end"]})
    assert "split it" in long.json()["errors"][0]["detail"]


async def test_the_public_client_works_with_crons(gateway: Gateway, sdk: LangGraphClient) -> None:
    end = datetime(2030, 1, 1, tzinfo=UTC)
    made: Any = await sdk.crons.create(
        "agent", schedule="30 6 * * *", timezone="Europe/Berlin", input={"a": 1}, metadata={"n": 1}, end_time=end
    )
    assert (made["schedule"], made["enabled"], made["user_id"]) == ("30 6 * * *", True, None)
    assert made["payload"]["input"] == {"a": 1}
    thread = await sdk.threads.create()
    of_thread: Any = await sdk.crons.create_for_thread(
        thread["thread_id"], "agent", schedule="0 * * * *", multitask_strategy="reject"
    )
    assert of_thread["thread_id"] == thread["thread_id"]
    assert (await gateway.http.get(f"/schedules/{of_thread['cron_id']}")).json()["overlap"] == "skip"

    assert [one["cron_id"] for one in await sdk.crons.search()] == [of_thread["cron_id"], made["cron_id"]]
    ascending = await sdk.crons.search(sort_by="created_at", sort_order="asc", select=["cron_id"])
    assert ascending == [{"cron_id": made["cron_id"]}, {"cron_id": of_thread["cron_id"]}]
    assert [one["cron_id"] for one in await sdk.crons.search(metadata={"n": 1})] == [made["cron_id"]]
    assert [one["cron_id"] for one in await sdk.crons.search(thread_id=thread["thread_id"])] == [of_thread["cron_id"]]
    assert await sdk.crons.search(offset=2) == []
    assert await sdk.crons.count() == 2
    assert await sdk.crons.count(assistant_id="agent", thread_id=thread["thread_id"]) == 1

    changed: Any = await sdk.crons.update(made["cron_id"], enabled=False, schedule="0 7 * * *", end_time=None)
    assert (changed["enabled"], changed["schedule"], changed["end_time"]) == (False, "0 7 * * *", None)
    assert changed["next_run_date"] is None
    assert len(await sdk.crons.search(enabled=False)) == 1
    await sdk.crons.delete(made["cron_id"])
    assert await sdk.crons.count() == 1
    refused = await gateway.http.post("/runs/crons", json={"assistant_id": "agent", "schedule": "x"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/schedule")


async def test_the_command_line(gateway: Gateway) -> None:
    async def run(*arguments: str) -> Result:
        options = [] if arguments[-1] == "--help" else ["--url", gateway.url]
        return await asyncio.to_thread(CliRunner().invoke, build(), ["schedules", *arguments, *options])

    async def ok(*arguments: str) -> Any:
        result = await run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout.splitlines()[-1])  # the gateway of this process logs to the same stream

    made = await ok(
        "create", "agent", "0 9 * * MON-FRI", "--timezone", "Europe/Berlin", "--input", '{"topic": "whales"}'
    )
    name = made["schedule_id"]
    assert [one["schedule_id"] for one in await ok("list")] == [name]
    assert (await ok("pause", name))["state"] == "paused"
    assert (await ok("resume", name))["state"] == "active"
    assert (await ok("trigger", name))["result"] == "fired"
    filled = await ok("backfill", name, "2026-10-05T00:00:00Z", "2026-10-07T00:00:00Z", "--overlap", "allow")
    assert [one["result"] for one in filled["firings"]] == ["fired", "fired"]
    shown = await run("show", name)
    assert "Europe/Berlin" in shown.stdout
    assert (await run("delete", name)).exit_code == 0
    wrong = await run("create", "agent", "0 9 * *")
    assert wrong.exit_code != 0


async def test_what_a_cron_does_to_the_run_before_and_to_its_threads(gateway: Gateway) -> None:
    body = {"assistant_id": "agent", "schedule": "0 9 * * *", "input": {}}
    thread = (await gateway.http.post("/threads", json={})).json()["thread_id"]
    path = f"/threads/{thread}/runs/crons"
    made = (await gateway.http.post(path, json=body | {"multitask_strategy": "rollback"})).json()
    assert (await gateway.http.get(f"/schedules/{made['cron_id']}")).json()["overlap"] == "rollback_other"
    refused = await gateway.http.post(path, json=body | {"on_run_completed": "delete"})
    assert [one["pointer"] for one in refused.json()["errors"]] == ["/on_run_completed"]
    changed = await gateway.http.patch(f"/runs/crons/{made['cron_id']}", json={"on_run_completed": "delete"})
    assert changed.status_code == 422

    own = (await gateway.http.post("/runs/crons", json=body | {"on_run_completed": "delete"})).json()
    assert own["on_run_completed"] == "delete"
    kept = await gateway.http.patch(f"/runs/crons/{own['cron_id']}", json={"on_run_completed": "keep"})
    assert kept.json()["on_run_completed"] == "keep"


async def test_a_rollback_of_the_run_before_is_asked_for(gateway: Gateway) -> None:
    thread = (await gateway.http.post("/threads", json={})).json()["thread_id"]
    made = await gateway.make(cron="0 * * * *", timezone="UTC", thread_id=thread, overlap="rollback_other", paused=True)
    fired = [(await gateway.http.post(f"/schedules/{made['schedule_id']}/trigger")).json() for _ in range(2)]
    runs = {one["_id"]: one for one in await gateway.database.runs.find({"thread_id": thread}).to_list(None)}
    first, second = (runs[one["run_id"]] for one in fired)
    assert (first["cancel_action"], "cancel_requested_at" in first) == ("rollback", True)
    assert "cancel_requested_at" not in second


async def test_threads_of_a_cron_that_are_deleted_after_their_runs_are_marked(gateway: Gateway) -> None:
    body = {"assistant_id": "agent", "schedule": "0 9 * * *", "input": {}, "on_run_completed": "delete"}
    own = (await gateway.http.post("/runs/crons", json=body)).json()
    fired = (await gateway.http.post(f"/schedules/{own['cron_id']}/trigger")).json()
    for name, key in (("threads", "thread_id"), ("runs", "run_id")):
        document = await gateway.database[name].find_one({"_id": fired[key]})
        assert document is not None
        assert document["ephemeral"] is True
