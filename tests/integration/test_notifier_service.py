"""The notifier as a process, on Kafka and beside a gateway: events, kill -9, the HTTP paths, and what the index finds."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web
from standardwebhooks import Webhook
from tests.integration.notifier_stage import Receiver, receiving, succeeded
from tests.support.polling import until

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.cli.provision import provision
from perdure.local.services import Services
from perdure.local.stack import Stack
from perdure.registry.deliveries import delivery_id, shown_target
from perdure.registry.runs import assistant_id_of
from perdure.schemas import topics
from perdure.schemas.batches import BatchFinished
from perdure.schemas.envelope import encode
from perdure.schemas.events import Event
from perdure.schemas.message import Message

SETTINGS = {
    "PERDURE_NOTIFIER_TIMEOUT_S": "2",
    "PERDURE_NOTIFIER_CLAIM_S": "3.5",
    "PERDURE_NOTIFIER_RETRY_FIRST_S": "0.2",
    "PERDURE_NOTIFIER_RETRY_CAP_S": "1",
    "PERDURE_NOTIFIER_PATIENCE_S": "60",
    "PERDURE_NOTIFIER_BREAKER_FAILURES": "10000",
    "PERDURE_SHUTDOWN_GRACE_S": "4",
}


@dataclass
class World:
    """A gateway, a notifier and an indexer."""

    services: Services
    http: httpx.AsyncClient
    db: mongo.Database
    producer: Producer
    receiver: Receiver

    async def publish(self, *messages: Message) -> None:
        for message in messages:
            topic = topics.EVENTS if isinstance(message, Event) else topics.NOTIFICATIONS
            id_: str = message.event_id  # type: ignore[attr-defined]
            record = encode(message, id=id_, source="test", correlation_id=message.thread_id, time=now())
            await self.producer.send(topic.name, record)

    async def subscribe(self, path: str, *kinds: str, **more: Any) -> Any:
        body = {"scope": "tenant", "kinds": kinds or ("completed",), "channel": "webhook"} | more
        made = await self.http.post("/subscriptions", json={"target": f"{self.receiver.url}/{path}", **body})
        assert made.status_code == 201, made.text
        return made.json()

    async def remove(self, subscription: Any) -> None:
        gone = await self.http.delete(f"/subscriptions/{subscription['subscription_id']}")
        assert gone.status_code == 204

    async def received(self, path: str, count: int = 1) -> list[Any]:
        def look() -> list[Any]:
            return [*self.receiver.at(f"/{path}")]

        return await until(look, f"{count} requests at {path}", holds=lambda found: len(found) >= count)

    async def delivery(self, id_: str, *states: str) -> Any:
        async def look() -> Any:
            return (await self.http.get(f"/deliveries/{id_}")).json()

        return await until(look, f"{id_} is {states}", holds=lambda found: found["state"] in states)


@pytest.fixture(scope="module")
async def world(stack: Stack) -> AsyncIterator[World]:
    uri = stack.environment()["PERDURE_MONGODB_URI"].rpartition("/")[0] + f"/notifier_{uuid.uuid4().hex[:8]}"
    environment = stack.environment() | {"PERDURE_MONGODB_URI": uri}
    await asyncio.to_thread(provision, environment)
    services = Services.of(stack, ("gateway", "notifier", "indexer"), {**SETTINGS, "PERDURE_MONGODB_URI": uri})
    await TopicAdmin(environment["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]).apply(topics.ALL)
    await asyncio.to_thread(services.start)
    client = mongo.connect(uri)
    producer = Producer(environment["PERDURE_KAFKA_BOOTSTRAP_SERVERS"], "test")
    try:
        async with (
            receiving() as receiver,
            httpx.AsyncClient(base_url=services.gateway_url, timeout=30) as http,
        ):
            yield World(services, http, mongo.database(client, uri), producer, receiver)
    finally:
        await producer.close()
        await asyncio.to_thread(services.stop)
        client.close()


@pytest.fixture(autouse=True)
async def nothing_left(world: World) -> AsyncIterator[None]:
    """A test that failed leaves no subscription that tells the next one's events as well."""
    yield
    await world.db.subscriptions.delete_many({})


