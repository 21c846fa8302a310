"""Pure decisions about batches: places, turns, ends, rate and threshold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from perdure.chassis.payload import pack, unpack
from perdure.registry.batch_progress import (
    allowed_failures,
    counted,
    eta_s,
    over_threshold,
    rate_per_s,
    sampled,
)
from perdure.registry.batches import after_end, item_retry, item_run, run_id_of, thread_id_of
from perdure.scheduler.batch_rules import Window, deal, places
from perdure.schemas.thread_ids import shown_id

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
BATCH = {
    "_id": "b",
    "tenant": "t",
    "graph_id": "g",
    "metadata": {"team": "red", "batch_id": "somebody's"},
    "defaults": pack({"config": {"tags": ["all"]}, "context": {"k": 1}}).inline,
    "created_at": NOW,
}
ITEM: dict[str, Any] = {
    "_id": "b:000000007",
    "batch": "b",
    "number": 7,
    "status": "started",
    "payload": pack({"input": {"x": 1}, "context": {"k": 2}}).inline,
    "attempt": 1,
    "started_at": NOW,
}


def ended(status: str, **more: Any) -> dict[str, Any]:
    return {"_id": run_id_of(ITEM), "status": status, "batch": {"id": "b", "number": 7, "attempt": 1}} | more


def test_some_places_stay_free_for_single_runs() -> None:
    workers = [{"slots": 200}, {"slots": 10}, {}]
    assert places(workers, 0.8, 1000) == 168
    assert places(workers, 0.8, 100) == 100
    assert places([{"slots": 1}], 0.8, 100) == 1
    assert places([], 0.8, 100) == 0


def test_the_window_grows_while_the_workers_keep_up_and_shrinks_when_they_do_not() -> None:
    window, running = Window(0.3), 0
    assert window.after(0.0, 0, 500) == 20
    for _ in range(60):
        running = window.after(0.1, running, 500)
    assert running == 500
    assert window.after(5.0, running, 500) == 350
    assert window.after(5.0, 400, 500) == 350, "once a second"
    assert window.after(5.0, 100, 500) == 100, "nothing is started while somebody waits"
    assert window.after(0.0, 100, 500) == 350
    assert Window(0.3).after(0.0, 0, 0) == 0


def test_those_with_the_fewest_running_come_first() -> None:
    assert deal({"a": 100, "b": 0}, {"a": 50, "b": 50}, 30) == {"a": 0, "b": 30}
    assert deal({"a": 10, "b": 0}, {"a": 50, "b": 50}, 30) == {"a": 10, "b": 20}
    assert deal({}, {"a": 3, "b": 50, "c": 0}, 30) == {"a": 3, "b": 27, "c": 0}
    assert deal({}, {"a": 3}, 0) == deal({}, {"a": 3}, -5) == {"a": 0}


def test_ids_follow_from_the_item_and_sort_by_time() -> None:
    later = ITEM | {"started_at": NOW + timedelta(milliseconds=1), "attempt": 2}
    assert run_id_of(ITEM) == run_id_of(dict(ITEM)) < run_id_of(later)
    assert UUID(run_id_of(ITEM)).version == UUID(shown_id(thread_id_of(BATCH, 7))).version == 7
    assert thread_id_of(BATCH, 7).startswith("t~")
    assert len({thread_id_of(BATCH, number) for number in range(1000)}) == 1000


def test_a_run_has_the_items_payload_before_the_batchs() -> None:
    run, chunks = item_run(BATCH, ITEM, NOW)
    assert not chunks
    assert unpack(run["payload"]) == {"config": {"tags": ["all"]}, "context": {"k": 2}, "input": {"x": 1}}
    assert run["metadata"] == {"team": "red", "batch_id": "b", "batch_item": 7}
    assert (run["_id"], run["thread_id"], run["batch"]["attempt"]) == (run_id_of(ITEM), thread_id_of(BATCH, 7), 1)


def test_a_retry_takes_the_place_of_the_failed_run() -> None:
    failed: dict[str, Any] = dict(item_run(BATCH, ITEM, NOW)[0])
    begun = ITEM | {"attempt": 2, "started_at": NOW + timedelta(seconds=1)}
    again = item_retry(failed, begun, NOW, NOW + timedelta(seconds=4))
    assert again["_id"] == run_id_of(begun) != failed["_id"]
    assert (again["resumes"], again["thread_id"], again["payload"]) == (
        [failed["_id"]],
        failed["thread_id"],
        failed["payload"],
    )
    assert again["not_before"] == NOW + timedelta(seconds=4)
    assert again["batch"]["attempt"] == 2


@pytest.mark.parametrize(
    ("run", "item", "status"),
    [
        (ended("success"), {}, "succeeded"),
        (ended("interrupted"), {}, "interrupted"),
        (ended("cancelled"), {}, "cancelled"),
        (ended("error"), {}, "waiting"),
        (ended("timeout"), {}, "waiting"),
        (ended("error"), {"attempt": 2, "base": 1}, None),
        (ended("error", batch={"attempt": 3}), {"attempt": 3, "base": 1}, "failed"),
        (ended("success"), {"attempt": 2}, None),
        (ended("success"), {"status": "succeeded"}, None),
        (ended("error"), {"status": "waiting"}, None),
        (ended("cancelled", wait_id="w"), {}, None),
        (ended("cancelled", wait_id="w", cancel_requested_at=NOW), {}, "cancelled"),
        (ended("success", batch={"id": "b"}), {}, None),
        (ended("success", batch={"id": "b"}), {"status": "interrupted"}, "succeeded"),
    ],
)
def test_what_the_end_of_a_run_means(run: dict[str, Any], item: dict[str, Any], status: str | None) -> None:
    change = after_end(ITEM | item, run, max_attempts=2, retry=True)
    assert (change or {}).get("status") == status


def test_a_failed_item_is_not_tried_again_while_its_batch_is_cancelled() -> None:
    change = after_end(ITEM, ended("error", error={"type": "E", "message": "m" * 5000}), max_attempts=2, retry=False)
    assert change is not None
    assert (change["status"], len(change["error"]["message"]), change["retry_of"]) == ("failed", 2000, run_id_of(ITEM))


def test_the_run_that_ended_it_is_kept_where_it_is_another() -> None:
    assert after_end(ITEM, ended("success"), max_attempts=1, retry=True) == {"status": "succeeded"}
    woken = ended("success", _id="other", wait_id="w")
    assert after_end(ITEM, woken, max_attempts=1, retry=True) == {"status": "succeeded", "run_id": "other"}


def test_rate_and_time_left_are_of_the_last_minutes() -> None:
    counts = counted({"waiting": 90, "succeeded": 10})
    assert rate_per_s([], counts, NOW) is None
    samples = sampled([], counts, NOW)
    assert sampled(samples, counts, NOW + timedelta(seconds=4)) == samples
    later = counted({"waiting": 70, "started": 10, "succeeded": 15, "failed": 5})
    rate = rate_per_s(samples, later, NOW + timedelta(seconds=5))
    assert rate == 2.0
    assert eta_s(rate, later) == 40.0
    assert eta_s(0.0, later) is None
    assert eta_s(None, counted({"failed": 3})) == 0.0
    many = samples
    for second in range(0, 3600, 5):
        many = sampled(many, later, NOW + timedelta(seconds=second))
    assert len(many) == 60


@pytest.mark.parametrize(
    ("threshold", "total", "allowed"), [(0, 10, 0), (3, 10, 3), (0.1, 100, 10), (0.29, 100, 29), (0.5, 3, 1)]
)
def test_a_threshold_is_a_number_or_a_share(threshold: float, total: int, allowed: int) -> None:
    assert allowed_failures(threshold, total) == allowed
    batch = {"failure_threshold": threshold, "total": total}
    assert not over_threshold(batch, {"failed": allowed})
    assert over_threshold(batch, {"failed": allowed + 1})
    assert not over_threshold(batch | {"forgiven": 1}, {"failed": allowed + 1})
    assert not over_threshold(batch | {"failure_threshold": None}, {"failed": total})
