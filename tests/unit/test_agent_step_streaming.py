"""What is told of a graph while it runs: LangGraph itself, without servers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.types import interrupt

from perdure.agent_step.chunks import Asked, RunChunks
from perdure.agent_step.said import MessageEncoder, encode
from perdure.agent_step.streaming import updates
from perdure.checkpoint import SCOPE_KEY, RunScope


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Told(RunChunks):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, Any]] = []
        self.encoder = MessageEncoder()

    def message(self, ns: str, message: Any, metadata: Any) -> None:
        self.said.append(("messages", ns, json.loads(self.encoder.encode(message, metadata))))

    def add(self, mode: str, ns: str, data: Any) -> None:
        self.said.append((mode, ns, json.loads(encode(data))))

    def of(self, mode: str) -> list[tuple[str, Any]]:
        return [(ns, data) for one, ns, data in self.said if one == mode]

    def texts(self) -> list[tuple[str, str, str]]:
        """Of each message: namespace, type, content."""
        return [(ns.partition(":")[0], one["type"], one["content"]) for ns, (one, _) in self.of("messages")]


def model(*texts: str) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage(text) for text in texts]))


async def speaks(state: State) -> dict[str, Any]:
    return {"messages": [await model("one two").ainvoke(state["messages"])]}


def writes(state: State) -> dict[str, Any]:
    get_stream_writer()({"progress": 0.5})
    return {"messages": [AIMessage("whole", id="whole")]}


def asks(state: State) -> dict[str, Any]:
    return {"messages": [HumanMessage(str(interrupt("sure?")), id="answer")]}


def graph_of(**nodes: Callable[[State], Any] | Any) -> Any:
    """The nodes one after another."""
    builder = StateGraph(State)
    for name, node in nodes.items():
        builder.add_node(name, node)
    for before, after in zip([START, *nodes], [*nodes, END], strict=True):
        builder.add_edge(before, after)
    return builder


def config() -> Any:
    scope = RunScope("thread", "run", 1, 1)
    own = {"thread_id": "thread", "run_id": "run", SCOPE_KEY: scope}
    return {"configurable": own, "metadata": {"run_id": "run"}, "run_id": uuid.uuid4(), "tags": ["mine"]}


async def run(graph: Any, *modes: str, subgraphs: bool = False, **more: Any) -> tuple[Told, list[Any]]:
    """What is told, and the updates."""
    told = Told()
    compiled = graph.compile(checkpointer=InMemorySaver())
    given = {"messages": [HumanMessage("hi", id="hi")]}
    asked = Asked(frozenset(modes), subgraphs)
    options = {"durability": "sync", **more}
    return told, [part async for part in updates(compiled, given, config(), asked, told, options)]


@pytest.mark.parametrize("mode", ["messages", "messages-tuple"])
async def test_chunks_of_a_model_and_messages_that_a_node_returns_whole(mode: str) -> None:
    told, got = await run(graph_of(agent=speaks, writer=writes), mode)
    assert told.texts() == [
        ("", "AIMessageChunk", "one"),
        ("", "AIMessageChunk", " "),
        ("", "AIMessageChunk", "two"),
        ("", "ai", "whole"),
    ]
    assert [list(update) for update in got] == [["agent"], ["writer"]]
    messages = [data[0] for _, data in told.of("messages")]
    assert len({one["id"] for one in messages[:3]}) == 1
    assert messages[0]["id"] == got[0]["agent"]["messages"][0].id


async def test_the_metadata_of_a_message() -> None:
    told, _ = await run(graph_of(agent=speaks), "messages")
    for _, (_, metadata) in told.of("messages"):
        assert metadata["langgraph_node"] == "agent"
        assert metadata["langgraph_checkpoint_ns"].startswith("agent:")
        assert metadata["run_id"] == "run"
        assert metadata["tags"] == ["mine"]
        assert not [name for name in metadata if name.startswith("__")]


async def test_what_a_node_writes() -> None:
    told, _ = await run(graph_of(writer=writes), "custom")
    assert told.said == [("custom", "", {"progress": 0.5})]


async def test_subgraphs_are_told_where_asked_for_and_with_their_namespace() -> None:
    graph = graph_of(child=graph_of(inner=speaks, writer=writes).compile())
    told, got = await run(graph, "messages", "custom")
    assert told.of("custom") == []
    assert {ns for ns, _, _ in told.texts()} == {""}
    told, within = await run(graph, "messages", "custom", subgraphs=True)
    assert [ns.partition(":")[0] for ns, _ in told.of("custom")] == ["child"]
    assert told.texts()[:3] == [("child", "AIMessageChunk", text) for text in ("one", " ", "two")]
    assert [list(update) for update in got] == [list(update) for update in within] == [["child"]]


async def test_an_interrupt_of_a_subgraph_is_the_roots_once() -> None:
    graph = graph_of(child=graph_of(asks=asks).compile())
    for modes in (("messages",), ("events",)):
        _, got = await run(graph, *modes, subgraphs=True)
        assert [[one.value for one in update["__interrupt__"]] for update in got] == [["sure?"]]


@pytest.mark.parametrize("subgraphs", [False, True])
async def test_events_beside_messages_and_custom(subgraphs: bool) -> None:
    told, got = await run(graph_of(agent=speaks, writer=writes), "events", "messages", "custom", subgraphs=subgraphs)
    assert [list(update) for update in got] == [["agent"], ["writer"]]
    assert [text for _, _, text in told.texts()] == ["one", " ", "two", "whole"]
    assert told.of("custom") == [("", {"progress": 0.5})]
    events = [data for _, data in told.of("events")]
    names = [event["event"] for event in events]
    assert names[0] == "on_chain_start"
    assert names[-1] == "on_chain_end"
    assert names.count("on_chat_model_start") == names.count("on_chat_model_end") == 1
    tokens = [e["data"]["chunk"]["content"] for e in events if e["event"] == "on_chat_model_stream"]
    assert [token for token in tokens if token] == ["one", " ", "two"]
    assert "__perdure" not in json.dumps(events)
    roots = {event["run_id"] for event in events if not event["parent_ids"]}
    assert len(roots) == 1
    assert not [e for e in events if e["event"] == "on_chain_stream" and e["run_id"] in roots]


async def test_what_is_hidden_is_not_told() -> None:
    async def quiet(state: State) -> dict[str, Any]:
        silent = model("secret").with_config(tags=["nostream"])
        await RunnableLambda(lambda _: "x", name="hidden").with_config(tags=["langsmith:hidden"]).ainvoke("x")
        await silent.ainvoke(state["messages"])
        return {}

    told, _ = await run(graph_of(quiet=quiet), "messages")
    assert told.texts() == []
    told, _ = await run(graph_of(quiet=quiet), "events")
    assert "hidden" not in {event["name"] for _, event in told.of("events")}
    assert "quiet" in {event["name"] for _, event in told.of("events")}


async def test_what_was_said_comes_before_the_superstep_is_stored() -> None:
    told = Told()

    class Saver(InMemorySaver):
        async def aput(self, *arguments: Any) -> Any:
            if arguments[2]["source"] == "loop":
                said.append([text for _, _, text in told.texts()])
            return await super().aput(*arguments)

    said: list[list[str]] = []
    compiled = graph_of(agent=speaks, writer=writes).compile(checkpointer=Saver())
    given = {"messages": [HumanMessage("hi", id="hi")]}
    asked = Asked(frozenset({"messages"}))
    async for _ in updates(compiled, given, config(), asked, told, {"durability": "sync"}):
        pass
    assert said == [[], ["one", " ", "two"], ["one", " ", "two", "whole"]]


@pytest.mark.parametrize("mode", ["messages", "events"])
async def test_a_failure_is_raised_after_what_was_said(mode: str) -> None:
    async def fails(state: State) -> dict[str, Any]:
        await model("one two").ainvoke("x")
        raise ValueError("on purpose")

    told = Told()
    compiled = graph_of(fails=fails).compile(checkpointer=InMemorySaver())
    asked = Asked(frozenset({mode}))
    with pytest.raises(ValueError, match="on purpose"):
        async for _ in updates(compiled, {"messages": []}, config(), asked, told, {"durability": "sync"}):
            pass
    assert "two" in json.dumps(told.said)