async def run_of(world: World, event: Event) -> None:
    """The run's document, without which there is no history that a note could be in."""
    run = {
        "_id": event.run_id,
        "tenant": event.tenant,
        "thread_id": event.thread_id,
        "graph_id": event.graph_id,
        "assistant_id": event.assistant_id,
        "graph_version": None,
        "metadata": {},
        "epoch": 1,
        "created_at": datetime.now(UTC),
        "status": "success",
        "settled": True,
    }
    await world.db.runs.insert_one(run)


async def test_an_event_becomes_a_notice_and_the_notice_is_found(world: World) -> None:
    subscription = await world.subscribe("first")
    event = succeeded("default", thread=f"found-{uuid.uuid4().hex[:8]}")
    await run_of(world, event)
    await world.publish(event, event)
    (request,) = await world.received("first")
    told = Webhook(subscription["secret"]).verify(request.body, request.headers)
    assert told["data"]["thread_id"] == event.thread_id
    delivery = await world.delivery(request.id, "delivered")
    assert [one["outcome"] for one in delivery["attempts"]] == ["delivered"]

    async def found() -> Any:
        answer = await world.http.get("/search", params={"q": "notice delivered", "thread_id": event.thread_id})
        return answer.json()["items"] if answer.status_code == 200 else None

    (item,) = await until(found, "the notice in the index")
    assert (item["event"], item["notice"]["id"]) == ("perdure.notice.delivered", request.id)

    async def newest() -> Any:  # another index than the history's, with a refresh of its own
        answer = await world.http.get("/search", params={"scope": "threads", "thread_id": event.thread_id})
        return answer.json()["items"]

    assert [one["event"] for one in await until(newest, "the thread in the index")] == ["perdure.run.succeeded"]
    listed = (await world.http.get("/deliveries", params={"thread_id": event.thread_id})).json()
    assert [one["delivery_id"] for one in listed["items"]] == [request.id], "read twice, told once"
    await world.remove(subscription)


async def test_a_notifier_that_is_killed_after_it_sent_sends_the_same_id_again(world: World) -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def holds(_: web.Request) -> web.StreamResponse:
        arrived.set()
        await release.wait()
        return web.Response()

    world.receiver.answers["/killed"] = holds
    subscription = await world.subscribe("killed")
    event = succeeded("default")
    await world.publish(event)
    await asyncio.wait_for(arrived.wait(), 20)
    os.kill(world.services["notifier"].pid, signal.SIGKILL)  # sent, and nobody recorded it
    await asyncio.to_thread(world.services["notifier"].kill)
    release.set()
    world.receiver.answers.pop("/killed")
    (first,) = world.receiver.at("/killed")
    found = (await world.http.get(f"/deliveries/{first.id}")).json()
    assert (found["state"], found["tried"]) == ("pending", 0)
    await asyncio.to_thread(world.services["notifier"].start)
    delivery = await world.delivery(first.id, "delivered")
    requests = world.receiver.at("/killed")
    assert [one.id for one in requests] == [first.id] * 2
    assert requests[0].body == requests[1].body
    assert delivery["tried"] == 1
    await world.remove(subscription)


async def test_events_while_no_notifier_runs_are_told_when_one_does(world: World) -> None:
    subscription = await world.subscribe("later", "completed", "batch_finished")
    await asyncio.to_thread(world.services["notifier"].kill)
    batch = BatchFinished(
        tenant="default", thread_id="batch-1", occurred_at=datetime.now(UTC), total=2, succeeded=2, status="completed"
    )
    await world.publish(*(succeeded("default", thread=f"later-{n}") for n in range(20)), batch)
    await asyncio.to_thread(world.services["notifier"].start)
    requests = await world.received("later", 21)
    types = sorted(orjson.loads(one.body)["type"] for one in requests)
    assert types == ["batch.finished", *["run.completed"] * 20]
    assert len({one.id for one in requests}) == 21
    await world.remove(subscription)


