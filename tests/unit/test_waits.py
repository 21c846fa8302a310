"""Which interrupts are waits of ``perdure.sdk``: judged in one place, and everywhere alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.agent_step.domain import bounded_interrupts, earliest_due
from perdure.registry.questions import question_in
from perdure.registry.waits import WAKING, outcome_in, wait_documents, waking_payload
from perdure.schemas.events import InterruptInfo
from perdure.schemas.outbox import INTERRUPTS_LIMIT
from perdure.schemas.waits import (
    WAIT_MARK,
    OutcomeKind,
    Question,
    Wait,
    WaitKind,
    WaitOutcome,
    asks_people,
    is_wait,
    wait_of,
)

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
TIMER = Wait(kind=WaitKind.TIMER, due_at=MOMENT + timedelta(days=1))
APPROVAL = Wait(kind=WaitKind.APPROVAL, question=Question(question="Go?"))
FOREIGN: list[Any] = [
    "a question",
    None,
    {"question": "a dictionary without our mark"},
    {WAIT_MARK: "the graph uses our key"},
    {WAIT_MARK: 1, "kind": "no such kind"},
    {WAIT_MARK: 2, "kind": "timer"},
    [{WAIT_MARK: 1, "kind": "timer"}],
]
"""Values of a plain ``interrupt()``: the last four look like ours."""
RUN: dict[str, Any] = {"_id": "r", "thread_id": "t", "tenant": "default", "graph_id": "g", "assistant_id": "a"}


@pytest.mark.parametrize("value", FOREIGN, ids=str)
def test_a_plain_interrupt_is_a_question_to_people_and_no_wait_of_the_sdk(value: Any) -> None:
    interrupt = InterruptInfo(id="i", value=value)
    assert wait_of(value) is None
    assert not is_wait(value)
    assert asks_people(value)
    assert earliest_due([interrupt]) is None
    (document,) = wait_documents(RUN, [interrupt], ["ask"], MOMENT)
    assert (document["_id"], document["kind"], document["status"]) == ("t:i", "approval", "open")
    assert document["interrupt"] == {"value": value, "response_schema": None}
    assert "due_at" not in document
    assert question_in(document).question


@pytest.mark.parametrize(("wait", "asks"), [(TIMER, False), (APPROVAL, True)], ids=["timer", "approval"])
def test_a_wait_is_read_back_as_it_was(wait: Wait, asks: bool) -> None:
    assert wait_of(wait.value()) == wait
    assert is_wait(wait.value())
    assert asks_people(wait.value()) is asks
    (document,) = wait_documents(RUN, [InterruptInfo(id="i", value=wait.value())], ["ask"], MOMENT)
    assert (document["_id"], document["kind"]) == ("t:i", wait.kind.value)


def test_of_many_large_interrupts_waits_alone_keep_their_values() -> None:
    filler = "x" * 60_000
    foreign = {WAIT_MARK: "the graph uses our key", "filler": filler}
    count = INTERRUPTS_LIMIT // 60_000 + 5
    interrupts = [InterruptInfo(id=f"f{n}", value=foreign) for n in range(count)]
    wait = TIMER.value() | {"filler": filler}
    kept = bounded_interrupts([*interrupts, InterruptInfo(id="w", value=wait)])
    assert kept[-1].value == wait
    assert any(one.value != foreign for one in kept[:-1])


@pytest.mark.parametrize("answer", [None, "yes", {"perdure_outcome": "of the person"}, [{"type": "accept"}]], ids=str)
def test_a_plain_interrupt_is_resumed_with_the_bare_answer(answer: Any) -> None:
    (wait,) = wait_documents(RUN, [InterruptInfo(id="i", value="Go?")], ["ask"], MOMENT)
    ended = WaitOutcome(kind=OutcomeKind.ANSWER, wait_id="t:i", at=MOMENT, payload=answer, by="ann")
    payload = waking_payload(wait, ended)
    assert payload["command"] == {"resume": {"i": answer}}
    assert outcome_in(payload) == ended


def test_a_wait_of_the_sdk_is_resumed_with_its_outcome() -> None:
    (wait,) = wait_documents(RUN, [InterruptInfo(id="i", value=APPROVAL.value())], ["ask"], MOMENT)
    ended = WaitOutcome(kind=OutcomeKind.ANSWER, wait_id="t:i", at=MOMENT, payload=True, by="ann")
    payload = waking_payload(wait, ended)
    assert payload == {"command": {"resume": {"i": ended.value()}}}
    assert outcome_in(payload) == ended


def test_the_run_that_goes_on_is_streamed_as_the_one_that_waited() -> None:
    (wait,) = wait_documents(RUN, [InterruptInfo(id="i", value="Go?")], ["ask"], MOMENT)
    wait["stream"] = {"modes": ["updates"], "subgraphs": False}
    ended = WaitOutcome(kind=OutcomeKind.ANSWER, wait_id="t:i", at=MOMENT, payload="yes", by="ann")
    payload = waking_payload(wait, ended)
    assert payload["stream"] == {"modes": ["updates"], "subgraphs": False}
    assert outcome_in(payload) == ended
    assert "stream" in WAKING
