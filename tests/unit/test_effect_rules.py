"""What each event makes of an effect, and what a guard must say."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from perdure.registry.waits import Woken
from perdure.schemas.effect_documents import AttemptDocument, EffectDocument
from perdure.schemas.waits import OutcomeKind, WaitOutcome
from perdure.sdk import Answered, EffectMisused, GuardMissing, KeyReused
from perdure.sdk import effect_rules as rules
from perdure.sdk.effect_rules import Phase
from perdure.sdk.guards import Guard, approves, guard_of, permit
from perdure.sdk.ledger import RECEIPT_LIMIT, UNSTORABLE, pack
from perdure.sdk.place import here, is_gone

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def attempt(number: int, **fields: Any) -> AttemptDocument:
    made: AttemptDocument = {
        "number": number,
        "token": f"token {number}",
        "run_id": "r",
        "epoch": number,
        "place": None,
        "started_at": NOW,
        "deadline": NOW + MINUTE,
        **fields,  # type: ignore[typeddict-item]
    }
    return made


def effect(**fields: Any) -> EffectDocument:
    made: EffectDocument = {
        "_id": "t:pay",
        "tenant": "acme",
        "thread_id": "t",
        "key": "pay",
        "action_digest": "d",
        "state": "intent",
        "version": 1,
        "attempts": [attempt(1)],
        "created_at": NOW,
        "updated_at": NOW,
        **fields,  # type: ignore[typeddict-item]
    }
    return made


def phase(document: EffectDocument | None, later: timedelta = timedelta(), *, gone: bool = False) -> Phase:
    return rules.phase(document, NOW + later, lambda _: gone)


def test_the_idempotency_key_is_a_stored_format() -> None:
    assert rules.effect_id("4f6d", "pay:7") == "4f6d:pay:7"


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 161, "a\n"])
def test_keys_that_are_refused(key: str) -> None:
    with pytest.raises(EffectMisused, match="160 visible ASCII"):
        rules.effect_id("t", key)


def test_an_attempt_is_busy_until_its_deadline_or_its_proved_end() -> None:
    assert phase(None) is Phase.FREE
    assert phase(effect()) is Phase.BUSY
    assert phase(effect(), MINUTE) is Phase.BUSY, "clocks drift: there is a margin"
    assert phase(effect(), MINUTE + rules.MARGIN) is Phase.UNKNOWN
    assert phase(effect(), gone=True) is Phase.UNKNOWN
    assert phase(effect(attempts=[attempt(1, ended_at=NOW)])) is Phase.UNKNOWN
    assert phase(effect(state="not_done")) is Phase.FREE
    assert phase(effect(state="done")) is Phase.DONE


def test_the_same_key_for_another_action() -> None:
    rules.require_same_action(effect(), "d")
    with pytest.raises(KeyReused, match="d and is now called with action e"):
        rules.require_same_action(effect(), "e")
    with pytest.raises(KeyReused):
        rules.require_same_action(effect(), None)
    rules.require_same_action(effect(state="not_done"), "e")


def test_one_of_two_begins_the_next_attempt() -> None:
    first = rules.begun(effect(), attempt(2), "d", ["g2"])
    assert first is not None
    assert (first["version"], first["guards"], rules.last_number(first)) == (2, ["g2"], 2)
    assert rules.begun(first, attempt(2), "d", ["g2"]) is None, "repeated: it is there already"
    assert rules.begun(first, attempt(2, token="another"), "d", []) is None
    assert rules.begun(effect(state="done"), attempt(2), "d", []) is None
    assert rules.begun(effect(), attempt(2), "e", []) is None, "another action under an intent"


def test_attempts_are_bounded_and_numbered_on() -> None:
    document = effect()
    for number in range(2, 120):
        document = rules.begun(document, attempt(number), "d", []) or pytest.fail("not begun")
    assert len(document["attempts"]) == rules.ATTEMPTS_KEPT
    assert rules.last_number(document) == 119


def test_the_first_receipt_stays_and_a_second_is_noticed() -> None:
    two = effect(attempts=[attempt(1), attempt(2)])
    done = rules.done(two, "token 2", ("msgpack", b"2"), "attempt 2", NOW)
    assert done is not None
    assert (done["state"], done["receipt"], done["receipt_by"]) == ("done", b"2", "attempt 2")
    assert rules.done(done, "token 2", ("msgpack", b"2"), "attempt 2", NOW) is None, "repeated"
    assert rules.done(done, None, ("msgpack", b"9"), "reconcile", NOW) is None
    late = rules.done(done, "token 1", ("msgpack", b"1"), "attempt 1", NOW)
    assert late is not None
    assert late["receipt"] == b"2"
    assert rules.acted_twice(late, "token 1")
    assert rules.done(late, "token 1", ("msgpack", b"1"), "attempt 1", NOW) is None
    same = rules.done(done, "token 1", ("msgpack", b"2"), "attempt 1", NOW)
    assert same is not None
    assert not rules.acted_twice(same, "token 1"), "the other side recognised the key"


def test_a_late_receipt_beats_what_was_believed() -> None:
    undone = rules.undone(effect(), 1, "ada", NOW)
    assert undone is not None
    assert (undone["state"], undone["attempts"][0]["told_by"]) == ("not_done", "ada")
    late = rules.done(undone, "token 1", ("msgpack", b"1"), "attempt 1", NOW)
    assert late is not None
    assert late["state"] == "done"


def test_what_failed_may_turn_out_not_to_have_happened() -> None:
    failed = rules.failed(effect(), "token 1", "no answer", NOW)
    assert failed is not None
    assert phase(failed) is Phase.UNKNOWN
    assert rules.failed(failed, "token 1", "again", NOW) is None
    undone = rules.undone(failed, 1, "reconcile", NOW)
    assert undone is not None
    assert phase(undone) is Phase.FREE
    assert rules.undone(undone, 1, "reconcile", NOW) is None
    assert rules.undone(effect(attempts=[attempt(1), attempt(2)]), 1, "ada", NOW) is None, "about an older attempt"


def test_a_question_is_recorded_once_for_each_place_and_attempt() -> None:
    asked = rules.asked(effect(), "node:1", 1, NOW)
    assert asked is not None
    assert rules.asked(asked, "node:1", 1, NOW) is None
    assert rules.asked(asked, "node:2", 1, NOW) is not None
    assert rules.asked(effect(state="done"), "node:1", 1, NOW) is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(True, True), ({"approved": True, "note": "x"}, True), (1, False), ("true", False), ({"approved": 1}, False)],
)
def test_what_approves(answer: Any, expected: bool) -> None:
    assert approves(answer) is expected


def test_what_a_guard_may_be_given_as() -> None:
    answered = Answered(value=True, by="ada", at=NOW, approval_id="t:1")
    assert guard_of("approval", answered) == Guard("approval", "t:1")
    assert guard_of("verdict", answered) == Guard("verdict", None)
    assert guard_of("approval", Answered(value=True, by=None, at=None)) == Guard("approval", None), "a plain answer"
    assert guard_of("verdict", "") == Guard("verdict", None)
    with pytest.raises(EffectMisused):
        guard_of("verdict", True)


def test_only_the_run_that_woke_the_thread_is_believed() -> None:
    outcome = WaitOutcome(kind=OutcomeKind.ANSWER, wait_id="t:1", at=NOW, payload=True, action_digest="d")
    asked: dict[str, Any] = {"where": "effect", "thread_id": "t", "digest": "d", "now": NOW}
    real = Woken({"_id": "r", "thread_id": "t", "wait_id": "t:1"}, outcome, won=False)
    assert permit(Guard("approval", "t:1"), real, **asked) is None
    for run in ({"thread_id": "t"}, {"thread_id": "u", "wait_id": "t:1"}, {"thread_id": "t", "wait_id": "t:2"}):
        with pytest.raises(GuardMissing):
            permit(Guard("approval", "t:1"), Woken(run, outcome, won=False), **asked)  # type: ignore[arg-type]


def test_receipts() -> None:
    assert pack(JsonPlusSerializer(), {"a": [1, None]})[0] == "msgpack"
    assert pack(JsonPlusSerializer(), object())[0] == UNSTORABLE
    assert pack(JsonPlusSerializer(), b"x" * RECEIPT_LIMIT)[0] in {"bytes", "msgpack"}
    assert pack(JsonPlusSerializer(), b"x" * (RECEIPT_LIMIT + 1))[0] == UNSTORABLE


def test_a_process_is_gone_only_with_proof() -> None:
    mine = here()
    if mine is None:
        pytest.skip("no /proc here")
    assert mine["pid"] == os.getpid()
    assert not is_gone(mine)
    assert not is_gone(None)
    assert is_gone({**mine, "started": mine["started"] - 1}), "the id was given to another process"
    assert not is_gone({**mine, "boot": "another machine", "pid": 1 << 22})
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        child.wait()
    assert is_gone({**mine, "pid": child.pid, "started": 1})


def test_ids_of_two_effects_are_never_the_same() -> None:
    assert rules.effect_id("customer:42", "buy") == "customer%3A42:buy"
    assert rules.effect_id("customer", "42:buy") == "customer:42:buy"
    assert rules.earlier_id("customer:42", "buy") == "customer:42:buy"
    assert rules.earlier_id("customer", "buy") is None


@pytest.mark.parametrize(
    "other",
    [{"thread_id": "customer"}, {"key": "42:buy"}, {"tenant": "another"}, {"thread_id": "customer", "key": "x"}],
)
def test_another_effect_under_the_same_id_is_refused(other: dict[str, str]) -> None:
    own: Any = {"_id": "customer:42:buy", "thread_id": "customer:42", "key": "buy", "tenant": "default"}
    rules.require_own(own, "customer:42", "buy", "default")
    with pytest.raises(EffectMisused, match="the same id"):
        rules.require_own(own | other, "customer:42", "buy", "default")
