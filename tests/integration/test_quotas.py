"""Limits of tenants over the API: one over its limit is answered 429, another one is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import httpx
import pytest
from tests.integration.conftest import Waiting, open_waiting, problem_of
from tests.support.gateway import fresh_database
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.gateway.resources.batches.upload import BLOCK_LINES
from perdure.gateway.stores import usage
from perdure.schemas import topics

GRAPH = "agent"
QUOTAS = """
[tenants.small]
open_runs = 3
threads = 4
pending_runs_of_thread = 2
batch_items = 5
subscriptions = 2
test_notices_per_minute = 2
free_signals_of_thread = 3
schedules = 2
schedule_interval_s = 60
watchers = 1

[tenants.roomy]
uploads_at_once = 1

[tenants.slow]
starts_per_s = 0.25

[tenants.full]
stored_bytes = 100
"""

Post = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture(scope="module", name="gateway")
async def limited_gateway(
    mongodb_uri: str, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Waiting]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    file = tmp_path_factory.mktemp("quotas") / "quotas.toml"
    file.write_text(QUOTAS, encoding="utf-8")
    graphs = [{"_id": GRAPH, "version": "v1", "nodes": ["a"], "input_schema": {"type": "object"}, "updated_at": now()}]
    settings = {"graphs": graphs, "quotas_file": file, "mail_to": ("example.com", "ann@partner.example")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage, "AGAIN_S", 0.0)  # what is refused was counted anew
        patch.setattr(usage, "SHARE", 0)
        async with open_waiting(fresh_database(mongodb_uri, "quotas"), kafka_bootstrap, **settings) as opened:
            yield opened
            await opened.drop_database()


@pytest.fixture(name="post")
async def fresh_tenant(gateway: Waiting) -> Post:
    """Posts for the tenant ``small``, which has nothing yet."""
    for name in ("runs", "threads", "subscriptions", "schedules", "signals", "batches"):
        await gateway.database[name].delete_many({"tenant": "small"})
    return partial(posted, gateway)


async def posted(gateway: Waiting, path: str, tenant: str = "small", **body: Any) -> httpx.Response:
    return await gateway.http.post(path, json=body, headers={"Perdure-Tenant": tenant})


async def refused_after(limit: int, post: Callable[[], Awaitable[httpx.Response]], name: str) -> None:
    for number in range(limit):
        assert (response := await post()).status_code < 300, (number, response.text)
    over = await post()
    problem = problem_of(over, 429, "quota-exceeded")
    assert name in problem.detail
    assert int(over.headers["Retry-After"]) >= 1


RUN = {"assistant_id": GRAPH, "input": {}}
HOOK = {"scope": "tenant", "kinds": ["completed"], "channel": "webhook", "target": "https://hooks.example.com/x"}


@pytest.mark.parametrize(
    ("limit", "path", "body", "name"),
    [
        (3, "/runs", RUN, "open_runs"),
        (4, "/threads", {}, "threads"),
        (2, "/subscriptions", HOOK, "subscriptions"),
        (2, "/schedules", {"assistant_id": GRAPH, "cron": "0 0 1 1 *"}, "schedules"),
    ],
)
async def test_what_a_tenant_has(post: Post, limit: int, path: str, body: dict[str, Any], name: str) -> None:
    await refused_after(limit, partial(post, path, **body), name)
    assert (await post(path, tenant="other", **body)).status_code < 300, "of another tenant"


async def test_room_that_is_made_is_there(gateway: Waiting, post: Post) -> None:
    await refused_after(4, partial(post, "/threads"), "threads")
    await gateway.database.threads.delete_many({"tenant": "small"})
    assert (await post("/threads")).status_code == 200


async def test_a_thread_that_is_there_is_answered_at_the_limit(post: Post) -> None:
    assert (await post("/threads", thread_id="mine")).status_code == 200
    await refused_after(3, partial(post, "/threads"), "threads")
    assert (await post("/threads", thread_id="mine", if_exists="do_nothing")).status_code == 200


async def test_what_waits_on_one_thread(post: Post) -> None:
    thread = (await post("/threads")).json()["thread_id"]
    await refused_after(2, partial(post, f"/threads/{thread}/runs", **RUN), "pending_runs_of_thread")
    await refused_after(3, partial(post, f"/threads/{thread}/signals/paid", payload=1), "free_signals_of_thread")


async def test_a_start_that_is_repeated_is_answered_at_the_limit(gateway: Waiting, post: Post) -> None:
    headers = {"Perdure-Tenant": "small", "Idempotency-Key": "once"}
    first = await gateway.http.post("/runs", json=RUN, headers=headers)
    await refused_after(2, partial(post, "/runs", **RUN), "open_runs")
    again = await gateway.http.post("/runs", json=RUN, headers=headers)
    assert again.json()["run_id"] == first.json()["run_id"]


async def test_starts_a_second(post: Post) -> None:
    await refused_after(2, partial(post, "/runs", tenant="slow", **RUN), "starts_per_s")
    await asyncio.sleep(4.0)
    assert (await post("/runs", tenant="slow", **RUN)).status_code == 202


async def test_batches(gateway: Waiting, post: Post) -> None:
    items = [{"input": {}}] * 3
    assert (await post("/batches", assistant_id=GRAPH, items=items)).status_code == 202
    over = problem_of(await post("/batches", assistant_id=GRAPH, items=items), 429, "quota-exceeded")
    assert "room for 2 more items" in over.detail
    assert await gateway.database.batch_items.count_documents({}) == 3, "nothing of it is left"
    assert (await post("/batches", assistant_id=GRAPH, items=items[:2])).status_code == 202


async def test_uploads_at_once(gateway: Waiting, post: Post) -> None:
    going = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"input": {}}\n' * 2 * BLOCK_LINES
        await going.wait()

    headers = {"Perdure-Tenant": "roomy", "Content-Type": "application/x-ndjson"}
    upload = asyncio.create_task(
        gateway.http.post("/batches", params={"assistant_id": GRAPH}, content=slowly(), headers=headers)
    )
    begun = {"tenant": "roomy", "status": "uploading"}
    await until(lambda: gateway.database.batches.find_one(begun), "the upload goes on")
    refused = await post("/batches", tenant="roomy", assistant_id=GRAPH, items=[{"input": {}}])
    assert "uploads_at_once" in problem_of(refused, 429, "quota-exceeded").detail
    going.set()
    assert (await upload).status_code == 202
    assert (await post("/batches", tenant="roomy", assistant_id=GRAPH, items=[{"input": {}}])).status_code == 202


async def test_watchers(gateway: Waiting, post: Post) -> None:
    run = (await post("/runs", **RUN)).json()
    path, headers = f"/threads/{run['thread_id']}/runs/{run['run_id']}", {"Perdure-Tenant": "small"}
    async with gateway.http.stream("GET", f"{path}/join", headers=headers) as waiting:
        assert waiting.status_code == 200
        for other in ("join", "join?timeout=1", "stream"):
            over = await gateway.http.get(f"{path}/{other}", headers=headers)
            assert "watchers" in problem_of(over, 429, "quota-exceeded").detail


async def test_how_often_a_schedule_fires(gateway: Waiting, post: Post) -> None:
    often = {"assistant_id": GRAPH, "cron": "*/30 * * * * *"}
    assert "every 60 s" in problem_of(await post("/schedules", **often), 422, "invalid-request").detail
    made = (await post("/schedules", assistant_id=GRAPH, cron="* * * * *")).json()
    path, headers = f"/schedules/{made['schedule_id']}", {"Perdure-Tenant": "small"}
    changed = await gateway.http.patch(path, json={"cron": "* * * * * *"}, headers=headers)
    problem_of(changed, 422, "invalid-request")


async def test_test_notices(post: Post) -> None:
    made = (await post("/subscriptions", **HOOK)).json()
    await refused_after(2, partial(post, f"/subscriptions/{made['subscription_id']}/test"), "test_notices_per_minute")


async def test_who_may_be_mailed(gateway: Waiting, post: Post) -> None:
    mail = {"scope": "tenant", "kinds": ["completed"], "channel": "email"}
    for allowed in ("Bob@Example.com", "ann@partner.example"):
        assert (await post("/subscriptions", tenant="other", **mail, target=allowed)).status_code == 201
    for other in ("victim@elsewhere.example", "eve@partner.example", "ann@sub.example.com"):
        over = await post("/subscriptions", tenant="other", **mail, target=other)
        assert "PERDURE_MAIL_TO" in problem_of(over, 422, "invalid-request").detail


async def test_stored_bytes(gateway: Waiting, post: Post) -> None:
    await gateway.database.notebook.insert_one({"_id": "full~t\x1fc\x1f", "data": b"x" * 200})
    last = None
    for _ in range(100):
        last = await post("/runs", tenant="full", **RUN)
        if last.status_code == 429:
            break
        await asyncio.sleep(0.05)
    assert last is not None
    assert "stored_bytes" in problem_of(last, 429, "quota-exceeded").detail