async def test_the_webhook_of_a_run(world: World) -> None:
    graph = {"_id": "audit", "version": "v1", "nodes": [], "updated_at": datetime.now(UTC)}
    await world.db.graphs.replace_one({"_id": "audit"}, graph, upsert=True)

    async def started() -> Any:
        body = {"assistant_id": "audit", "input": {}, "webhook": f"{world.receiver.url}/of-run"}
        answer = await world.http.post("/runs", json=body)
        return answer.json() if answer.status_code == 202 else None

    run = await until(started, "the graph is known")
    ids = {"thread": run["thread_id"], "run_id": run["run_id"], "assistant_id": assistant_id_of("audit")}
    await world.publish(succeeded("default", **ids))
    (request,) = await world.received("of-run")
    seen = await world.http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}")
    for shown in (run, seen.json()):
        assert shown["kwargs"]["webhook"] == shown_target("webhook", f"{world.receiver.url}/of-run")
    assert orjson.loads(request.body)["data"]["run_id"] == run["run_id"]
    listed = (await world.http.get("/deliveries", params={"run_id": run["run_id"]})).json()["items"]
    assert [one["subscription_id"] for one in listed] == [f"run:{run['run_id']}"]


@pytest.mark.parametrize(
    "webhook", ["https://x:99999/", "https://[::1", "https://user:pass@example.com/", "https://a b/"]
)
@pytest.mark.parametrize("path", ["/runs", "/schedules", "/runs/crons"])
async def test_a_webhook_that_is_no_url_is_refused(world: World, path: str, webhook: str) -> None:
    await served(world)
    body = {"assistant_id": "audit", "webhook": webhook}
    body |= {"/schedules": {"cron": "@daily"}, "/runs/crons": {"schedule": "@daily"}}.get(path, {})
    answer = await world.http.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert [one["pointer"] for one in answer.json()["errors"]] == ["/webhook"]


async def test_a_stored_webhook_that_is_no_url_stops_nobody(world: World) -> None:
    """Stored before such were refused: its delivery is dead, and the others of the same batch are told."""
    subscription = await world.subscribe("beside")
    pid = world.services["notifier"].pid
    events = [succeeded("default", thread=f"beside-{n}-{uuid.uuid4().hex[:8]}") for n in range(4)]
    for event, webhook in zip(events, ("https://x:99999/", "https://[::1", "https://", None), strict=True):
        await run_of(world, event)
        await world.db.runs.update_one({"_id": event.run_id}, {"$set": {"webhook": webhook}})
    await world.publish(*events)
    await world.received("beside", 4)
    for event in events[:3]:
        id_ = delivery_id("default", event.event_id, f"run:{event.run_id}")
        dead = await world.delivery(id_, "dead")
        assert "cannot be used" in dead["reason"]
    assert (world.services["notifier"].running, world.services["notifier"].pid) == (True, pid)
    await world.remove(subscription)


async def test_the_webhook_of_a_run_is_told_whatever_the_clocks_say(world: World) -> None:
    """The worker that ended the run is a minute behind the gateway that registered it."""
    event = succeeded("default", occurred_at=datetime.now(UTC) - timedelta(minutes=1))
    await run_of(world, event)
    url = f"{world.receiver.url}/behind"
    await world.db.runs.update_one({"_id": event.run_id}, {"$set": {"webhook": url}})
    await world.publish(event)
    await world.received("behind")


async def served(world: World) -> None:
    """Let the gateway know a graph."""
    graph = {"_id": "audit", "version": "v1", "nodes": [], "updated_at": datetime.now(UTC)}
    await world.db.graphs.replace_one({"_id": "audit"}, graph, upsert=True)

    async def known() -> bool:
        return "audit" in (await world.http.get("/graphs")).text

    await until(known, "the graph is known")


