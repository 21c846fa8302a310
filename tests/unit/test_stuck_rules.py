"""Who is stuck, what is said about it, and when it is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.scheduler.stuck_rules import UNKNOWN_ALLOWANCE, over, overdue, poisoned, unclaimed, wait_overdue
from perdure.schemas.events import StuckCode

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GRACE = timedelta(seconds=5)
RUN: dict[str, Any] = {
    "_id": "r",
    "thread_id": "t",
    "graph_id": "g",
    "epoch": 2,
    "updated_at": NOW,
    "status": "running",
}


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def entry(**fields: Any) -> dict[str, Any]:
    return {"kind": "c", "seq": 7, "at": ago(700), "ev": {"next": ["Login"], "expected_by": ago(100)}} | fields


def test_an_overdue_superstep_is_told_with_place_and_time() -> None:
    found = overdue(RUN, entry(), NOW, GRACE, "worker box (pid 7)")
    assert found is not None
    assert (found.code, found.cause, found.after, found.nodes) == (StuckCode.OVERDUE, "overdue:r:7", 7, ("Login",))
    assert (found.since, found.expected_by) == (ago(700), ago(100))
    for part in ("node Login", "11 min 40 s", "11:58:20 UTC", "worker box (pid 7)"):
        assert part in found.reason
    assert found.mark(NOW)["node"] == "Login"


def test_in_time_within_the_grace_and_under_recovery_nobody_is_stuck() -> None:
    assert overdue(RUN, entry(ev={"expected_by": ago(4)}), NOW, GRACE, "w") is None
    assert overdue(RUN, {"kind": "f", "seq": 8}, NOW, GRACE, "w") is None


def test_an_entry_that_says_nothing_has_a_default() -> None:
    assert overdue(RUN, entry(at=NOW - UNKNOWN_ALLOWANCE, ev={}), NOW, GRACE, "w") is None
    assert overdue(RUN, entry(at=NOW - UNKNOWN_ALLOWANCE - GRACE, ev={}), NOW, GRACE, "w") is not None


@pytest.mark.parametrize(
    ("served", "age", "words"),
    [(False, 59, None), (False, 60, "no living worker serves graph 'g'"), (True, 60, None), (True, 3600, "busy")],
)
def test_a_run_that_nobody_takes(served: bool, age: float, words: str | None) -> None:
    run = RUN | {"status": "pending", "updated_at": ago(age)}
    found = unclaimed(
        run, {"seq": 3, "next": ["a"]}, served, NOW,
        unserved_after=timedelta(seconds=60), queued_after=timedelta(hours=1),
    )  # fmt: skip
    assert (found is None) == (words is None)
    if found is not None and words is not None:
        assert words in found.reason
        assert (found.code, found.cause, found.after) == (StuckCode.UNCLAIMED, "unclaimed:r:2", 3)


def test_a_back_off_is_not_held_against_a_run() -> None:
    run = RUN | {"status": "pending", "updated_at": ago(100), "not_before": ago(50)}
    assert unclaimed(run, {}, False, NOW, unserved_after=timedelta(seconds=60), queued_after=timedelta(hours=1)) is None


def test_a_wait_that_the_clock_forgot() -> None:
    wait = {"_id": "t:i", "nodes": ["ask"], "due_at": ago(60)}
    assert wait_overdue(wait, RUN | {"ended_seq": 9}, NOW, timedelta(seconds=61)) is None
    found = wait_overdue(wait, RUN | {"ended_seq": 9}, NOW, timedelta(seconds=60))
    assert found is not None
    assert (found.code, found.cause, found.wait_id, found.after) == (StuckCode.WAIT_OVERDUE, "wait:t:i", "t:i", 9)


def test_when_it_is_over() -> None:
    late = overdue(RUN, entry(), NOW, GRACE, "w")
    assert late is not None
    mark = late.mark(NOW)
    assert not over(mark, RUN, 7, wait_open=False)
    assert over(mark, RUN, 8, wait_open=False)
    assert over(mark, None, 7, wait_open=False)
    parked = poisoned(RUN | {"ended_at": NOW, "ended_seq": 7, "error": {"message": "why"}, "next": ["a"]})
    assert parked.reason == "why"
    assert not over(parked.mark(NOW), RUN, 7, wait_open=False)
    assert over(parked.mark(NOW), RUN, 8, wait_open=False), "a retry has started"
    waiting = wait_overdue({"_id": "t:i", "nodes": [], "due_at": ago(99)}, RUN | {"ended_seq": 9}, NOW, GRACE)
    assert waiting is not None
    assert not over(waiting.mark(NOW), RUN, 10, wait_open=True)
    assert over(waiting.mark(NOW), RUN, 9, wait_open=False)
    pending = unclaimed(RUN | {"updated_at": ago(99)}, {}, False, NOW, unserved_after=GRACE, queued_after=GRACE)
    assert pending is not None
    assert not over(pending.mark(NOW), RUN | {"status": "pending"}, 0, wait_open=False)
    assert over(pending.mark(NOW), RUN | {"status": "cancelled"}, 0, wait_open=False)
