"""Uploads of batches to a real gateway: wrong lines, cut connections, gzip, repeats, and memory that stays flat."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import psutil
import pytest
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.payload import unpack
from perdure.scheduler.batch_uploads import Uploads

NDJSON = {"Content-Type": "application/x-ndjson"}

Post = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture(autouse=True)
async def graph(waiting: Any) -> None:
    await waiting.database.graphs.update_one({"_id": "agent"}, {"$set": {"version": "v1"}}, upsert=True)


@pytest.fixture
def post(waiting: Any) -> Post:
    async def send(content: Any, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        query = {"assistant_id": "agent", **options}
        answer: httpx.Response = await waiting.http.post(
            "/batches", params=query, content=content, headers=NDJSON | (headers or {}), timeout=120
        )
        return answer

    return send


def lines(*items: Any) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


async def nothing_left(waiting: Any, before: int) -> bool:
    database = waiting.database
    uploading = await database.batches.count_documents({"status": "uploading"})
    return uploading == 0 and await database.batch_items.count_documents({}) == before


async def test_an_upload_is_a_batch_that_waits(waiting: Any, post: Post) -> None:
    content = lines({"input": {"n": 1}, "ref": "one"}, {"input": {"n": 2}, "metadata": {"k": "v"}})
    answer = await post(content, concurrency=7, max_attempts=3, failure_threshold=0.25, metadata='{"team": "red"}')
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    assert answer.headers["location"] == f"/batches/{batch['batch_id']}"
    assert (batch["status"], batch["total"], batch["counts"]["waiting"]) == ("pending", 2, 2)
    assert (batch["concurrency"], batch["max_attempts"], batch["failure_threshold"]) == (7, 3, 0.25)
    assert (await waiting.http.get(f"/batches/{batch['batch_id']}")).json() == batch
    listed = (await waiting.http.get("/batches", params={"limit": 1})).json()
    assert listed["items"] == [batch]
    page = (await waiting.http.get(f"/batches/{batch['batch_id']}/items", params={"limit": 1})).json()
    assert (page["items"][0]["ref"], page["items"][0]["status"], page["cursor"]) == ("one", "waiting", "1")
    page = (await waiting.http.get(f"/batches/{batch['batch_id']}/items", params={"cursor": "1"})).json()
    assert (page["items"][0]["number"], page["items"][0]["metadata"], page["cursor"]) == (2, {"k": "v"}, None)
    other = {"Perdure-Tenant": "other"}
    assert (await waiting.http.get(f"/batches/{batch['batch_id']}", headers=other)).status_code == 404
    assert (await waiting.http.get("/batches", headers=other)).json()["items"] == []


async def test_a_body_with_items_is_the_same(waiting: Any, problem_of: Any) -> None:
    body = {"assistant_id": "agent", "items": [{"input": 1}, {"input": 2}], "config": {"tags": ["t"]}, "paused": True}
    answer = await waiting.http.post("/batches", json=body)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["status"], answer.json()["total"]) == ("paused", 2)
    stored = await waiting.database.batches.find_one({"_id": answer.json()["batch_id"]})
    assert unpack(stored["defaults"]) == {"config": {"tags": ["t"]}}
    wrong = problem_of(
        await waiting.http.post("/batches", json={**body, "items": [{"input": 1}, 3]}), 422, "invalid-request"
    )
    assert [error.pointer for error in wrong.errors] == ["/items/1"]


async def test_wrong_lines_are_named_and_nothing_is_registered(waiting: Any, post: Post, problem_of: Any) -> None:
    before = await waiting.database.batch_items.count_documents({})
    good = [{"input": number} for number in range(3_000)]
    content = [lines(*good), b"\n{not json}\n", lines(*good), lines({"inptu": 1}), lines(*good)]
    problem = problem_of(await post(b"".join(content)), 422, "invalid-request")
    assert [error.pointer for error in problem.errors] == ["line:3002", "line:6003/input"]
    assert "2 items are wrong" in problem.detail
    assert await nothing_left(waiting, before)
    problem = problem_of(await post(b"x\n" * 1_000), 422, "invalid-request")
    assert len(problem.errors) == 100
    assert "1000 items are wrong in what was read until then (the first 100 are named)" in problem.detail
    problem_of(await post(b"\n\n"), 422, "invalid-request")
    assert await nothing_left(waiting, before)


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"concurrency": 0}, "query:concurrency"),
        ({"failure_threshold": "many"}, "query:failure_threshold"),
        ({"metadata": "{"}, "query:metadata"),
    ],
)
async def test_options_are_checked_before_anything_is_read(
    post: Post, problem_of: Any, options: dict[str, Any], pointer: str
) -> None:
    problem = problem_of(await post(lines({"input": 1}), **options), 422, "invalid-request")
    assert [error.pointer for error in problem.errors] == [pointer]


async def test_an_unknown_graph_is_refused(post: Post, problem_of: Any) -> None:
    problem_of(await post(lines({"input": 1}), assistant_id="nobody"), 404, "unknown-graph")


async def test_a_compressed_upload_is_read(post: Post, problem_of: Any, waiting: Any) -> None:
    before = await waiting.database.batch_items.count_documents({})
    content = gzip.compress(lines(*({"input": number} for number in range(5_000))))
    answer = await post(content, {"Content-Encoding": "gzip"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["total"] == 5_000
    assert (await post(content + content)).json()["total"] == 10_000
    problem_of(await post(content[:-1]), 400, "bad-request")
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 0xFF
    problem_of(await post(bytes(damaged)), 400, "bad-request")
    assert await nothing_left(waiting, before + 15_000)
    body = gzip.compress(json.dumps({"assistant_id": "agent", "items": [{"input": 1}]}).encode())
    answer = await waiting.http.post("/batches", content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["total"] == 1


async def test_the_same_key_makes_one_batch(post: Post, problem_of: Any, waiting: Any) -> None:
    key = {"Idempotency-Key": f"upload-{time.monotonic()}"}
    content = lines(*({"input": number} for number in range(2_500)))
    answers = await asyncio.gather(*(post(content, key) for _ in range(3)))
    assert {answer.status_code for answer in answers} == {202}
    (batch_id,) = {answer.json()["batch_id"] for answer in answers}
    again = await post(content, key)
    assert again.json()["batch_id"] == batch_id
    assert again.headers["idempotent-replayed"] == "true"
    assert await waiting.database.batch_items.count_documents({"batch": batch_id}) == 2_500
    problem_of(await post(content + lines({"input": 1}), key), 422, "idempotency-conflict")
    problem_of(await post(content, key, concurrency=3), 422, "idempotency-conflict")
    assert await waiting.database.batches.count_documents({"status": "uploading"}) == 0


async def test_an_upload_that_is_cut_leaves_nothing(waiting: Any, post: Post) -> None:
    before = await waiting.database.batch_items.count_documents({})
    storing = asyncio.Event()

    async def cut() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield lines(*({"input": number} for number in range(2_000)))
        await storing.wait()
        raise ConnectionError

    async def stored() -> bool:
        return bool(await waiting.database.batch_items.count_documents({}) > before)

    upload = asyncio.create_task(post(cut()))
    await until(stored, "the first lines are stored")
    assert not await seen_uploading(waiting)
    storing.set()
    with pytest.raises((httpx.HTTPError, ConnectionError)):
        await upload
    await until(lambda: nothing_left(waiting, before), "nothing of the upload is left")


async def seen_uploading(waiting: Any) -> bool:
    """Whether a batch is shown whose upload has not ended."""
    shown = (await waiting.http.get("/batches", params={"limit": 1000})).json()["items"]
    return any(batch["status"] == "uploading" for batch in shown)


async def test_what_a_dead_gateway_left_is_removed(waiting: Any) -> None:
    database = waiting.database
    before = await database.batch_items.count_documents({})
    old = now() - timedelta(minutes=5)
    for name, touched in (("dead", old), ("alive", now())):
        hidden = {"_id": name, "tenant": "default", "status": "uploading", "touched_at": touched, "created_at": old}
        await database.batches.insert_one(hidden)
        await database.batch_items.insert_many([{"_id": f"{name}:{n:09d}", "batch": name} for n in range(1, 51)])
    await Uploads(database, 120.0).sweep()
    assert [one["_id"] async for one in database.batches.find({"status": "uploading"})] == ["alive"]
    assert await database.batch_items.count_documents({}) == before + 50
    await Uploads(database, 0.0).sweep()
    assert await nothing_left(waiting, before)


async def test_memory_does_not_grow_with_the_upload(waiting: Any, post: Post) -> None:
    random.seed(1)
    process = psutil.Process()
    highest = 0

    async def upload(count: int) -> AsyncIterator[bytes]:
        nonlocal highest
        for start in range(0, count, 500):
            yield lines(*({"input": random.randbytes(400).hex(), "ref": str(start + n)} for n in range(500)))
            highest = max(highest, process.memory_info().rss)

    assert (await post(upload(5_000))).status_code == 202
    before, began = process.memory_info().rss, time.monotonic()
    answer = await post(upload(100_000))
    took = time.monotonic() - began
    assert answer.status_code == 202, answer.text
    assert answer.json()["total"] == 100_000
    grown = (highest - before) / 2**20
    print(f"100,000 items, 84 MB, in {took:.1f} s; memory grew by {grown:.1f} MiB")
    assert grown < 40
    batch_id = answer.json()["batch_id"]
    began = time.monotonic()
    page = await waiting.http.get(f"/batches/{batch_id}/items", params={"cursor": 99_990})
    print(f"the last page in {(time.monotonic() - began) * 1000:.0f} ms")
    assert [item["number"] for item in page.json()["items"]] == list(range(99_991, 100_001))