async def test_subscriptions_over_http(world: World) -> None:
    made = await world.subscribe("managed", "failed", "stuck", description="ops", digest_s=60.0)
    path = f"/subscriptions/{made['subscription_id']}"
    assert made["secret"].startswith("whsec_")
    shown = (await world.http.get(path)).json()
    assert "secret" not in shown
    assert (shown["secrets"], shown["kinds"], shown["digest_s"]) == (1, ["failed", "stuck"], 60.0)
    quiet = {"timezone": "Europe/Berlin", "start": "22:00", "end": "07:00", "urgent": ["stuck"]}
    patched = (await world.http.patch(path, json={"quiet": quiet, "digest_s": None, "paused": True})).json()
    assert (patched["quiet"], patched["digest_s"], patched["state"]) == (quiet, None, "paused")
    rotated = (await world.http.post(f"{path}/rotate-secret", json={"grace_s": 60})).json()
    assert rotated["secret"] != made["secret"]
    assert rotated["secrets"] == 2
    listed = (await world.http.get("/subscriptions", params={"limit": 1})).json()
    assert made["subscription_id"] in [one["subscription_id"] for one in listed["items"]]
    tested = await world.http.post(f"{path}/test")
    assert tested.status_code == 202
    (request,) = await world.received("managed")
    assert tested.headers["location"] == f"/deliveries/{request.id}"
    assert Webhook(made["secret"]).verify(request.body, request.headers)["type"] == "test"
    await world.remove(made)
    assert (await world.http.get(path)).status_code == 404
    assert (await world.http.delete(path)).json()["type"] == "urn:perdure:problem:unknown-subscription"


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"kinds": []}, "/kinds"),
        ({"kinds": ["unheard_of"]}, "/kinds/0"),
        ({"scope": "thread"}, ""),
        ({"scope_id": "x"}, ""),
        ({"scope": "batch", "scope_id": "b", "kinds": ["stuck"]}, ""),
        ({"target": "ftp://example.com"}, "/target"),
        ({"target": "https://user:password@example.com"}, "/target"),
        ({"target": "https://example.com/\r\nX: y"}, "/target"),
        ({"channel": "email", "target": "ann@example.com\nBcc: eve@example.com"}, "/target"),
        ({"channel": "email", "target": "assigned_to"}, "/kinds"),
        ({"quiet": {"start": "25:00", "end": "07:00"}}, "/quiet/start"),
        ({"quiet": {"start": "07:00", "end": "07:00"}}, "/quiet"),
        ({"quiet": {"start": "22:00", "end": "07:00", "timezone": "Mars/Base"}}, "/quiet/timezone"),
        ({"digest_s": 1}, "/digest_s"),
    ],
)
async def test_what_cannot_be_subscribed_says_why(world: World, wrong: dict[str, Any], pointer: str) -> None:
    body = {"scope": "tenant", "kinds": ["completed"], "channel": "webhook", "target": "https://example.com/x"} | wrong
    answer = await world.http.post("/subscriptions", json=body)
    assert answer.status_code == 422, answer.text
    assert [one["pointer"] for one in answer.json()["errors"]] == [pointer]


