"""What nodes say, as JSON: whatever they say, and as clients of the Agent Server read it."""

from __future__ import annotations

import json
import math
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langgraph.types import Command, Interrupt, Send
from pydantic import BaseModel

from perdure.agent_step.said import MessageEncoder, encode
from perdure.checkpoint import RunScope

MESSAGES = [
    AIMessageChunk("Zoë", id="run-1"),
    AIMessageChunk([{"type": "text", "text": "a", "index": 0}], id="run-2", response_metadata={"model": "x"}),
    AIMessageChunk(
        "",
        id="run-3",
        tool_call_chunks=[{"name": "f", "args": '{"a', "id": "c", "index": 0, "type": "tool_call_chunk"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    ),
    AIMessage("done", id="1", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}]),
    HumanMessage("hi", id="2", additional_kwargs={"x": None}),
    ToolMessage("found", tool_call_id="c", id="3", artifact={"rows": [1, 2]}),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: f"{m.type}-{m.id}")
def test_a_message_is_its_model_dump(message: Any) -> None:
    assert json.loads(encode(message)) == json.loads(json.dumps(message.model_dump()))


def test_a_message_with_its_metadata() -> None:
    encoder = MessageEncoder()
    metadata = {"langgraph_node": "agent", "tags": ["a"]}
    for message in MESSAGES:
        assert json.loads(encoder.encode(message, metadata)) == [json.loads(encode(message)), metadata]


def test_metadata_of_another_call_is_not_taken_for_the_first_ones() -> None:
    encoder = MessageEncoder()
    for n in range(300):
        assert json.loads(encoder.encode("m", {"n": n})) == ["m", {"n": n}]


@dataclass
class Point:
    x: int
    y: Any


class Model(BaseModel):
    name: str


Pair = namedtuple("Pair", "a b")


class Fails:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Point(1, Point(2, None)), {"x": 1, "y": {"x": 2, "y": None}}),
        (Model(name="a"), {"name": "a"}),
        ([Pair(1, 2)], [{"a": 1, "b": 2}]),
        (Send("node", {"a": 1}), {"node": "node", "args": {"a": 1}}),
        ({"i": Interrupt("sure?", id="1")}, {"i": {"value": "sure?", "id": "1", "response_schema": None}}),
        (ValueError("wrong"), {"error": "ValueError", "message": "wrong"}),
        ({1: {"b", "a"}}, {"1": ["a", "b"]}),
        (b"abc", "<3 bytes>"),
        (math.nan, None),
        ({"big": 2**70, "nan": math.inf}, {"big": 2**70, "nan": None}),
        ("\ud800 ok", "? ok"),
        ({"\ud800": ["\udfff", AIMessageChunk("\ud800").content]}, {"?": ["?", "?"]}),
    ],
)
def test_every_value_is_said(value: Any, expected: Any) -> None:
    assert json.loads(encode(value)) == expected


@pytest.mark.parametrize("value", [Fails(), [Fails()], {"a": Fails(), "b": "\ud800"}])
def test_a_value_that_fails_stops_nothing(value: Any) -> None:
    assert "not JSON" in json.loads(encode(value))


def test_a_value_that_holds_itself_stops_nothing() -> None:
    value: list[Any] = []
    value.append(value)
    assert "too deep" in encode(value).decode()


def test_a_message_that_utf8_cannot_say_keeps_its_shape() -> None:
    said = json.loads(encode(AIMessageChunk("a\ud800", id="1")))
    assert (said["type"], said["content"], said["id"]) == ("AIMessageChunk", "a?", "1")


def test_our_own_configuration_is_not_said() -> None:
    scope = RunScope("thread", "run", 1, 1)
    config = {"configurable": {"__perdure_run": scope, "__pregel_send": print, "thread_id": "t"}, "tags": []}
    assert json.loads(encode({"config": config})) == {"config": {"configurable": {"thread_id": "t"}, "tags": []}}


@pytest.mark.parametrize(
    "value", ["a text with __perdure in it", {"path": ["__pregel_pull"]}, ['a "__pregel": b', "__perdure:"]]
)
def test_values_that_only_look_like_it_are_said(value: Any) -> None:
    assert json.loads(encode(value)) == value


def test_a_command_is_said_as_the_agent_server_does() -> None:
    said = json.loads(encode(Command(update={"a": 1}, goto="b")))
    assert (said["update"], said["goto"]) == ({"a": 1}, "b")
