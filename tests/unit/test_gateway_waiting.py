"""Signals and questions as the gateway shows them, without servers."""

from __future__ import annotations

import base64
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from perdure.gateway.answers import views
from perdure.gateway.auth.caller import KnownSignature
from perdure.gateway.http.cursors import cursor_of, read_cursor
from perdure.gateway.resources import signals
from perdure.registry.waits import Woken
from perdure.schemas import http
from perdure.schemas.waits import OutcomeKind, Question, WaitOutcome

MOMENT = datetime(2026, 11, 24, 8, 30, 0, 123000, tzinfo=UTC)


def wait(status: str = "open", kind: str | None = None, **fields: Any) -> dict[str, Any]:
    outcome = {"outcome": {"kind": kind, "at": MOMENT.isoformat(), "payload": 7}} if kind else {}
    return {
        "_id": "t:i",
        "thread_id": "t",
        "run_id": "r",
        "graph_id": "g",
        "assistant_id": "a",
        "opened_at": MOMENT,
        "question": Question(question="May I?").model_dump(mode="json"),
        "status": status,
        **outcome,
        **fields,
    }


@pytest.mark.parametrize(
    ("status", "kind", "shown"),
    [
        ("open", None, "open"),
        ("closed", None, "closed"),
        ("answered", "answer", "answered"),
        ("answered", "due", "expired"),
        ("answered", "signal", "closed"),
        ("answered", "verdict", "closed"),
        ("answered", None, "closed"),
    ],
)
def test_a_status_tells_an_answer_from_the_rest(status: str, kind: str | None, shown: str) -> None:
    assert views.approval_status(wait(status, kind)) == shown
    assert http.Approval.model_validate(views.approval_view(wait(status, kind))).status == shown


def test_only_an_answer_is_shown_as_one() -> None:
    answered = views.approval_view(wait("answered", "answer"))["outcome"]
    assert answered["answer"] == 7
    assert views.approval_view(wait("answered", "signal"))["outcome"]["answer"] is None
    assert http.ApprovalOutcome.model_validate(answered).kind == "answer"


def woken(kind: OutcomeKind = OutcomeKind.ANSWER, **fields: Any) -> Woken:
    return Woken({"_id": "w"}, WaitOutcome(kind=kind, wait_id="t:i", at=MOMENT, **fields), won=False)


def test_what_the_waking_run_says_goes_before_the_projection() -> None:
    view = views.approval_view(views.as_woken(wait(due_at=MOMENT), woken(payload=1, by="ann")))
    assert (view["status"], view["waking_run_id"], view["expires_at"]) == ("answered", "w", None)
    assert (view["outcome"]["by"], view["outcome"]["answer"]) == ("ann", 1)


@pytest.mark.parametrize(
    ("first", "answer", "by", "repeat"),
    [
        (woken(payload={"a": 1, "b": 2}, by="ann"), {"b": 2, "a": 1}, "ann", True),
        (woken(payload=None, by="ann"), None, "ann", True),
        (woken(payload=1, by="ann"), True, "ann", False),
        (woken(payload=1, by="ann"), 1.0, "ann", False),
        (woken(payload=1, by="ann"), 1, "bob", False),
        (woken(OutcomeKind.DUE), None, "ann", False),
        (woken(payload=1, by="key:backend", on_behalf_of="ann"), 1, "key:backend", False),
    ],
)
def test_a_repeat_is_the_same_answer_by_the_same_person(first: Woken, answer: Any, by: str, repeat: bool) -> None:
    assert views.is_repeat(first, KnownSignature(by, None), answer) is repeat
    assert not views.is_repeat(first, KnownSignature(by, "somebody"), answer)


def test_ids_of_signals() -> None:
    assert signals.signal_id("default", "t", "k") == "c65addb2-ad6d-57e6-ae20-efde30f7aaea"
    assert len({signals.signal_id(*parts) for parts in (("a", "t", "k"), ("b", "t", "k"), ("a", "u", "k"))}) == 3
    assert signals.signal_id("a", "t", None) != signals.signal_id("a", "t", None)


def test_a_cursor_is_read_back() -> None:
    found = [{"_id": f"t {n}", "opened_at": MOMENT} for n in range(3)]
    text = cursor_of(found, "opened_at", 2)
    assert text is not None
    assert read_cursor(text) == (MOMENT, "t 1")
    assert cursor_of(found, "opened_at", 3) is None


@pytest.mark.parametrize("text", ["", "x", "é", "QUJD", base64.urlsafe_b64encode(b"2026-11-24T08:30:00 x").decode()])
def test_what_is_no_cursor(text: str) -> None:
    assert read_cursor(text) is None


def test_a_large_payload_is_not_listed() -> None:
    text = random.Random(1).randbytes(100_000).hex()
    for payload, shown in ((text, None), ({"a": 1}, {"a": 1})):
        signal = signals.signal_document(
            tenant="a", thread_id="t", name="n", payload=payload, key=None, request="d", moment=MOMENT
        )
        view = signals.listed_signal(signal)
        assert view["payload"] == shown
        assert http.Signal.model_validate(view).delivered is False
