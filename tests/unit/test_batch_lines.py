"""What an upload's bytes become: lines, items, and what is wrong with which."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perdure.chassis.payload import unpack
from perdure.gateway.http.depth import JSON_DEPTH
from perdure.gateway.resources.batches.lines import Lines, parse_items, parse_lines
from perdure.schemas.batch_http import LINE_LIMIT


def lines_of(data: bytes, step: int, limit: int = LINE_LIMIT) -> list[tuple[int, bytes | None]]:
    """The lines of a stream that comes in pieces of ``step`` bytes."""
    lines = Lines(limit)
    found = [line for start in range(0, len(data), step) for line in lines.feed(data[start : start + step])]
    return [(line.number, line.data) for line in [*found, *lines.end()]]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_lines_are_the_same_however_the_bytes_come(step: int) -> None:
    data = b"\xef\xbb\xbfone\r\n\n  \ntwo\n" + b"x" * 30 + b"\nlast"
    assert lines_of(data, step, limit=20) == [(1, b"one\r"), (4, b"two"), (5, None), (6, b"last")]


def test_a_long_line_takes_no_memory() -> None:
    lines = Lines(100)
    for _ in range(1000):
        assert lines.feed(b"x" * 64) == []
        assert sum(map(len, lines._parts)) <= 110
    assert [line.data for line in lines.end()] == [None]


def nested(levels: int) -> bytes:
    return b'{"input": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def test_a_line_may_be_nested_as_deep_as_it_can_be_stored() -> None:
    result = parsed(nested(JSON_DEPTH), nested(JSON_DEPTH + 1), nested(1000), b"[" * 2000)
    assert len(result.items) == 1
    assert [one.pointer for one in result.wrong] == ["line:2", "line:3", "line:4"]
    assert all("nested deeper" in one.detail for one in result.wrong[:2])


def parsed(*values: Any) -> Any:
    text = b"\n".join(value if isinstance(value, bytes) else json.dumps(value).encode() for value in values)
    return parse_lines([*(lines := Lines()).feed(text), *lines.end()], "b", 1)


def test_items_are_numbered_without_the_empty_lines() -> None:
    found = parsed(
        {"input": {"a": 1}, "ref": "r", "metadata": {"m": 1}}, b"", {"input": [1], "config": {"tags": ["t"]}}
    )
    assert found.wrong == []
    assert [(item["_id"], item["number"]) for item in found.items] == [("b:000000001", 1), ("b:000000002", 2)]
    assert (found.items[0]["ref"], found.items[0]["metadata"]) == ("r", {"m": 1})
    assert unpack(found.items[1]["payload"]) == {"input": [1], "config": {"tags": ["t"]}}


@pytest.mark.parametrize(
    ("line", "place", "says"),
    [
        (b"{", "line:2", "is not JSON"),
        (b"[1]", "line:2", "must be a JSON object"),
        ({"inptu": 1}, "line:2/input", "is missing"),
        ({"input": 1, "inptu": 1}, "line:2/inptu", "is not known; an item has input, ref"),
        ({"input": None}, "line:2/input", "must not be null"),
        ({"input": 1, "ref": ""}, "line:2/ref", "at least 1 character"),
        ({"input": 1, "metadata": {"n": "x" * 70_000}}, "line:2/metadata", "larger than"),
        ({"input": 1, "config": {"recursion_limit": 0}}, "line:2/config/recursion_limit", "greater than"),
        ({"input": "x" * LINE_LIMIT}, "line:2", "longer than"),
    ],
)
def test_what_is_wrong_is_named_at_its_line(line: Any, place: str, says: str) -> None:
    found = parsed({"input": 1}, line, {"input": 2})
    assert len(found.items) == 2
    (wrong,) = found.wrong
    assert wrong.pointer == place
    assert says in wrong.detail


def test_items_of_a_body_are_named_by_pointer() -> None:
    found = parse_items([{"input": 1}, 5, {"input": 1, "metadata": 3}], "b")
    assert [wrong.pointer for wrong in found.wrong] == ["/items/1", "/items/2/metadata"]
