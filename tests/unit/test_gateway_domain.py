"""What the gateway decides, without servers."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from uuid import UUID

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Interrupt, Send
from pydantic import BaseModel

from perdure.chassis.payload import pack, unpack
from perdure.checkpoint.plain import plain_serializer, visible_values
from perdure.gateway.http.requests import request_digest
from perdure.gateway.http.values import metadata_problem
from perdure.gateway.resources.named import is_thread_id
from perdure.gateway.resources.runs.views import payload_of, traceparent_of
from perdure.registry import runs
from perdure.schemas.http import RunCreate


class Colour(Enum):
    RED = "red"


class Finding(BaseModel):
    line: int
    colour: Colour


def plain(value: object) -> object:
    return plain_serializer().loads_typed(JsonPlusSerializer().dumps_typed(value))


def test_assistant_ids_are_those_of_the_agent_server() -> None:
    assert runs.assistant_id_of("agent") == "fe096781-5601-53d2-b2f6-0d3403f7e9ca"


def test_ids_sort_by_time() -> None:
    ids = [runs.new_id() for _ in range(100)]
    assert ids == sorted(ids)


@pytest.mark.parametrize("text", ["a", "a" * 128, "01a20b4e-e31a-74d7-8288-adc116f17f8b", "user:7.x_y"])
def test_thread_ids(text: str) -> None:
    assert is_thread_id(text)


@pytest.mark.parametrize("text", ["", "a" * 129, "a b", "a/b", "a\x1fb", "é", "a\n"])
def test_no_thread_ids(text: str) -> None:
    assert not is_thread_id(text)


def test_a_valid_traceparent_is_kept() -> None:
    valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert traceparent_of(valid) == valid


@pytest.mark.parametrize(
    "header", [None, "", "nonsense", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-4BF9-00f067aa0ba902b7-01"]
)
def test_another_traceparent_is_made(header: str | None) -> None:
    made = traceparent_of(header)
    assert made != header
    assert traceparent_of(made) == made


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert request_digest("/runs", {"a": 1, "b": 2}) == request_digest("/runs", {"b": 2, "a": 1})
    assert request_digest("/runs", {"a": 1}) != request_digest("/threads/t/runs", {"a": 1})
    assert request_digest("/runs", {"a": 1}) != request_digest("/runs", {"a": 2})


def test_the_payload_keeps_what_a_run_needs() -> None:
    body = {
        "assistant_id": "agent",
        "input": {"x": 1},
        "config": {"tags": ["t"]},
        "metadata": {"m": 1},
        "context": None,
        "checkpoint": {"checkpoint_id": "1f"},
    }
    payload = payload_of(body, RunCreate.model_validate(body))
    assert payload == {"input": {"x": 1}, "config": {"tags": ["t"]}, "checkpoint_id": "1f"}
    assert unpack(pack(payload).inline) == payload


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"a": 2**63}, "64 bits"),
        ({"a": {"b\0": 1}}, "NUL"),
        ({"a": "x" * 70_000}, "65536"),
    ],
)
def test_metadata_that_cannot_be_stored(metadata: dict[str, object], says: str) -> None:
    problem = metadata_problem(metadata)
    assert problem is not None
    assert says in problem


def test_deep_metadata_is_refused() -> None:
    deep: dict[str, object] = {}
    for _ in range(40):
        deep = {"d": deep}
    assert "32 levels" in (metadata_problem(deep) or "")
    assert metadata_problem({"a": [1, {"b": None}], "$x.y": 2}) is None
    for long in ({"k" * 1024: 1}, {"a": [{"k" * 600: {"k" * 600: 1}}]}):
        assert "longer than 1024 characters" in (metadata_problem(long) or "")
    assert metadata_problem({"k" * 500: {"k" * 500: 1}}) is None


def test_messages_come_out_as_the_agent_server_shows_them() -> None:
    human, ai = HumanMessage("hello", id="1"), AIMessage("hi", id="2")
    assert plain([human, ai]) == [human.model_dump(), ai.model_dump()]


def test_objects_come_out_as_data() -> None:
    moment = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    assert plain(
        {
            "finding": Finding(line=3, colour=Colour.RED),
            "uuid": UUID(int=5),
            "when": moment,
            "day": date(2026, 1, 2),
            "long": timedelta(hours=1),
            "set": {1},
            "path": Path("/a/b"),
            "cost": Decimal("1.50"),
            "send": Send("n", {"x": 1}),
            "bytes": b"12",
        }
    ) == {
        "finding": {"line": 3, "colour": "red"},
        "uuid": str(UUID(int=5)),
        "when": moment.isoformat(),
        "day": "2026-01-02",
        "long": 3600.0,
        "set": [1],
        "path": "/a/b",
        "cost": "1.50",
        "send": {"node": "n", "arg": {"x": 1}},
        "bytes": b"12",
    }


def test_interrupts_keep_id_and_value() -> None:
    shown = plain(Interrupt(value={"ask": "go?"}, id="i"))
    assert isinstance(shown, dict)
    assert (shown["id"], shown["value"]) == ("i", {"ask": "go?"})


def test_nothing_is_imported_by_a_name_in_the_data() -> None:
    import ormsgpack

    inner = ormsgpack.packb(("perdure_no_such_module", "Evil", {"a": 1}, "model_validate_json"))
    data = ormsgpack.packb(ormsgpack.Ext(5, inner))
    assert plain_serializer().loads_typed(("msgpack", data)) == {"a": 1}


def test_internal_channels_are_hidden() -> None:
    channels = {"messages": [1], "__start__": 1, "branch:to:a": None, "__pregel_tasks": [], "start:a": 1}
    assert visible_values(channels) == {"messages": [1]}
    assert visible_values({"__root__": "text"}) == "text"
