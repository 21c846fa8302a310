"""langgraph.json: what is read, and what each mistake says."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.pregel import Pregel

from perdure.agent_step.graphs import load_graphs
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.json import OPTIONS

GRAPH = """
from langgraph.graph import StateGraph, START, END
from typing_extensions import TypedDict

class State(TypedDict):
    x: int

builder = StateGraph(State)
builder.add_node("n", lambda state: {"x": 1})
builder.add_edge(START, "n")
graph = builder.compile()
number = 7

async def make(config):
    return builder

def broken():
    raise RuntimeError("no key")
"""


@pytest.fixture
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    (tmp_path / "pkg_of_test").mkdir()
    (tmp_path / "pkg_of_test" / "__init__.py").touch()
    (tmp_path / "pkg_of_test" / "deep.py").write_text(GRAPH)
    path, modules = sys.path.copy(), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if "pkg_of_test" in name:
            del sys.modules[name]


def write(project: Path, **config: Any) -> Path:
    file = project / "langgraph.json"
    file.write_text(json.dumps({"dependencies": ["."]} | config))
    return file


@pytest.mark.parametrize(
    "target",
    ["./pkg_of_test/deep.py:graph", "pkg_of_test.deep:graph", "pkg_of_test/deep.py:builder", "pkg_of_test.deep:make"],
)
async def test_every_form_of_a_graph_is_served(project: Path, target: str) -> None:
    saver = InMemorySaver()
    served = (await load_graphs(write(project, graphs={"g": target}), saver))["g"]
    assert served.nodes == ("n",)
    assert served.graph.checkpointer is saver
    assert served.document()["nodes"] == ["n"]
    again = (await load_graphs(write(project, graphs={"g": target}), saver))["g"]
    assert again.version == served.version


async def test_environment_of_the_project_does_not_override_the_process(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERDURE_TEST_A", "process")
    monkeypatch.delenv("PERDURE_TEST_B", raising=False)
    (project / ".env").write_text("PERDURE_TEST_A=file\nPERDURE_TEST_B=file\n")
    await load_graphs(write(project, graphs={"g": "pkg_of_test.deep:graph"}, env=".env"), InMemorySaver())
    assert (os.environ["PERDURE_TEST_A"], os.environ.pop("PERDURE_TEST_B")) == ("process", "file")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ["graphs", "graph id"]),
        ({"graphs": {"g": "agent.py"}}, ["'g'", "<file.py or module>:<variable>"]),
        ({"graphs": {"g": "./none.py:graph"}}, ["'g'", "none.py", "does not exist"]),
        ({"graphs": {"g": "no_such_module:graph"}}, ["'g'", "no_such_module", "ModuleNotFoundError"]),
        ({"graphs": {"g": "pkg_of_test.deep:nothing"}}, ["'g'", "no variable 'nothing'"]),
        ({"graphs": {"g": "pkg_of_test.deep:number"}}, ["'g'", "int", "not a LangGraph graph"]),
        ({"graphs": {"g": "pkg_of_test.deep:broken"}}, ["'g'", "no key"]),
        ({"graphs": {"g": "pkg_of_test.deep:graph"}, "env": "missing.env"}, ["missing.env", "does not exist"]),
        (
            {"graphs": {"g": "pkg_of_test.deep:graph"}, "dependencies": ["no-such-distribution>=1"]},
            ["no-such-distribution>=1", "not installed"],
        ),
        ({"graphs": {"g": "pkg_of_test.deep:graph"}, "dependencies": ["./nowhere"]}, ["nowhere", "no folder"]),
    ],
)
async def test_every_mistake_says_what_and_where(project: Path, config: dict[str, Any], words: list[str]) -> None:
    file = write(project, **config)
    with pytest.raises(ConfigurationError) as caught:
        await load_graphs(file, InMemorySaver())
    assert str(file) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


async def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="PERDURE_LANGGRAPH_CONFIG"):
        await load_graphs(tmp_path / "langgraph.json", InMemorySaver())
    (tmp_path / "langgraph.json").write_text("{")
    with pytest.raises(ConfigurationError, match="not JSON"):
        await load_graphs(tmp_path / "langgraph.json", InMemorySaver())


@pytest.mark.parametrize(
    "block",
    [
        {"store": {"index": {}, "ttl": {"default_ttl": 60}}},
        {"http": {"app": "./app.py:app"}},
        {"checkpointer": {"ttl": {"default_ttl": 60}}},
        {"ui": {"agent": "./ui.tsx"}},
        {"webhooks": {"url": {"require_https": True}}},
        {"encryption": {"path": "./e.py:e"}},
    ],
)
async def test_a_block_that_would_be_without_effect_stops_the_start(project: Path, block: dict[str, Any]) -> None:
    (name,) = block
    file = write(project, graphs={"g": "./pkg_of_test/deep.py:graph"}, **block)
    with pytest.raises(ConfigurationError, match=f'langgraph.json: "{name}" is not supported: .*Remove the block'):
        await load_graphs(file, InMemorySaver())


async def test_blocks_for_building_images_are_passed_over(project: Path) -> None:
    harmless = {
        "$schema": "https://langgra.ph/schema.json", "python_version": "3.11", "dockerfile_lines": ["RUN true"],
        "pip_config_file": "pip.conf", "image_distro": "wolfi", "base_image": "x", "env": {}, "auth": None, "http": {},
    }  # fmt: skip
    assert "g" in await load_graphs(
        write(project, graphs={"g": "./pkg_of_test/deep.py:graph"}, **harmless), InMemorySaver()
    )


async def test_each_drawing_is_made_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = Pregel.get_graph

    def counted(graph: Any, config: Any = None, *, xray: int | bool = False) -> Any:
        drawn.append(int(xray))
        return draw(graph, config, xray=xray)

    monkeypatch.setattr(Pregel, "get_graph", counted)
    served = await load_graphs(write(project, graphs={"g": "./pkg_of_test/deep.py:graph"}), InMemorySaver())
    document = served["g"].document()
    assert drawn == [0, 1], "once for the version and the first drawing, once to see that there are no subgraphs"
    (drawing,) = document["drawings"]
    assert [node["id"] for node in drawing["nodes"]] == ["__start__", "n", "__end__"]
    digest = hashlib.sha256(orjson.dumps(draw(served["g"].graph).to_json(), option=OPTIONS)).hexdigest()
    assert document["version"] == digest[:16]
