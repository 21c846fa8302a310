"""Batches in the whole system: workers and the scheduler killed, single runs beside them, items that wait, redrive."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(300)

NDJSON = {"Content-Type": "application/x-ndjson"}


def upload(system: Any, graph: str, inputs: list[Any], **options: Any) -> Any:
    content = b"".join(json.dumps({"input": one}).encode() + b"\n" for one in inputs)
    answer = system.http.post("/batches", params={"assistant_id": graph, **options}, content=content, headers=NDJSON)
    assert answer.status_code == 202, answer.text
    return answer.json()


def batch_of(system: Any, batch: Any) -> Any:
    return system.http.get(f"/batches/{batch['batch_id']}").raise_for_status().json()


def results_of(system: Any, batch: Any, **params: Any) -> list[Any]:
    answer = system.http.get(f"/batches/{batch['batch_id']}/results", params=params).raise_for_status()
    return [json.loads(line) for line in answer.text.splitlines()]


def until_status(system: Any, batch: Any, *statuses: str, timeout_s: float = 120) -> Any:
    return until_blocking(
        lambda: batch_of(system, batch),
        f"the batch is {statuses}",
        timeout_s,
        holds=lambda now: now["status"] in statuses,
    )


def until_ended(system: Any, batch: Any, count: int) -> None:
    until_blocking(
        lambda: batch_of(system, batch), f"{count} items have ended", 90, holds=lambda now: now["ended"] >= count
    )


def test_every_item_runs_once_whatever_is_killed(start_system: Any, tmp_path: Path) -> None:
    system = start_system(names=("gateway", "agent_step", "agent_step", "scheduler"))
    file = tmp_path / "effects"
    batch = upload(system, "effects", [{"n": 3, "delay_s": 0.25, "file": str(file)}] * 200, concurrency=40)
    worker, scheduler = system.services["agent_step"], system.services["scheduler"]
    until_ended(system, batch, 20)
    worker.kill()
    seen = results_of(system, batch)
    assert 20 <= len(seen) < 200, "results are there while it runs"
    worker.start(wait=False)
    until_ended(system, batch, 60)
    scheduler.kill()
    scheduler.start(wait=False)
    until_ended(system, batch, 110)
    worker.kill()
    worker.start(wait=False)
    done = until_status(system, batch, "completed")
    assert done["counts"]["succeeded"] == 200
    rows = results_of(system, batch)
    assert [row["number"] for row in rows] == list(range(1, 201))
    assert {row["status"] for row in rows} == {"succeeded"}
    assert len({row["thread_id"] for row in rows}) == 200
    assert system.db.runs.count_documents({"batch.id": batch["batch_id"]}) == 200
    executed = Counter(file.read_text().splitlines())
    assert set(executed) == {f"{row['thread_id']} {step}" for row in rows for step in (1, 2, 3)}
    # A worker that is killed inside a node runs that node again, and no other.
    assert executed.total() <= 600 + 2 * 40
    system.assert_linear([row["thread_id"] for row in rows])
    until_blocking(
        lambda: system.db.batches.find_one({"_id": batch["batch_id"], "outbox": [], "open": {"$exists": False}}),
        "nothing of the batch is left to publish",
    )


def test_single_runs_are_not_queued_behind_a_batch(system: Any) -> None:
    alone = start_delays_s(system)
    batch = upload(system, "chain", [{"n": 3, "delay_s": 0.02}] * 3_000, concurrency=1_000)
    until_ended(system, batch, 60)
    beside = start_delays_s(system)
    running = batch_of(system, batch)
    system.http.post(f"/batches/{batch['batch_id']}/cancel").raise_for_status()
    print(f"start of single runs, ms: alone {milliseconds(alone)}, beside a batch {milliseconds(beside)}; {running}")
    assert running["counts"]["waiting"] > 0, "the batch was over before"
    assert running["rate_per_s"] > 0
    assert running["eta_s"] > 0
    assert beside[17] < alone[10] + 1.0
    over = until_status(system, batch, "cancelled")
    assert over["counts"]["cancelled"] + over["counts"]["succeeded"] == 3_000


def start_delays_s(system: Any) -> list[float]:
    """How long 20 runs, one after the other, wait until a worker begins with them; sorted."""
    found = []
    for _ in range(20):
        made = system.start("chain", {"n": 1})
        query = {"_id": made["run_id"], "started_at": {"$exists": True}}
        run = until_blocking(lambda query=query: system.db.runs.find_one(query), "a worker begins with the run")
        found.append((run["started_at"] - run["created_at"]).total_seconds())
    return sorted(found)


def milliseconds(found: list[float]) -> str:
    return f"p50 {found[10] * 1000:.0f}, p90 {found[17] * 1000:.0f}, most {found[19] * 1000:.0f}"


def test_an_item_that_asks_is_answered_and_goes_on(system: Any) -> None:
    told = {
        "scope": "tenant",
        "kinds": ["batch_finished"],
        "channel": "webhook",
        "target": "https://receiver.invalid/batches",
    }
    subscribed = system.http.post("/subscriptions", json=told)
    assert subscribed.status_code == 201, subscribed.text
    batch = upload(system, "asker", [{}, {}], metadata='{"team": "red"}')
    until_blocking(
        lambda: batch_of(system, batch)["counts"]["interrupted"] == 2,
        "two items ask",
        explain=lambda: batch_of(system, batch),
    )
    assert batch_of(system, batch)["status"] == "running"
    for wait in list(system.db.waits.find({"batch.id": batch["batch_id"]})):
        answered = system.http.post(f"/approvals/{wait['_id']}", json={"answer": {"approved": True}, "by": "ann"})
        assert answered.status_code in (200, 202), answered.text
    assert until_status(system, batch, "completed")["counts"]["succeeded"] == 2
    (first, _) = results_of(system, batch)
    run = system.http.get(f"/threads/{first['thread_id']}/runs/{first['run_id']}").raise_for_status().json()
    assert (run["status"], run["metadata"]["team"], run["metadata"]["batch_item"]) == ("success", "red", 1)
    assert first["values"] == system.values(first["thread_id"])
    query = {"data.batch_id": batch["batch_id"]}
    until_blocking(lambda: system.db.deliveries.count_documents(query), "the notice of the batch")
    until_blocking(
        lambda: "open" not in (system.db.batches.find_one({"_id": batch["batch_id"]}) or {"open": 1}),
        "the batch is closed",
    )
    assert system.db.deliveries.count_documents(query) == 1


def test_failed_items_go_on_from_their_last_checkpoint_when_they_are_redriven(system: Any, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    batch = upload(system, "fails", [{"after": 2, "repaired": str(mended)}] * 4, failure_threshold=0)
    paused = until_status(system, batch, "paused", "completed")
    assert paused["counts"]["failed"] >= 1
    until_ended(system, batch, 4)
    mended.touch()
    system.http.post(f"/batches/{batch['batch_id']}/redrive").raise_for_status()
    if until_status(system, batch, "paused", "running", "completed")["status"] == "paused":
        system.http.post(f"/batches/{batch['batch_id']}/resume").raise_for_status()
    assert until_status(system, batch, "completed")["counts"]["succeeded"] == 4
    for row in results_of(system, batch):
        assert row["values"]["log"] == ["good 1", "good 2", "repaired"], "a step ran again"
        assert row["attempts"] == 2