async def test_dead_notices_are_listed_and_redriven(world: World) -> None:
    made_of_all = asyncio.Event()

    async def gone(_: web.Request) -> web.StreamResponse:
        await made_of_all.wait()  # the first 410 ends the subscription: an event that is read later makes no notice
        raise web.HTTPGone

    world.receiver.answers["/gone"] = gone
    made = await world.subscribe("gone")
    await world.publish(*(succeeded("default", thread=f"dead-{uuid.uuid4().hex[:8]}") for _ in range(3)))
    of = {"subscription_id": made["subscription_id"]}

    async def notices(**query: str) -> list[Any]:
        return [*(await world.http.get("/deliveries", params=of | query)).json()["items"]]

    await until(notices, "three notices", holds=lambda found: len(found) == 3)
    made_of_all.set()
    dead = await until(lambda: notices(state="dead"), "three dead notices", holds=lambda found: len(found) == 3)
    assert all("410" in one["reason"] for one in dead)
    first_page = (await world.http.get("/deliveries", params=of | {"limit": 2})).json()
    second = (await world.http.get("/deliveries", params=of | {"limit": 2, "cursor": first_page["cursor"]})).json()
    assert [one["delivery_id"] for one in first_page["items"] + second["items"]] == [one["delivery_id"] for one in dead]
    assert second["cursor"] is None
    shown = (await world.http.get(f"/subscriptions/{made['subscription_id']}")).json()
    assert (shown["state"], "410" in shown["disabled_reason"]) == ("disabled", True)
    world.receiver.answers.pop("/gone")
    await world.http.patch(f"/subscriptions/{made['subscription_id']}", json={"paused": False})
    one = dead[0]["delivery_id"]
    redriven = await world.http.post(f"/deliveries/{one}/redrive", json={"by": "ann"})
    assert (redriven.json()["state"], redriven.json()["redriven_by"]) == ("pending", "ann")
    await world.delivery(one, "delivered")
    again = await world.http.post(f"/deliveries/{one}/redrive", json={})
    assert again.json()["type"] == "urn:perdure:problem:delivery-not-dead"
    rest = (await world.http.post("/deliveries/redrive", json=of | {"limit": 1})).json()
    assert (len(rest["redriven"]), rest["more"]) == (1, True)
    rest = (await world.http.post("/deliveries/redrive", json=of)).json()
    assert (len(rest["redriven"]), rest["more"]) == (1, False)
    for delivery in dead:
        await world.delivery(delivery["delivery_id"], "delivered")
    other = await world.http.get(f"/deliveries/{one}", headers={"Perdure-Tenant": "other"})
    assert other.status_code == 404
    await world.remove(made)


def test_the_command_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from perdure.cli.app import build

    def perdure(*arguments: str) -> Any:
        result = CliRunner().invoke(build(), [*arguments, "--url", world.services.gateway_url, "--json"])
        assert result.exit_code == 0, result.output
        return orjson.loads(result.stdout)

    target = f"{world.receiver.url}/cli"
    options = ["--quiet", "22:00-07:00", "--timezone", "Europe/Berlin", "--urgent", "stuck", "--assistant", "audit"]
    made = perdure("subscriptions", "add", "webhook", target, "-k", "completed", "-k", "stuck", *options)
    id_ = made["subscription_id"]
    assert (made["scope"], made["scope_id"], made["quiet"]["urgent"]) == ("assistant", "audit", ["stuck"])
    assert id_ in [one["subscription_id"] for one in perdure("subscriptions", "list")]
    assert made["target"] == target, "the whole address, once"
    shown = perdure("subscriptions", "show", id_)["target"]
    assert shown == shown_target("webhook", target) != target
    assert perdure("subscriptions", "list")[-1]["target"] == shown
    refused = httpx.patch(f"{world.services.gateway_url}/subscriptions/{id_}", json={"target": shown})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/target"), (
        "what is shown is no address"
    )
    assert perdure("subscriptions", "rotate", id_)["secret"] != made["secret"]
    assert perdure("subscriptions", "pause", id_)["state"] == "paused"
    assert perdure("subscriptions", "resume", id_)["state"] == "active"
    sent = perdure("subscriptions", "test", id_)
    assert perdure("deliveries", "show", sent["delivery_id"])["kind"] == "test"
    assert sent["delivery_id"] in [one["delivery_id"] for one in perdure("deliveries", "list", "--subscription", id_)]
    assert perdure("deliveries", "redrive", "--all", "--subscription", id_)["redriven"] == []
    assert perdure("subscriptions", "remove", id_) == {"removed": id_}
