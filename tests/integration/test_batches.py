"""The scheduler's part in batches, on a real database and a real broker: expansion, pause, threshold, cancellation, redrive."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.batch_stage import Stage
from tests.support.polling import until

from perdure.agent_step.claims import Claims
from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.outage import Availability
from perdure.chassis.payload import Packed, pack
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.resources.batches.store import BatchStore as Gateway
from perdure.gateway.stores.store import Store
from perdure.registry.runs import retry_document
from perdure.registry.waits import wait_documents
from perdure.schemas import topics
from perdure.schemas.events import InterruptInfo
from perdure.schemas.waits import OutcomeKind, Wait, WaitKind, WaitOutcome


@pytest.fixture(scope="module")
async def database(mongodb_uri: str) -> AsyncIterator[mongo.Database]:
    client = mongo.connect(mongodb_uri)
    name = f"batches_{uuid.uuid4().hex[:8]}"
    await mongo.ensure_indexes(client[name])
    yield client[name]
    await client.drop_database(name)
    client.close()


@pytest.fixture(scope="module")
async def producer(kafka_bootstrap: str) -> AsyncIterator[Producer]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    made = Producer(kafka_bootstrap, "test")
    yield made
    assert await made.close() == 0


@pytest.fixture
async def stage(database: mongo.Database, producer: Producer) -> AsyncIterator[Stage]:
    for name in ("batches", "batch_items", "runs", "threads", "workers", "waits"):
        await database[name].delete_many({})
    made = Stage(database, producer)
    yield made
    await made.close()


@pytest.fixture
def gateway(database: mongo.Database) -> Gateway:
    return Gateway(database, Store(database, Availability(), 5.0), 1000)


async def test_every_item_runs_once_and_no_more_than_may(stage: Stage) -> None:
    await stage.worker()
    batch_id = await stage.batch(35)
    await stage.batches.turn()
    assert len(await stage.pending(batch_id)) == 10
    await stage.batches.turn()
    assert len(await stage.pending(batch_id)) == 10
    batch = await stage.run_to_end(batch_id)
    assert (batch["status"], batch["counts"]["succeeded"]) == ("completed", 35)
    await stage.assert_once(batch_id)
    (told,) = await stage.told(batch_id)
    assert (told["type"], told["body"]["status"], told["body"]["succeeded"]) == (
        "perdure.batch.finished",
        "completed",
        35,
    )
    await stage.batches.turn()
    assert "open" not in await stage.document(batch_id)
    assert await stage.db.runs.count_documents({"batch_noted": False}) == 0


async def test_nothing_starts_while_no_worker_lives_and_some_places_stay_free(stage: Stage) -> None:
    batch_id = await stage.batch(50, concurrency=50)
    await stage.batches.turn()
    assert await stage.pending(batch_id) == []
    await stage.worker(slots=10)
    await stage.batches.turn()
    assert len(await stage.pending(batch_id)) == 8


async def test_batches_share_the_places(stage: Stage) -> None:
    await stage.worker(slots=25)
    first, second = await stage.batch(200, concurrency=100), await stage.batch(200, concurrency=100)
    await stage.batches.turn()
    assert [len(await stage.pending(one)) for one in (first, second)] == [10, 10]
    third = await stage.batch(200, concurrency=100)
    await stage.work(first)
    await stage.batches.turn()
    assert [len(await stage.pending(one)) for one in (first, second, third)] == [5, 10, 5]


async def test_a_leader_that_takes_over_registers_what_was_begun_and_sees_what_ended(stage: Stage) -> None:
    await stage.worker()
    batch_id = await stage.batch(30)
    await stage.batches.turn()
    runs = await stage.pending(batch_id)
    # The first leader died after it began items and before it registered them; an end was marked by nobody.
    await stage.db.runs.delete_many({"_id": {"$in": [run["_id"] for run in runs[:4]]}})
    await stage.db.threads.delete_many({"_id": {"$in": [run["thread_id"] for run in runs[:2]]}})
    await stage.end(runs[5], "success")
    await stage.db.runs.update_one({"_id": runs[5]["_id"]}, {"$unset": {"batch_noted": ""}})
    stage.batches = stage.leader()
    await stage.batches.turn()
    assert {run["_id"] for run in await stage.pending(batch_id)} >= {run["_id"] for run in runs[:4]}
    assert (await stage.counts(batch_id)) == {"succeeded": 1, "started": 10, "waiting": 19}
    batch = await stage.run_to_end(batch_id)
    assert batch["counts"]["succeeded"] == 30
    await stage.assert_once(batch_id)


async def test_two_leaders_at_once_do_nothing_twice(stage: Stage) -> None:
    await stage.worker()
    batch_id = await stage.batch(60, max_attempts=2)
    other = stage.leader()

    def outcome(number: int) -> str:
        return "error" if number % 7 == 0 else "success"

    async def over() -> bool:
        await stage.batches.turn()
        await other.turn()
        await stage.work(batch_id, outcome)
        return bool((await stage.document(batch_id))["status"] == "completed")

    await until(over, "the batch is completed")
    assert (await stage.document(batch_id))["counts"] == {
        "waiting": 0, "started": 0, "interrupted": 0, "succeeded": 52, "failed": 8, "cancelled": 0,
    }  # fmt: skip
    await stage.assert_once(batch_id)
    assert len(await stage.told(batch_id)) == 1


async def test_a_failed_item_is_tried_again_from_where_it_stopped(stage: Stage) -> None:
    await stage.worker()
    batch_id = await stage.batch(5, max_attempts=3)
    batch = await stage.run_to_end(batch_id, lambda number: "error" if number == 3 else "success")
    assert (batch["counts"]["succeeded"], batch["counts"]["failed"]) == (4, 1)
    failed = await stage.db.batch_items.find_one({"batch": batch_id, "status": "failed"})
    assert failed is not None
    assert (failed["number"], failed["attempt"], failed["error"]["message"]) == (3, 3, "no 3")
    runs = await stage.db.runs.find({"batch.number": 3}).sort("_id", 1).to_list(None)
    assert [run.get("resumes", [])[-1:] for run in runs] == [[], [runs[0]["_id"]], [runs[1]["_id"]]]
    await stage.assert_once(batch_id)


async def test_too_many_failures_pause_it_and_a_resume_forgives_them(stage: Stage, gateway: Gateway) -> None:
    await stage.worker()
    batch_id = await stage.batch(40, failure_threshold=0.1, concurrency=5)
    batch = await stage.run_to_end(batch_id, lambda _: "error")
    assert (batch["status"], batch["counts"]["failed"]) == ("paused", 5)
    assert batch["pause_reason"] == "5 of 40 items failed; 0.1 are allowed"
    (told,) = await stage.told(batch_id)
    assert (told["type"], told["body"]["action"]) == ("perdure.batch.threshold_reached", "paused")
    await gateway.resume(batch_id, "default")
    batch = await stage.run_to_end(batch_id, lambda _: "error")
    assert (batch["status"], batch["counts"]["failed"], batch["reached"]) == ("paused", 10, 2)
    await gateway.resume(batch_id, "default")
    batch = await stage.run_to_end(batch_id)
    assert (batch["status"], batch["counts"]["failed"], batch["counts"]["succeeded"]) == ("completed", 10, 30)
    ids = {entry["id"] for entry in await stage.told(batch_id)} | {told["id"]}
    assert ids == {
        f"batch:{batch_id}:perdure.batch.{name}" for name in ("finished", "threshold_reached:1", "threshold_reached:2")
    }


async def test_a_paused_batch_starts_nothing_and_lets_end_what_runs(stage: Stage, gateway: Gateway) -> None:
    await stage.worker()
    batch_id = await stage.batch(30)
    await stage.batches.turn()
    assert (await gateway.pause(batch_id, "default"))["status"] == "paused"
    assert (await gateway.pause(batch_id, "default"))["status"] == "paused"
    await stage.work(batch_id)
    await stage.batches.turn()
    assert await stage.counts(batch_id) == {"succeeded": 10, "waiting": 20}
    assert (await stage.document(batch_id))["counts"]["succeeded"] == 10
    await gateway.resume(batch_id, "default")
    assert (await stage.run_to_end(batch_id))["counts"]["succeeded"] == 30
    with pytest.raises(RequestProblem, match="is completed"):
        await gateway.pause(batch_id, "default")
    await stage.assert_once(batch_id)


async def test_what_a_cancelled_batch_has_left_is_cancelled_also_what_sleeps(stage: Stage, gateway: Gateway) -> None:
    await stage.worker()
    batch_id = await stage.batch(5_000)
    await stage.batches.turn()
    runs = await stage.pending(batch_id)
    asleep, awake = runs[0], runs[1]
    await stage.waits.open(waits_of(asleep))
    await stage.end(asleep, "interrupted")
    await stage.end(awake, "success")
    await stage.batches.turn()
    assert (await gateway.cancel(batch_id, "default"))["status"] == "cancelling"

    async def over() -> bool:
        await stage.batches.turn()
        query = {"batch.id": batch_id, "status": "pending", "cancel_requested_at": {"$exists": True}}
        for run in await stage.db.runs.find(query).to_list(None):
            await stage.end(run, "cancelled")
        return bool((await stage.document(batch_id))["status"] == "cancelled")

    await until(over, "the batch is cancelled")
    assert await stage.counts(batch_id) == {"succeeded": 1, "cancelled": 4_999}
    assert (await stage.document(batch_id))["counts"]["cancelled"] == 4_999
    assert await stage.db.waits.count_documents({"status": "closed"}) == 1
    assert await stage.db.runs.count_documents({"status": "pending"}) == 0
    (told,) = await stage.told(batch_id)
    assert told["body"]["status"] == "cancelled"
    assert (await gateway.cancel(batch_id, "default"))["status"] == "cancelled"


async def test_an_item_that_waits_is_in_progress_and_takes_no_place(stage: Stage) -> None:
    await stage.worker()
    batch_id = await stage.batch(12)
    await stage.batches.turn()
    runs = await stage.pending(batch_id)
    waits = [wait for run in runs for wait in waits_of(run)]
    await stage.waits.open(waits)
    for run in runs:
        await stage.end(run, "interrupted")
    await stage.batches.turn()
    assert await stage.counts(batch_id) == {"interrupted": 10, "started": 2}
    await stage.work(batch_id)
    await stage.batches.turn()
    assert (await stage.document(batch_id))["status"] == "running"
    for wait in waits:
        woken = await stage.waits.wake(
            wait, WaitOutcome(kind=OutcomeKind.SIGNAL, wait_id=wait["_id"], name="go", at=now())
        )
        await stage.end(woken.run, "success")
    batch = await stage.run_to_end(batch_id)
    assert batch["counts"]["succeeded"] == 12
    item = await stage.db.batch_items.find_one({"batch": batch_id, "number": 1})
    assert item is not None
    assert item["run_id"] != runs[0]["_id"]


async def test_failed_items_are_redriven_and_it_is_told_again(stage: Stage, gateway: Gateway) -> None:
    await stage.worker()
    batch_id = await stage.batch(20)
    await stage.run_to_end(batch_id, lambda number: "error" if number <= 3 else "success")
    assert len(await stage.told(batch_id)) == 1
    await stage.batches.turn()
    again = await gateway.redrive(batch_id, "default", ["failed"])
    assert (again["status"], "redrive" in again) == ("running", True)
    batch = await stage.run_to_end(batch_id, lambda number: "error" if number == 1 else "success")
    assert (batch["status"], batch["counts"]["succeeded"], batch["counts"]["failed"]) == ("completed", 19, 1)
    (told,) = await stage.told(batch_id)
    assert (told["id"], told["body"]["occurrence"]) == (f"batch:{batch_id}:perdure.batch.finished:2", 2)
    await stage.assert_once(batch_id)
    await gateway.redrive(batch_id, "default", ["failed"])
    await stage.run_to_end(batch_id)
    with pytest.raises(RequestProblem, match="no item that is failed"):
        await gateway.redrive(batch_id, "default", ["failed"])


async def test_an_item_that_somebody_retried_by_hand_takes_that_run(stage: Stage, gateway: Gateway) -> None:
    await stage.worker()
    batch_id = await stage.batch(2)
    await stage.run_to_end(batch_id, lambda number: "error" if number == 2 else "success")
    failed = await stage.db.runs.find_one({"batch.number": 2})
    assert failed is not None
    by_hand: Any = retry_document(failed, Packed(failed["payload"]), now() + timedelta(seconds=1))
    await stage.db.runs.insert_one(by_hand)
    await stage.end(by_hand, "success")
    await stage.batches.turn()
    assert (await stage.counts(batch_id)) == {"succeeded": 1, "failed": 1}
    await gateway.redrive(batch_id, "default", ["failed"])
    batch = await stage.run_to_end(batch_id)
    assert batch["counts"]["succeeded"] == 2
    item = await stage.db.batch_items.find_one({"batch": batch_id, "number": 2})
    assert item is not None
    assert item["run_id"] == by_hand["_id"]


async def test_a_request_that_is_large_only_with_its_batchs_is_stored(stage: Stage) -> None:
    """Each fits into its document; together they are over 1 MiB, and go into chunks as those of other runs do."""
    await stage.worker()
    large = [base64.b64encode(os.urandom(740_000)).decode() for _ in range(2)]
    config = {"configurable": {"large": large[0]}}
    batch_id = await stage.batch(2, defaults=pack({"config": config}).inline)
    request = {"input": {"n": 1, "large": large[1]}}
    await stage.db.batch_items.update_one({"batch": batch_id, "number": 1}, {"$set": {"payload": pack(request).inline}})
    await stage.batches.turn()
    run, small = await stage.pending(batch_id)
    assert (run["payload_chunks"] > 0, small["payload_chunks"]) == (True, 0)
    claims = Claims(stage.db, stage.runs, Availability(), lambda: "w", ["agent"])
    (claimed,) = (await claims.claim([run["thread_id"]], suspects=(), together=lambda _: 9)).won
    assert claimed.unreadable is None
    assert claimed.payload == {"config": config, **request}


async def test_a_clients_run_under_the_key_of_a_retry_is_not_taken_for_one(stage: Stage, gateway: Gateway) -> None:
    """Such keys are refused today; one that was given before must not become the item's attempt."""
    await stage.worker()
    batch_id = await stage.batch(1)
    await stage.run_to_end(batch_id, lambda _: "error")
    failed = await stage.db.runs.find_one({"batch.number": 1})
    assert failed is not None
    other: Any = retry_document(failed, Packed(failed["payload"]), now())
    for name in ("resumes", "batch"):
        del other[name]
    other["thread_id"] = "another"
    await stage.db.runs.insert_one(other)
    await gateway.redrive(batch_id, "default", ["failed"])
    batch = await stage.run_to_end(batch_id)
    assert batch["counts"]["succeeded"] == 1
    assert "batch" not in (await stage.db.runs.find_one({"_id": other["_id"]}) or {"batch": 1})
    (attempt,) = await stage.db.runs.find({"batch.attempt": 2}).to_list(None)
    assert attempt["resumes"] == [failed["_id"]]


