"""What a client may set in a run's configuration: the gateway's models refuse the rest, workers leave it out."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from perdure.schemas import run_config
from perdure.schemas.http import RunCreate

ORDINARY: list[dict[str, Any]] = [
    {},
    {"configurable": {"thread_id": "T"}},
    {"configurable": {"thread_id": "T", "run_id": "R", "graph_id": "g", "user": "ann", "model": "m"}},
    {"configurable": {"checkpoint_id": None, "checkpoint_ns": ""}, "callbacks": None},
    {
        "tags": ["a"], "recursion_limit": 50, "run_name": "n", "max_concurrency": 2, "metadata": {"a": 1},
        "configurable": None,
    },
]  # fmt: skip
RESERVED: list[dict[str, Any]] = [
    {"configurable": {"langgraph_auth_user": {"identity": "admin"}}},
    {"configurable": {"__pregel_checkpointer": False}},
    {"configurable": {"__perdure_run": {}}},
    {"configurable": {"checkpoint_map": {"": "x"}}},
    {"configurable": {"checkpoint_id": "x"}},
    {"configurable": {"perdure_x": 1}},
    {"callbacks": []},
    {"run_id": "x"},
    {"store": {}},
]


@pytest.mark.parametrize("config", ORDINARY)
def test_what_clients_send_is_taken(config: dict[str, Any]) -> None:
    assert RunCreate.model_validate({"assistant_id": "g", "config": config}).config is not None
    assert run_config.allowed(config)[1] in ([], ["configurable.checkpoint_id", "configurable.checkpoint_ns"])


@pytest.mark.parametrize("config", RESERVED)
def test_what_is_the_systems_is_refused_and_left_out(config: dict[str, Any]) -> None:
    named = next(iter(config.get("configurable") or config))
    with pytest.raises(ValidationError, match=named):
        RunCreate.model_validate({"assistant_id": "g", "config": config})
    kept, dropped = run_config.allowed(config | {"tags": ["a"]})
    assert dropped == [f"configurable.{named}" if "configurable" in config else named]
    assert kept in ({"tags": ["a"]}, {"tags": ["a"], "configurable": {}})
