"""What a plain interrupt asks: the texts, the forms, and answers that the libraries behind the known shapes accept."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents.middleware.human_in_the_loop import (
    DecisionType,
    HITLResponse,
    ToolApprovalRequest,
    _decision_schema,
)
from langgraph.types import Interrupt
from pydantic import TypeAdapter

from perdure.agent_step.domain import INTERRUPT_VALUE_LIMIT, interrupt_info
from perdure.gateway.answers.forms import Field, Kind, form_of
from perdure.gateway.answers.typed import inputs_of, place, read
from perdure.registry.answers import reasons, require_schema
from perdure.registry.questions import UNASKED, question_in, question_of

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
EVERYTHING = {"allow_ignore": True, "allow_respond": True, "allow_edit": True, "allow_accept": True}
ARGS = {
    "to": "ann@example.com",
    "count": 3,
    "urgent": True,
    "body": "Dear Ann,\n\nbye",
    "cc": None,
    "tags": ["a"],
    "by": {"x": 1},
}


def human(action: str = "send_email", description: str | None = "Send it?", **allowed: bool) -> dict[str, Any]:
    config = dict.fromkeys(EVERYTHING, False) | allowed if allowed else EVERYTHING
    return {"action_request": {"action": action, "args": ARGS}, "config": config, "description": description}


def review(*names: str, allowed: tuple[str, ...] = ("approve", "edit", "reject", "respond")) -> dict[str, Any]:
    return {
        "action_requests": [{"name": name, "args": ARGS, "description": f"{name}?"} for name in names],
        "review_configs": [{"action_name": name, "allowed_decisions": list(allowed)} for name in names],
    }


def choices(form: Field) -> list[list[str]]:
    """The labels of every choice between alternatives."""
    return [[one.label for one in field.choices] for field in inputs_of(form) if field.kind is Kind.ALTERNATIVES]


def chosen(form: Field, *labels: str, **typed: str) -> tuple[Any, Any]:
    """What is read when these alternatives are chosen, one at each choice, and everything else is left as it stands."""
    given = {field.name: field.initial for field in inputs_of(form)}
    asked = [field for field in inputs_of(form) if field.kind is Kind.ALTERNATIVES]
    for field, label in zip(asked, labels, strict=True):
        given[field.name] = next(choice.value for choice in field.choices if choice.label == label)
    for field in inputs_of(form, dict(given)):
        if (text := typed.get(field.key)) is not None:
            given[field.name] = text
    return read(form, given)


@pytest.mark.parametrize(
    ("value", "question", "details"),
    [
        ("Go on?", "Go on?", {}),
        ({"question": "Go on?", "amount": 5}, "Go on?", {"amount": 5}),
        ({"amount": 5, "message": "Pay?", "title": "T"}, "Pay?", {"amount": 5, "title": "T"}),
        ({"amount": 5}, UNASKED, {"amount": 5}),
        ({"question": "  "}, UNASKED, {"question": "  "}),
        ([1, 2], UNASKED, {"value": [1, 2]}),
        (False, UNASKED, {"value": False}),
        (None, UNASKED, {}),
        ("", UNASKED, {}),
    ],
)
def test_any_value_is_a_question(value: Any, question: str, details: dict[str, Any]) -> None:
    asked = question_of(value)
    assert (asked.question, asked.details) == (question, details)
    assert (asked.answer_schema, asked.action, asked.action_digest) == (None, None, None)


def test_a_long_text_is_whole_in_the_details() -> None:
    text = "x" * 20_000
    asked = question_of({"question": text})
    assert len(asked.question) == 16_000
    assert asked.details == {"text": text}


@given(JSON, st.none() | st.dictionaries(st.text(max_size=12), JSON, max_size=4))
def test_no_value_and_no_schema_is_refused(value: Any, schema: Any) -> None:
    asked = question_of(value, schema)
    form = form_of(asked.answer_schema)
    read(form, {})
    list(inputs_of(form))


@pytest.mark.parametrize("broken", [{"type": "nonsense"}, {"$ref": "https://elsewhere.example/"}])
def test_a_broken_schema_is_passed_over(broken: dict[str, Any]) -> None:
    assert question_of("Go?", broken).answer_schema is None
    assert question_of(human(), broken).answer_schema == question_of(human()).answer_schema


def test_a_response_schema_goes_first() -> None:
    assert question_of(human(), {"type": "boolean"}).answer_schema == {"type": "boolean"}
    wait = {"interrupt": {"value": "Go?", "response_schema": {"type": "boolean"}}, "question": {"question": "Go?"}}
    assert question_in(wait).answer_schema == {"type": "boolean"}


def test_a_human_interrupt() -> None:
    asked = question_of(human())
    assert asked.question == "Send it?"
    assert asked.action == {"action": "send_email", "args": ARGS}
    assert asked.action_digest is not None
    form = form_of(asked.answer_schema)
    assert choices(form) == [["Accept", "Edit", "Response", "Ignore"]]
    edited = {"action": "send_email", "args": ARGS | {"count": 4, "body": "Dear Bob"}}
    for label, typed, answer in (
        ("Accept", {}, [{"type": "accept", "args": None}]),
        ("Ignore", {}, [{"type": "ignore", "args": None}]),
        ("Response", {"args": "Not now"}, [{"type": "response", "args": "Not now"}]),
        ("Edit", {}, [{"type": "edit", "args": {"action": "send_email", "args": ARGS}}]),
        ("Edit", {"count": "4", "body": "Dear Bob"}, [{"type": "edit", "args": edited}]),
    ):
        assert chosen(form, label, **typed) == (answer, {}), label
        assert reasons(asked.answer_schema or {}, answer) == [], label


def test_agent_inboxs_own_answers_fit() -> None:
    schema = question_of([human()]).answer_schema or {}
    request = human()["action_request"]
    for answer in (
        {"type": "accept", "args": request},
        {"type": "edit", "args": request},
        {"type": "ignore", "args": None},
    ):
        assert reasons(schema, [answer]) == []


def test_what_a_config_does_not_allow_does_not_fit() -> None:
    asked = question_of(human(allow_accept=True, allow_ignore=True))
    form = form_of(asked.answer_schema)
    assert choices(form) == [["Accept", "Ignore"]]
    assert reasons(asked.answer_schema or {}, [{"type": "edit", "args": {"action": "x", "args": {}}}])
    assert read(form, {}) == (None, {"/0": ["must be answered"]})


def test_several_human_interrupts_are_answered_one_by_one_in_one_list() -> None:
    asked = question_of([human("a", "first"), human("b", None, allow_accept=True)])
    assert asked.question == "2 actions wait for your decision: a, b"
    assert asked.details == {"1. a": "first"}
    form = form_of(asked.answer_schema)
    assert choices(form) == [["Accept", "Edit", "Response", "Ignore"], ["Accept"]]
    assert chosen(form, "Ignore", "Accept") == (
        [{"type": "ignore", "args": None}, {"type": "accept", "args": None}],
        {},
    )
    assert reasons(asked.answer_schema or {}, [{"type": "accept"}]), "one of two"


def test_a_review_of_tool_calls() -> None:
    asked = question_of(review("send", "delete"))
    assert asked.action == [{"name": "send", "args": ARGS}, {"name": "delete", "args": ARGS}]
    form = form_of(asked.answer_schema)
    assert choices(form) == [["Approve", "Edit", "Reject", "Respond"]] * 2
    answer, wrong = chosen(form, "Edit", "Reject", count="9", message="No")
    assert wrong == {}
    edited = {"type": "edit", "edited_action": {"name": "send", "args": ARGS | {"count": 9}}}
    assert answer == {"decisions": [edited, {"type": "reject", "message": "No"}]}
    assert reasons(asked.answer_schema or {}, answer) == []
    TypeAdapter(HITLResponse).validate_python(answer)
    assert chosen(form, "Approve", "Reject")[0] == {"decisions": [{"type": "approve"}, {"type": "reject"}]}


def test_a_review_allows_what_its_config_says() -> None:
    asked = question_of(review("send", allowed=("approve", "reject")))
    assert asked.question == "send?"
    assert choices(form_of(asked.answer_schema)) == [["Approve", "Reject"]]
    assert reasons(asked.answer_schema or {}, {"decisions": [{"type": "respond", "message": "hi"}]})


def test_a_review_of_one_tool_call_as_it_starts() -> None:
    decisions = _decision_schema(["approve", "edit", "reject"], "send")
    schema = TypeAdapter(decisions).json_schema()
    value: ToolApprovalRequest = {
        "type": "tool_approval", "tool_call_id": "c1", "name": "send", "args": ARGS, "description": "Send?"
    }  # fmt: skip
    asked = question_of(value, schema)
    assert (asked.question, asked.action) == ("Send?", {"name": "send", "args": ARGS})
    form = form_of(asked.answer_schema)
    assert choices(form) == [["Approve", "Edit", "Reject"]]
    assert chosen(form, "Approve") == ({"type": "approve"}, {})
    answer, wrong = chosen(form, "Edit", args='{"to": "bob"}')
    assert (answer, wrong) == ({"type": "edit", "edited_action": {"name": "send", "args": {"to": "bob"}}}, {})
    assert reasons(schema, answer) == []


def test_the_decisions_are_those_that_langchain_knows() -> None:
    (form,) = choices(form_of(question_of(review("send")).answer_schema))
    assert {label.lower() for label in form} == set(get_args(DecisionType))


@pytest.mark.parametrize(
    "value",
    [
        {"action_request": {"action": "a"}, "config": EVERYTHING},
        {"action_request": {"action": 1, "args": {}}, "config": EVERYTHING},
        {"action_request": {"action": "a", "args": {}}},
        [human(), "something else"],
        [],
        {"action_requests": [], "review_configs": []},
        {"action_requests": [{"name": "a"}], "review_configs": []},
        {"type": "tool_approval", "name": "a"},
    ],
    ids=str,
)
def test_what_only_resembles_a_known_shape_is_any_value(value: Any) -> None:
    asked = question_of(value)
    assert (asked.answer_schema, asked.action) == (None, None)


@pytest.mark.parametrize(
    "value", [human(**dict.fromkeys(EVERYTHING, False), allow_x=True), review("a", allowed=("fly",))]
)
def test_a_request_that_allows_nothing_known_is_answered_with_json(value: Any) -> None:
    asked = question_of(value)
    assert asked.action is not None
    assert choices(form_of(asked.answer_schema)) == []


def test_a_reason_is_shown_at_its_choice() -> None:
    asked = question_of(human())
    form = form_of(asked.answer_schema)
    found = place(form, reasons(asked.answer_schema or {}, [{"type": "fly"}]))
    assert list(found) == ["/0"]


def test_a_schema_over_what_the_value_leaves_is_left_out() -> None:
    schema = {"type": "string", "description": "x" * 1000}
    assert interrupt_info(Interrupt("Go?", "i", response_schema=schema)).response_schema == schema
    large = interrupt_info(Interrupt("x" * (INTERRUPT_VALUE_LIMIT - 500), "i", response_schema=schema))
    assert (large.response_schema, len(large.value)) == (None, INTERRUPT_VALUE_LIMIT - 500)
    assert "response_schema" not in large.model_dump()


def test_a_schema_is_judged_once_for_all_questions_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[Any] = []

    def judge(schema: Any) -> None:
        judged.append(schema)
        require_schema(schema)

    monkeypatch.setattr("perdure.registry.questions.require_schema", judge)
    good, broken = {"title": "judged once", "type": "string"}, {"title": "judged once", "type": "nonsense"}
    for _ in range(3):
        assert question_of("Go on?", dict(good)).answer_schema == good
        assert question_of("Go on?", dict(broken)).answer_schema is None
    assert judged == [good, broken]
