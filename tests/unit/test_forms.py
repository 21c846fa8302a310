"""Forms made of schemas, answers made of forms: every kind of field, what is typed wrongly, and where a reason is shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.gateway.answers.forms import Kind, decision_of, form_of
from perdure.gateway.answers.pages import typed_shown
from perdure.gateway.answers.typed import inputs_of, place, read
from perdure.gateway.http.pages import visible

APPROVAL = {
    "type": "object",
    "properties": {"approve": {"type": "boolean"}, "note": {"type": "string"}},
    "required": ["approve"],
}


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (None, Kind.ANYTHING),
        ({}, Kind.ANYTHING),
        ({"type": "boolean"}, Kind.DECISION),
        ({"type": "string"}, Kind.LINES),
        ({"type": "string", "maxLength": 120}, Kind.TEXT),
        ({"type": "integer"}, Kind.INTEGER),
        ({"type": "number"}, Kind.NUMBER),
        ({"enum": ["a", 1, None]}, Kind.CHOICE),
        ({"const": "a"}, Kind.CHOICE),
        ({"oneOf": [{"const": 1, "title": "one"}, {"const": 2}]}, Kind.CHOICE),
        ({"type": ["string", "null"]}, Kind.LINES),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, Kind.INTEGER),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "number"}}}, Kind.NUMBER),
        ({"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"type": "number"}}}, Kind.NUMBER),
        (APPROVAL, Kind.GROUP),
        ({"type": "object"}, Kind.JSON),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, Kind.JSON),
        ({"properties": {str(n): {} for n in range(51)}}, Kind.JSON),
        ({"type": "array", "items": {"type": "string"}}, Kind.JSON),
        ({"anyOf": [{"type": "string"}, {"type": "number"}]}, Kind.JSON),
        ({"type": ["string", "number"]}, Kind.JSON),
        ({"$ref": "https://elsewhere.example/x"}, Kind.JSON),
        ({"$ref": "#"}, Kind.JSON),
        ({"not": {"type": "string"}}, Kind.JSON),
    ],
)
def test_kinds(schema: dict[str, Any] | None, kind: Kind) -> None:
    assert form_of(schema).kind == kind


@pytest.mark.parametrize(
    ("properties", "required", "decision"),
    [
        ({"approve": {"type": "boolean"}}, ["approve"], "approve"),
        ({"Confirmed": {"type": "boolean"}, "urgent": {"type": "boolean"}}, ["Confirmed"], "Confirmed"),
        ({"approve": {"type": "boolean"}}, [], None),
        ({"urgent": {"type": "boolean"}}, ["urgent"], None),
        ({"approve": {"type": ["boolean", "null"]}}, ["approve"], None),
        ({"approve": {"type": "boolean"}, "ok": {"type": "boolean"}}, ["approve", "ok"], None),
    ],
)
def test_the_decision(properties: dict[str, Any], required: list[str], decision: str | None) -> None:
    found = decision_of(form_of({"type": "object", "properties": properties, "required": required}))
    assert (found.key if found else None) == decision


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = {"type": "object", "properties": {"inner": {"$ref": "#"}, "name": {"type": "string"}}}
    form = form_of(schema)
    assert [one.pointer for one in inputs_of(form)] == ["/inner/inner", "/inner/name", "/name"]


@pytest.mark.parametrize(
    ("schema", "typed", "answer"),
    [
        (None, "plain text", "plain text"),
        (None, "[1]", [1]),
        (None, "true", True),
        ({"type": "boolean"}, "true", True),
        ({"type": "boolean"}, "false", False),
        ({"type": "integer"}, " -7 ", -7),
        ({"type": "number"}, "82000", 82_000),
        ({"type": "number"}, "+0.50", 0.5),
        ({"type": "number"}, "1e3", 1000.0),
        ({"type": "string"}, " kept \r\nas it is ", " kept \nas it is "),
        ({"type": "string"}, "", ""),
        ({"enum": ["1", 1, True, None]}, "0", "1"),
        ({"enum": ["1", 1, True, None]}, "2", True),
        ({"enum": ["1", 1, True, None]}, "3", None),
        ({"type": ["integer", "null"]}, "", None),
        ({"type": ["string", "null"]}, "", None),
        ({"type": "array"}, '["a", {"b": 1.5}]', ["a", {"b": 1.5}]),
    ],
)
def test_values(schema: dict[str, Any] | None, typed: str, answer: Any) -> None:
    found, wrong = read(form_of(schema), {"answer": typed})
    assert wrong == {}
    assert (found, type(found)) == (answer, type(answer))


@pytest.mark.parametrize(
    ("schema", "typed", "reason"),
    [
        (None, " ", "must be answered"),
        ({"type": "boolean"}, "", "must be answered"),
        ({"type": "boolean"}, "maybe", "must be yes or no"),
        ({"type": "integer"}, "", "must be answered"),
        ({"type": "integer"}, "1.0", "must be a whole number"),
        ({"type": "integer"}, "1_000", "must be a whole number"),
        ({"type": "integer"}, "9" * 5_000, "must be a whole number"),
        ({"type": "number"}, "1,5", "must be a number"),
        ({"type": "number"}, "1e999", "must be a number"),
        ({"type": "number"}, "NaN", "must be a number"),
        ({"type": "number"}, "٣.٣", "must be a number"),
        ({"enum": ["a"]}, "1", "must be one of the choices"),
        ({"enum": ["a"]}, "-1", "must be one of the choices"),
        ({"enum": ["a"]}, "²", "must be one of the choices"),
        ({"type": "array"}, "[1,", "is not JSON"),
        ({"type": "array"}, "NaN", "is not JSON"),
    ],
)
def test_what_is_typed_wrongly(schema: dict[str, Any] | None, typed: str, reason: str) -> None:
    answer, wrong = read(form_of(schema), {"answer": typed})
    assert answer is None
    assert list(wrong) == [""]
    assert wrong[""][0].startswith(reason)


def test_what_is_left_out() -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "note": {"type": "string"},
            "count": {"type": "integer"},
            "maybe": {"type": ["integer", "null"]},
            "place": {"type": "object", "properties": {"city": {"type": "string"}}, "required": []},
            "home": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            "a/b~c": {"type": "boolean"},
        },
        "required": ["name", "maybe"],
    }
    answer, wrong = read(form_of(schema), {})
    assert (answer, wrong) == ({"name": "", "maybe": None}, {})
    answer, _ = read(form_of(schema), {"answer/a~1b~0c": "true", "answer/place/city": "Oslo"})
    assert answer["a/b~c"] is True
    assert answer["place"] == {"city": "Oslo"}


def test_reasons_find_their_fields() -> None:
    schema = {
        "type": "object",
        "properties": {
            "it's": {"type": "string"},
            "list": {"type": "array"},
            "in": {"properties": {"x": {"type": "string"}}},
        },
        "required": ["it's"],
    }
    placed = place(
        form_of(schema),
        [
            ("", '"it\'s" is a required property'),
            ("", "something about all of it"),
            ("/list/3/a", "too long"),
            ("/in/x", "too short"),
            ("/in/unknown", "odd"),
            ("/elsewhere", "not here"),
        ],
    )
    assert placed == {
        "/it's": ["must be answered"],
        "": ["something about all of it", "at /elsewhere: not here"],
        "/list": ["at /3/a: too long"],
        "/in/x": ["too short"],
        "/in": ["at /unknown: odd"],
    }


def test_what_was_typed_is_shown_with_its_labels() -> None:
    schema = {
        "type": "object",
        "properties": {
            "from_account": {"enum": ["main", "reserve"]},
            "approve": {"type": "boolean"},
            "note": {"type": "string"},
        },
        "required": ["approve"],
    }
    typed = {"answer/from_account": "1", "answer/approve": "false", "answer/other": "x"}
    assert typed_shown(form_of(schema), typed) == [("From account", "reserve"), ("Approve", "Reject")]


def test_what_cannot_be_seen_is_written_out() -> None:
    assert visible("a\u202eb\u200bc\x07d\n\te\u2066") == "a\\u{202e}b\\u{200b}c\\u{7}d\n\te\\u{2066}"
    assert visible("👩\u200d💻 Zoë नमस्\u200dते") == "👩\u200d💻 Zoë नमस्\u200dते"


SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
SCHEMAS = st.recursive(
    st.sampled_from([{"type": t} for t in ("string", "boolean", "integer", "number", "array", "null")])
    | st.fixed_dictionaries({"enum": st.lists(SCALARS, min_size=1, max_size=3)}),
    lambda inner: st.fixed_dictionaries(
        {"properties": st.dictionaries(st.text(max_size=5), inner, max_size=3)},
        optional={
            "title": st.text(max_size=5),
            "default": SCALARS,
            "$defs": st.dictionaries(st.text(max_size=3), inner, max_size=1),
        },
    ),
    max_leaves=8,
)


@given(schema=SCHEMAS, text=st.text(max_size=20))
def test_any_schema_and_anything_typed_make_an_answer_or_a_reason(schema: dict[str, Any], text: str) -> None:
    form = form_of(schema)
    typed = {one.name: text for one in inputs_of(form)}
    answer, wrong = read(form, typed)
    assert not wrong or answer is None
    assert set(place(form, [(pointer, "x") for pointer in wrong])) == set(wrong)
