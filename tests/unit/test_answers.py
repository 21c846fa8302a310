"""What an answer must fit: every reason, nothing fetched, and a broken schema said instead of failing."""

from __future__ import annotations

import time
from typing import Any

import pytest
from referencing import Resource

from perdure.registry import answers
from perdure.registry.answers import BrokenSchema, reasons, require_schema
from perdure.sdk import WaitError, ask_human

ADDRESS = {
    "$defs": {"name": {"type": "string", "minLength": 1}},
    "type": "object",
    "properties": {"name": {"$ref": "#/$defs/name"}, "a/b~c": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "answer", "pointers"),
    [
        (ADDRESS, {"name": "ann"}, []),
        (ADDRESS, {"name": "", "a/b~c": [1, "x", 2.5]}, ["/a~1b~0c/1", "/a~1b~0c/2", "/name"]),
        (ADDRESS, {"x": 1}, ["", ""]),
        (ADDRESS, None, [""]),
        ({}, {"anything": [None]}, []),
        ({"enum": ["yes", "no"]}, "maybe", [""]),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "string"}, "x", []),
        ({"$id": "https://example.org/a", "$ref": "b", "$defs": {"b": {"$id": "b", "type": "string"}}}, 1, [""]),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, {"type": "string"}, []),
        ({"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "elsewhere"}}, {"$ref": "elsewhere"}, []),
        ({"format": "date"}, "no date", []),
    ],
)
def test_reasons(schema: dict[str, Any], answer: Any, pointers: list[str]) -> None:
    assert sorted(pointer for pointer, _ in reasons(schema, answer)) == pointers


def test_alternatives_are_explained() -> None:
    ((_, reason),) = reasons({"anyOf": [{"type": "string"}, {"minimum": 3}]}, 1)
    assert "is not of type 'string'" in reason
    assert "less than the minimum of 3" in reason


def test_a_long_answer_makes_no_long_reason() -> None:
    assert all(len(reason) <= 2_000 for _, reason in reasons({"type": "integer"}, "x" * 500_000))
    assert len(reasons({"items": {"type": "string"}}, list(range(1000)))) == 100


BROKEN = [
    {"type": "nonsense"},
    {"$ref": "http://127.0.0.1:9/never-asked"},
    {"properties": {"a": {"$ref": "#/$defs/missing"}}},
    {"$ref": "#/x/1/y", "x": [0, 5]},
    {"$ref": "#/x", "x": 5},
    {"$ref": "#/x", "x": {"type": "nonsense"}},
    {"pattern": "("},
    {"multipleOf": 0},
    {"$schema": 7},
    {"$dynamicRef": "#nowhere"},
]


@pytest.mark.parametrize("schema", BROKEN)
def test_a_broken_schema_is_never_asked(schema: dict[str, Any]) -> None:
    with pytest.raises(BrokenSchema):
        require_schema(schema)
    with pytest.raises(BrokenSchema):
        reasons(schema, "x")
    with pytest.raises(WaitError, match="cannot be asked"):
        ask_human("May I?", schema)


@pytest.mark.parametrize("depth", [400, 2_000])
def test_a_schema_without_end_is_broken(depth: int) -> None:
    with pytest.raises(BrokenSchema):
        reasons({"$ref": "#"}, 1)
    deep: dict[str, Any] = {}
    for _ in range(depth):
        deep = {"not": deep}
    try:
        reasons(deep, 1)
    except BrokenSchema:
        return


@pytest.mark.parametrize("reference", ["#", "#a", "#/$defs/a"])
def test_what_is_referred_to_often_is_judged_once(monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    judged: list[Any] = []
    searched: list[Any] = []
    judge, search = answers._require_valid, Resource.anchors
    monkeypatch.setattr(answers, "_require_valid", lambda schema: (judged.append(schema), judge(schema)))
    monkeypatch.setattr(Resource, "anchors", lambda self: (searched.append(self), search(self))[1])
    fields = {str(number): {"$ref": reference} for number in range(50)}
    require_schema({"$defs": {"a": {"$anchor": "a", "type": "string"}}, "properties": fields})
    assert 1 <= len(judged) <= 2
    assert len(searched) < 100, "there are 52 schemas within it"


PATTERN = "^(a+)+$"
DOUBLED = {"d0": {"type": "string"}} | {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n - 1}"}] * 2} for n in range(1, 40)}
DIALECT = {"$schema": "https://json-schema.org/draft/2020-12/schema"}


@pytest.mark.parametrize(
    ("schema", "answer", "fits"),
    [
        ({"pattern": PATTERN}, "a" * 100_000 + "b", False),
        ({"$ref": "#/$defs/a", "$defs": {"a": {**DIALECT, "pattern": PATTERN}}}, "a" * 100_000 + "b", False),
        ({"patternProperties": {PATTERN: False}}, {"a" * 100_000 + "b": 1}, True),
        ({"patternProperties": {PATTERN: {}}, "additionalProperties": False}, {"a" * 100_000 + "b": 1}, False),
        ({"propertyNames": {"pattern": PATTERN}}, {"a" * 100_000 + "b": 1}, False),
        ({"uniqueItems": True}, [{"a": [n]} for n in range(10_000)], True),
        ({"uniqueItems": True}, [*({"a": [n]} for n in range(10_000)), {"a": [7.0]}], False),
        ({"uniqueItems": True}, [1, True, "1", None, [1], {"1": 1}, 0, False], True),
    ],
)
def test_judging_takes_linear_time(schema: dict[str, Any], answer: Any, fits: bool) -> None:
    began = time.process_time()
    assert (reasons(schema, answer) == []) is fits
    assert time.process_time() - began < 2


@pytest.mark.parametrize("dialect", [{}, DIALECT])
def test_judging_is_given_up_after_some_steps(dialect: dict[str, Any]) -> None:
    began = time.process_time()
    schema = {**dialect, "$ref": "#/$defs/d39", "$defs": {**DOUBLED, "d0": {**dialect, "type": "string"}}}
    with pytest.raises(BrokenSchema, match="more than 50000 steps"):
        reasons(schema, "x")
    assert time.process_time() - began < 10


@pytest.mark.parametrize("pattern", ["^(?=a)b", r"(a)\1", "(?<!a)b", "((x{900}){900}){900}"])
def test_patterns_that_are_not_linear_are_refused(pattern: str) -> None:
    for schema in ({"items": {"pattern": pattern}}, {"patternProperties": {pattern: {}}}):
        with pytest.raises(BrokenSchema, match="cannot be searched in linear time"):
            require_schema(schema)


def test_what_cannot_be_judged_in_linear_time_is_refused() -> None:
    with pytest.raises(BrokenSchema, match="not judged together"):
        require_schema({"unevaluatedProperties": False, "allOf": [{"patternProperties": {PATTERN: {}}}]})
