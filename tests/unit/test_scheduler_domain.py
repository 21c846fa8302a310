"""What a sweep does with an unsettled run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.scheduler.domain import Action, decide

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({"status": "pending", "updated_at": ago(29)}, Action.NOTHING),
        ({"status": "pending", "updated_at": ago(30)}, Action.PUBLISH_START),
        ({"status": "pending", "updated_at": ago(999), "swept_at": ago(5)}, Action.NOTHING),
        ({"status": "pending", "updated_at": ago(999), "thread_id": "busy"}, Action.NOTHING),
        ({"status": "pending", "updated_at": ago(99), "not_before": ago(-1)}, Action.NOTHING),
        ({"status": "pending", "updated_at": ago(1), "not_before": ago(0)}, Action.PUBLISH_START),
        ({"status": "pending", "updated_at": ago(1), "not_before": ago(0), "thread_id": "busy"}, Action.NOTHING),
        ({"status": "pending", "updated_at": ago(1), "not_before": ago(0), "swept_at": ago(1)}, Action.PUBLISH_START),
        ({"status": "pending", "updated_at": ago(9), "not_before": ago(9), "swept_at": ago(9)}, Action.NOTHING),
        ({"status": "success", "updated_at": ago(14)}, Action.NOTHING),
        ({"status": "success", "updated_at": ago(15)}, Action.PUBLISH_EVENTS),
        ({"status": "interrupted", "updated_at": ago(15)}, Action.PUBLISH_EVENTS),
        ({"status": "cancelled", "updated_at": ago(15)}, Action.PUBLISH_EVENTS),
    ],
)
def test_decisions(run: dict[str, Any], expected: Action) -> None:
    assert (
        decide(
            {"thread_id": "t"} | run,
            now=NOW,
            busy_threads={"busy"},
            publish_grace=timedelta(seconds=30),
            settle_grace=timedelta(seconds=15),
        )
        is expected
    )
