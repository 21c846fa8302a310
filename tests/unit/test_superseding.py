"""Which active runs of a thread a later one ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.registry.superseding import superseded
from perdure.scheduler.domain import Action, decide

START = datetime(2026, 11, 30, tzinfo=UTC)


def run(
    number: int, strategy: str = "enqueue", thread: str = "t", status: str = "pending", **more: Any
) -> dict[str, Any]:
    at = START + timedelta(seconds=number)
    fields = {"_id": str(number), "thread_id": thread, "created_at": at, "status": status}
    return fields | {"multitask_strategy": strategy} | more


def ended(*runs: dict[str, Any]) -> dict[str, list[str]]:
    return {action.value: sorted(one["_id"] for one in found) for action, found in superseded(runs).items()}


ASKED: dict[str, Any] = {"cancel_requested_at": START}


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
def test_the_active_runs_that_were_registered_earlier_end(strategy: str) -> None:
    earlier = [run(1, status="running"), run(2), run(3, status="success"), run(1, thread="other")]
    assert ended(run(5), run(4, strategy), *earlier) == {strategy: ["1", "2"]}


@pytest.mark.parametrize("strategy", ["enqueue", "reject"])
def test_other_strategies_end_nothing(strategy: str) -> None:
    assert ended(run(1), run(2, strategy)) == {}


def test_nothing_is_asked_for_twice() -> None:
    assert ended(run(1, **ASKED), run(2, "interrupt")) == {}
    assert ended(run(1, **ASKED, cancel_action="rollback"), run(2, "rollback")) == {}
    assert ended(run(1, **ASKED, cancel_action="rollback"), run(2, "interrupt")) == {}


def test_an_interrupted_run_can_still_be_undone() -> None:
    assert ended(run(1, **ASKED), run(2, "interrupt"), run(3, "rollback")) == {"rollback": ["1", "2"]}
    assert ended(run(1), run(2, "rollback"), run(3, "interrupt")) == {"rollback": ["1"], "interrupt": ["2"]}


def test_one_that_has_ended_ends_no_others() -> None:
    assert ended(run(1), run(2, "interrupt", status="cancelled")) == {}


@pytest.mark.parametrize(("strategy", "action"), [("enqueue", Action.NOTHING), ("rollback", Action.PUBLISH_START)])
def test_the_sweep_publishes_its_start_although_the_thread_is_busy(strategy: str, action: Action) -> None:
    grace = timedelta(seconds=30)
    pending = run(1, strategy, updated_at=START)
    late = START + timedelta(minutes=1)
    assert decide(pending, now=late, busy_threads={"t"}, publish_grace=grace, settle_grace=grace) is action