async def test_a_scheduler_that_is_killed_again_and_again_loses_and_doubles_nothing(
    stage: Stage, mongodb_uri: str
) -> None:
    await stage.worker(slots=100)
    batch_id = await stage.batch(600, concurrency=60, max_attempts=2)
    environment = {
        **os.environ,
        "PERDURE_MONGODB_URI": f"{mongodb_uri.rsplit('/', 1)[0]}/{stage.db.name}",
        "PERDURE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
        "PERDURE_LEADER_TTL_S": "1",
        "PERDURE_BATCH_INTERVAL_S": "0.05",
        "PERDURE_BATCH_BACKOFF_S": "0",
        "PERDURE_BATCH_PATIENCE_S": "3600",
        "PERDURE_LOG_LEVEL": "CRITICAL",
    }

    def scheduler() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "perdure.scheduler"], env=environment)

    async def ended() -> int:
        await stage.work(batch_id, lambda number: "error" if number % 50 == 0 else "success")
        return await stage.db.batch_items.count_documents(
            {"batch": batch_id, "status": {"$in": ["succeeded", "failed"]}}
        )

    process = scheduler()
    try:
        for share in (100, 250, 400):
            await until(ended, f"{share} items have ended", holds=lambda count, share=share: count >= share)
            process.kill()
            process.wait()
            process = scheduler()
        await until(ended, "all items have ended", holds=lambda count: count >= 600)
        batch = await until(
            lambda: stage.document(batch_id),
            "the batch is completed",
            holds=lambda found: found["status"] == "completed",
        )
    finally:
        process.kill()
        process.wait()
    assert (batch["counts"]["succeeded"], batch["counts"]["failed"]) == (588, 12)
    assert [entry["type"] for entry in batch["outbox"]] == ["perdure.batch.finished"]
    await stage.assert_once(batch_id)


def waits_of(run: Any) -> Any:
    """What agent-step stores when a run ends at a wait."""
    wait = Wait(kind=WaitKind.EVENT, events=("go",))
    return wait_documents(run, [InterruptInfo(id=uuid.uuid4().hex, value=wait.value())], ["n"], now())
