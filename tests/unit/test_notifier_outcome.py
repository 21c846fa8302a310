"""What an attempt leaves its delivery in: delivered, dead, dropped or pending again; nothing else."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.notifier.channels.result import Result, dead, down, dropped, short
from perdure.notifier.outcome import Attempt, change_of, let_go, state_after
from perdure.notifier.preparing import unwanted
from perdure.notifier.settings import NotifierSettings
from perdure.schemas.notices import DeliveryState

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
SETTINGS = NotifierSettings(instance="here")
RESULTS = st.builds(
    Result,
    delivered=st.booleans(),
    final=st.booleans(),
    status=st.none() | st.integers(100, 599),
    reason=st.none() | st.text(max_size=20),
    retry_after_s=st.none() | st.floats(0, 1e6) | st.just(math.inf),
    dropped=st.booleans(),
)


def delivery(**more: Any) -> dict[str, Any]:
    return {
        "_id": "msg_1",
        "subscription_id": "s1",
        "kind": "completed",
        "tried": 0,
        "failures": 0,
        "attempts": [],
        "give_up_at": NOW + timedelta(days=3),
        "patience_s": 259200.0,
        "thread_id": "th",
        "run_id": "r",
        "seq": 3,
        "data": {},
        **more,
    }


def attempt(result: Result, at: datetime = NOW) -> Attempt:
    return Attempt(result, at, at, 0.0123)


@given(RESULTS, st.integers(0, 100), st.integers(-1000, 1000))
def test_a_delivery_ends_or_is_due_again(result: Result, failures: int, left_s: int) -> None:
    told = delivery(failures=failures, give_up_at=NOW + timedelta(seconds=left_s))
    change = change_of(told, attempt(result), SETTINGS, lambda: 0.5)
    state = state_after(told, attempt(result))
    if state is DeliveryState.PENDING:
        assert not change.ended
        assert NOW < change.fields["due_at"] <= told["give_up_at"]
        assert "expires_at" not in change.fields
    else:
        assert change.ended
        assert "due_at" not in change.fields
        assert change.fields["expires_at"] > NOW
    (record,) = change.fields["attempts"]
    assert (record["number"], record["latency_ms"], record["instance"]) == (1, 12.3, "here")


def test_the_last_fifty_attempts_are_kept() -> None:
    told = delivery(tried=60, attempts=[{"number": n} for n in range(11, 61)])
    kept = change_of(told, attempt(down("no")), SETTINGS, lambda: 0.5).fields["attempts"]
    assert [one["number"] for one in kept] == [*range(12, 62)]


@pytest.mark.parametrize(
    ("result", "at", "state", "reason"),
    [
        (Result(delivered=True, status=204), NOW, "delivered", None),
        (down("no answer"), NOW, "pending", "no answer"),
        (down("no answer"), NOW + timedelta(days=3), "dead", "given up after 3 days and 1 attempts: no answer"),
        (dead("gone"), NOW, "dead", "gone"),
        (dropped("answered meanwhile"), NOW, "dropped", "answered meanwhile"),
    ],
)
def test_states_and_reasons(result: Result, at: datetime, state: str, reason: str | None) -> None:
    change = change_of(delivery(), attempt(result, at), SETTINGS, lambda: 0.5)
    assert change.fields.get("state", "pending") == state
    assert change.fields["reason"] == reason
    assert change.fields.get("told", True) is (state not in ("delivered", "dead"))


def test_what_is_of_no_thread_has_no_note() -> None:
    assert change_of(delivery(seq=None), attempt(dead("x")), SETTINGS, lambda: 0.5).fields["told"] is True


def test_a_retry_keeps_quiet_hours() -> None:
    quiet = {"timezone": "UTC", "start": "12:00", "end": "13:00", "urgent": []}
    change = change_of(delivery(quiet=quiet), attempt(down("no")), SETTINGS, lambda: 0.5)
    assert change.fields["due_at"] == NOW + timedelta(hours=1)


def test_what_was_left_alone_for_all_of_its_time_is_dead() -> None:
    change = let_go(delivery(tried=2, reason="no answer"), NOW)
    assert change["$set"]["reason"] == "given up after 3 days and 2 attempts: no answer"
    assert change["$set"]["told"] is False


def test_a_reason_is_one_clean_line() -> None:
    assert short("a\r\nb\x00\x1b[31m\u2028c") == "a b [31m c"
    assert len(short("x" * 10_000)) == 500


QUESTION = {"wait_id": "th:i", "kind": "approval_wanted", "data": {"escalations": 1}}
WAIT = {"status": "open", "escalations": 1}


@pytest.mark.parametrize(
    ("wait", "kind", "reason"),
    [
        (WAIT, "approval_wanted", None),
        (None, "approval_wanted", None),
        (None, "approval_expiring", "the question is gone"),
        (WAIT | {"status": "answered"}, "approval_wanted", "answered meanwhile"),
        (WAIT | {"status": "closed"}, "approval_wanted", "the agent went on meanwhile"),
        (WAIT | {"escalations": 2}, "approval_wanted", "the question went to the next person meanwhile"),
        (WAIT | {"due_at": NOW - timedelta(days=9999)}, "approval_wanted", "the question has expired"),
        (WAIT | {"due_at": NOW + timedelta(days=9999)}, "approval_wanted", None),
    ],
)
def test_a_question_is_told_while_it_is_open(wait: Any, kind: str, reason: str | None) -> None:
    told = delivery(**QUESTION | {"kind": kind})
    result = unwanted(told, {"state": "active"}, wait)
    assert (result.reason if result else None) == reason


def test_subscriptions_that_are_gone_disabled_or_paused() -> None:
    removed = unwanted(delivery(), None, None)
    assert removed is not None
    assert removed.dropped
    disabled = unwanted(delivery(), {"state": "disabled", "disabled_reason": "answered 410"}, None)
    assert disabled is not None
    assert (disabled.dropped, "answered 410" in (disabled.reason or "")) == (False, True)
    assert unwanted(delivery(), {"state": "paused"}, None) is None, "what was taken before is still sent"
    assert unwanted(delivery(subscription_id="run:r1"), None, None) is None


def test_claims_outlast_attempts() -> None:
    with pytest.raises(ValueError, match="NOTIFIER_CLAIM_S"):
        NotifierSettings(notifier_claim_s=10, notifier_timeout_s=10)
