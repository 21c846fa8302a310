"""What an answer must fit: every reason, nothing fetched, and a broken schema said instead of failing."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Resource

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
    judge, search = Draft202012Validator.check_schema, Resource.anchors
    monkeypatch.setattr(Draft202012Validator, "check_schema", lambda schema: (judged.append(schema), judge(schema)))
    monkeypatch.setattr(Resource, "anchors", lambda self: (searched.append(self), search(self))[1])
    fields = {str(number): {"$ref": reference} for number in range(50)}
    require_schema({"$defs": {"a": {"$anchor": "a", "type": "string"}}, "properties": fields})
    assert 1 <= len(judged) <= 2
    assert len(searched) < 100, "there are 52 schemas within it"
