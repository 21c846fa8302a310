"""The body of a webhook in the Agent Server's format."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from perdure.chassis.payload import pack
from perdure.notifier.run_bodies import STATUSES, flat_run
from perdure.schemas.notice_http import format_problem
from perdure.schemas.notices import RUN_ENDS, Channel, NoticeKind

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
DATA = {
    "assistant_id": "a-1",
    "metadata": {"team": "red"},
    "error": {"type": "ValueError", "message": "no", "node": "n"},
}
DELIVERY: dict[str, Any] = {"run_id": "r", "thread_id": "t", "kind": "failed", "occurred_at": NOW, "data": DATA}
RUN: dict[str, Any] = {
    "created_at": NOW, "updated_at": NOW, "started_at": NOW, "ended_at": NOW, "payload": pack({"input": 1}).inline,
    "error": {"type": "KeyError", "message": "'x'", "traceback": "secret"}, "multitask_strategy": "reject",
}  # fmt: skip


def test_a_run_is_posted_flat() -> None:
    body = flat_run(DELIVERY, RUN, {"log": []})
    sent_at = body.pop("webhook_sent_at")
    assert sent_at.tzinfo is not None
    assert body == {
        "run_id": "r", "thread_id": "t", "assistant_id": "a-1", "created_at": NOW, "updated_at": NOW, "status": "error",
        "metadata": {"team": "red"}, "kwargs": {"input": 1}, "multitask_strategy": "reject", "run_started_at": NOW,
        "run_ended_at": NOW, "values": {"log": []}, "error": {"error": "KeyError", "message": "'x'"},
    }  # fmt: skip


def test_what_is_gone_is_left_out() -> None:
    body = flat_run(DELIVERY, {}, None)
    assert (body["values"], body["kwargs"], body["run_ended_at"]) == (None, None, NOW)
    assert body["error"] == {"error": "ValueError", "message": "no"}


def test_every_end_has_a_status() -> None:
    assert STATUSES.keys() == RUN_ENDS


@pytest.mark.parametrize(
    ("kinds", "channel", "digest_s", "says"),
    [
        (["completed", "approval_wanted"], "webhook", None, None),
        (["stuck"], "webhook", None, "ends of runs"),
        (["completed"], "slack", None, "not of slack"),
        (["completed"], "webhook", 60.0, "digest_s"),
    ],
)
def test_where_the_format_fits(kinds: list[str], channel: str, digest_s: float | None, says: str | None) -> None:
    problem = format_problem("langgraph", [NoticeKind(kind) for kind in kinds], Channel(channel), digest_s)
    assert (problem is None) if says is None else (says in str(problem))
    assert format_problem("standard", [NoticeKind.STUCK], Channel.SLACK, 60.0) is None
