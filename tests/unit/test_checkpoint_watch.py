"""Unchanged items are found without serializing them, and no change is ever missed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from perdure.checkpoint.watch import unchanged, watch


def messages() -> list[Any]:
    call = {"name": "search", "args": {"q": ["a", {"deep": 1}]}, "id": "c1", "type": "tool_call"}
    return [
        HumanMessage("hello", id="1"),
        AIMessage("", id="2", tool_calls=[call], additional_kwargs={"k": {"l": [1, 2]}}),
        HumanMessage([{"type": "text", "text": "t"}, "plain"], id="3", custom="extra"),
    ]


CHANGES: dict[str, Callable[[list[Any]], Any]] = {
    "content": lambda m: setattr(m[0], "content", "hallo"),
    "an equal but other number": lambda m: m[1].additional_kwargs["k"]["l"].__setitem__(0, True),
    "a new key": lambda m: m[0].additional_kwargs.__setitem__("new", 1),
    "deep in a tool call": lambda m: m[1].tool_calls[0]["args"]["q"][1].__setitem__("deep", 2),
    "a longer list": lambda m: m[1].tool_calls[0]["args"]["q"].append(3),
    "a shorter list": lambda m: m[1].additional_kwargs["k"]["l"].pop(),
    "a part of the content": lambda m: m[2].content[0].__setitem__("text", "u"),
    "an extra field": lambda m: setattr(m[2], "custom", "other"),
    "a new extra field": lambda m: setattr(m[0], "more", 1),
    "a key renamed": lambda m: m[1].additional_kwargs.__setitem__("j", m[1].additional_kwargs.pop("k")),
    "another order": lambda m: m.reverse(),
    "an equal but other message": lambda m: m.__setitem__(0, HumanMessage("hello", id="1")),
}


def test_messages_that_stay_are_unchanged() -> None:
    items = messages()
    seen = watch(items)
    assert seen is not None
    assert unchanged(seen, list(items))


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_change_is_seen(change: str) -> None:
    items = messages()
    seen = watch(items)
    assert seen is not None
    CHANGES[change](items)
    assert not unchanged(seen, items)


def test_moving_a_border_between_containers_is_seen() -> None:
    first, second = AIMessage("a", additional_kwargs={"x": [[1], 2]}), AIMessage("a")
    seen = watch([first, second])
    assert seen is not None
    first.additional_kwargs["x"][0].append(first.additional_kwargs["x"].pop())
    assert not unchanged(seen, [first, second])


class Shouting(HumanMessage):
    """A subclass may serialize as it likes."""


@pytest.mark.parametrize("items", [[{"a": 1}], [object()], [Shouting("x")], [HumanMessage("a", kw=object())], [[1]]])
def test_what_cannot_be_watched_exactly_is_not(items: list[Any]) -> None:
    assert watch(items) is None


@pytest.mark.parametrize(
    ("before", "after"), [([1], [True]), ([1.0], [1]), ([(1, "a")], [(1, "a", 2)]), (["a"], ["a", "b"])]
)
def test_plain_items_are_compared_by_identity(before: list[Any], after: list[Any]) -> None:
    seen = watch(before)
    assert seen is not None
    assert unchanged(seen, list(before))
    assert not unchanged(seen, after)
