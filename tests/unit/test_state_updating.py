"""State updates, pruning and times to live: what is recorded, without any server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langgraph.types import Command, Send

from perdure.agent_step.claims import Claimed
from perdure.agent_step.domain import Outcome
from perdure.agent_step.history import Beginning
from perdure.agent_step.updating import RefusedError, concluded, stood_before, supersteps_of
from perdure.archive.pruning import spans
from perdure.gateway.resources.threads.living import ttl_mark, ttl_view
from perdure.notifier.domain import told_by
from perdure.schemas.documents import RunStatus
from perdure.schemas.events import ErrorInfo, InterruptInfo, RunFailed
from perdure.schemas.state_updates import CANCELLED, MOVED_ON
from perdure.schemas.thread_http import ThreadPatch

RUN: Any = {"_id": "u", "thread_id": "t", "epoch": 1, "kind": "update", "at_seq": 7}
ERROR = {"type": "ValueError", "message": "no", "node": "a", "traceback": "..."}
QUESTION = {"id": "i", "value": "go on?"}


def thread(**fields: Any) -> Any:
    return {"_id": "t", "seq": 7, "head": "c7", "next": [], "interrupts": [], "error": None, "status": "idle", **fields}


def claimed(**fields: Any) -> Claimed:
    return Claimed(RUN, thread(**fields), {})


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, RunStatus.SUCCESS),
        ({"head": None, "seq": 0}, RunStatus.CANCELLED),
        ({"status": "error", "error": ERROR, "next": ["a"]}, RunStatus.ERROR),
        ({"status": "interrupted", "interrupts": [QUESTION], "next": ["a"]}, RunStatus.INTERRUPTED),
    ],
)
def test_a_refused_update_leaves_the_thread_as_it_stood(fields: dict[str, Any], status: RunStatus) -> None:
    failed = Outcome(RunStatus.ERROR, ErrorInfo(type="ValueError", message="not this"), head="c8", next=("z",))
    outcome = concluded(failed, claimed(**fields), Beginning(8, 9, "c7"))
    stored = thread(**fields)
    assert (outcome.status, outcome.head, outcome.next) == (status, stored["head"], tuple(stored["next"]))
    assert outcome.undone
    assert outcome.interrupts == tuple(InterruptInfo.model_validate(one) for one in stored["interrupts"])
    assert (outcome.error.model_dump() if outcome.error else None) == stored["error"]
    assert outcome.refused is not None
    assert (outcome.refused["type"], outcome.refused["message"]) == ("ValueError", "not this")


def test_the_history_says_it_better_than_the_document() -> None:
    before = Outcome(RunStatus.TIMEOUT, ErrorInfo(type="TimeoutError", message="late"), head="c9", next=("b",))
    assert stood_before(claimed(), Beginning(8, 9, "c9", before=before)) is before


def test_why_an_update_was_not_made() -> None:
    cancelled = concluded(Outcome(RunStatus.CANCELLED), claimed(), Beginning(8, 9, "c7"))
    assert cancelled.refused is not None
    assert cancelled.refused["type"] == CANCELLED
    error = RefusedError(MOVED_ON, "somebody else")
    info = ErrorInfo(type="perdure.agent_step.updating.RefusedError", message="somebody else", traceback="x")
    overtaken = concluded(Outcome(RunStatus.ERROR, info, exception=error), claimed(), Beginning(8, 9, "c7"))
    assert overtaken.refused is not None
    assert (overtaken.refused["type"], overtaken.refused["traceback"]) == (MOVED_ON, None)


@pytest.mark.parametrize("status", [RunStatus.SUCCESS, RunStatus.INTERRUPTED])
def test_the_end_of_an_update_is_read_back_as_it_was_recorded(status: RunStatus) -> None:
    made = {"checkpoint": {"checkpoint_ns": "", "checkpoint_id": "c8", "checkpoint_map": {}}}
    waiting = ("a",) if status is RunStatus.INTERRUPTED else ()
    outcome = Outcome(status, head="c8", next=waiting, steps=0, update=made)
    assert concluded(outcome, claimed(), Beginning(8, 9, "c7")) is outcome
    entry = {"event": status.value, "ev": outcome.event_fields()}
    assert Outcome.from_entry(entry) == outcome
    assert entry["ev"]["quiet"]
    refusal = concluded(Outcome(RunStatus.CANCELLED), claimed(), Beginning(8, 9, "c7"))
    again = Outcome.from_entry({"event": refusal.status.value, "ev": refusal.event_fields(), "undone": True})
    assert again == refusal


def test_nobody_is_told_of_a_quiet_event() -> None:
    fields: Any = {
        "tenant": "t", "thread_id": "th", "run_id": "r", "graph_id": "g", "assistant_id": "a", "seq": 3, "epoch": 1,
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC), "error": ERROR,
    }  # fmt: skip
    assert len(told_by(RunFailed(**fields))) == 1
    assert told_by(RunFailed(**fields, quiet=True)) == []


def test_updates_become_those_of_langgraph() -> None:
    command = {"update": {"n": 1}, "goto": [{"node": "a", "input": 2}, "b"]}
    made = supersteps_of(
        [[{"values": {"n": 1}, "as_node": "a"}], [{"command": command, "as_node": "b"}, {"values": None}]]
    )
    assert [[one.as_node for one in superstep] for superstep in made] == [["a"], ["b", None]]
    assert made[0][0].values == {"n": 1}
    assert made[1][0].values == Command(update={"n": 1}, goto=[Send("a", 2), "b"])
    assert made[1][1].values is None


def test_numbers_become_spans() -> None:
    assert spans([]) == []
    assert spans([3]) == [(3, 3)]
    assert spans([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]


@pytest.mark.parametrize(
    ("given", "strategy"),
    [(5, "delete"), ({"ttl": 5}, "delete"), ({"ttl": 5, "strategy": "keep_latest"}, "keep_latest")],
)
def test_a_time_to_live_begins_now(given: Any, strategy: str) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    wanted = ThreadPatch.model_validate({"ttl": given}).ttl
    assert wanted is not None
    mark = ttl_mark(wanted, moment)
    end = moment + timedelta(minutes=5)
    assert mark == {"strategy": strategy, "minutes": 5, "expires_at": end, "due_at": end}
    assert ttl_view({"ttl": mark}) == {"strategy": strategy, "ttl_minutes": 5, "expires_at": end}
    assert ttl_view({}) is None
