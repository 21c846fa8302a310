"""What the gateway tells of a run is what LangGraph streamed while a worker executed it, event for event, on a real database."""

from __future__ import annotations

import json
import operator
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, TypedDict

import pytest
from deepagents import create_deep_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from tests.integration.streaming_stage import Streaming, open_streaming
from tests.support.recorded import MODES, Event, comparable

from perdure.agent_step.shown import shown_checkpoint
from perdure.chassis.json import dumps

SCRIPT = [
    AIMessage("", tool_calls=[{"name": "write_file", "id": "c1", "args": {"file_path": "/a.txt", "content": "fig\n"}}]),
    AIMessage("", tool_calls=[{"name": "read_file", "id": "c2", "args": {"file_path": "/a.txt"}}]),
    AIMessage("It is about figs."),
]


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    n: int


def add_all(state: list[str], writes: Sequence[list[str]]) -> list[str]:
    return [*state, *(item for write in writes for item in write)]


class Notes(TypedDict, total=False):
    notes: Annotated[list[str], DeltaChannel(add_all, snapshot_frequency=3)]
    large: list[str]


class Scripted(GenericFakeChatModel):
    def bind_tools(self, *_: Any, **__: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        said = sum(isinstance(message, AIMessage) for message in messages)
        return ChatResult(generations=[ChatGeneration(message=SCRIPT[said].model_copy(update={"id": f"said-{said}"}))])


def says(text: str) -> Any:
    return lambda _: {"log": [text]}


def ask(_: State) -> State:
    return {"log": [f"answer {interrupt('may I?')}"]}


def fail(_: State) -> State:
    raise ValueError("broken")


def graphs() -> dict[str, Any]:
    fan = StateGraph(State).add_node("fan", says("fan")).add_node("last", says("last"))
    fan.add_node("work", lambda state: Command(update={"log": [f"{state['n']}"]}, goto="last" if state["n"] else ()))
    fan.add_edge(START, "fan").add_conditional_edges(
        "fan", lambda _: [Send("work", {"n": n}) for n in range(2)], ["work"]
    )
    joined = StateGraph(State)
    for name in ("a", "b", "c", "d"):
        joined.add_node(name, says(name))
    joined.add_edge(START, "a").add_edge("a", "b").add_edge("a", "c").add_edge(["b", "c"], "d")
    asking = StateGraph(State).add_sequence([("x", says("x")), ("ask", ask), ("z", says("z"))]).add_edge(START, "x")
    sub = StateGraph(State).add_node("before", says("before")).add_node("sub", asking.compile())
    sub.add_edge(START, "before").add_edge("before", "sub")
    failing = StateGraph(State).add_node("a", says("a")).add_node("fail", fail)
    failing.add_edge(START, "a").add_edge(START, "fail")
    noting = StateGraph(Notes)
    noting.add_sequence(
        [(f"n{n}", lambda _, n=n: {"notes": [f"{n}" * 2000], "large": ["x" * 3000] * n}) for n in range(6)]
    )
    noting.add_edge(START, "n0")
    named = {"fan": fan, "joined": joined, "asking": asking, "sub": sub, "failing": failing, "noting": noting}
    compiled: dict[str, Any] = {name: builder.compile() for name, builder in named.items()}
    return compiled | {"deep": create_deep_agent(model=Scripted(messages=iter(())))}


def listen(graph: Any, streamed: list[Event]) -> None:
    """Have a graph stream every mode to the test, and to the worker what it asked for."""
    astream = graph.astream

    async def listening(given: Any, config: Any, *, stream_mode: Any, **options: Any) -> AsyncIterator[Any]:
        assert stream_mode == "updates"
        async for ns, mode, data in astream(given, config, stream_mode=[*MODES], subgraphs=True, **options):
            streamed.append(("|".join(ns), mode, json.loads(dumps(data))))
            if mode == "updates" and not ns:
                yield data

    graph.astream = listening


@pytest.fixture(scope="module", name="streamed")
def _streamed() -> list[Event]:
    return []


@pytest.fixture(scope="module", name="streaming")
async def _streaming(mongodb_uri: str, kafka_bootstrap: str, streamed: list[Event]) -> AsyncIterator[Streaming]:
    patch = pytest.MonkeyPatch()
    patch.setattr(DeltaChannel, "checkpoint", shown_checkpoint)
    served = graphs()
    for graph in served.values():
        listen(graph, streamed)
    async with open_streaming(mongodb_uri, kafka_bootstrap, served) as opened:
        yield opened
    patch.undo()


async def compare(streaming: Streaming, streamed: list[Event], run: dict[str, Any]) -> None:
    told = await streaming.replay(run)
    said = [(ns, name, one.data) for one in told for name, _, ns in [one.name.partition("|")] if name in MODES]
    expected, found = comparable(streamed), comparable(said)
    assert found.keys() == expected.keys()
    for ns, events in expected.items():
        assert found[ns] == events, ns
    streamed.clear()


@pytest.mark.parametrize("graph", ["fan", "joined", "asking", "sub", "failing", "noting", "deep"])
async def test_the_stream_is_langgraphs(streaming: Streaming, streamed: list[Event], graph: str) -> None:
    given: dict[str, Any] = {"notes": ["in"]} if graph == "noting" else {"log": ["in"]}
    if graph == "deep":
        given = {"messages": [{"role": "user", "content": "write", "id": "first"}]}
    streamed.clear()
    stream = {"stream_mode": [*MODES], "stream_subgraphs": True}
    run = await streaming.run(graph, given, **stream)
    await compare(streaming, streamed, run)
    if run["status"] == "interrupted":
        again = await streaming.run(graph, None, run["thread_id"], command={"resume": "yes"}, **stream)
        await compare(streaming, streamed, again)


async def test_an_update_by_a_command_and_a_fork(streaming: Streaming, streamed: list[Event]) -> None:
    streamed.clear()
    stream = {"stream_mode": [*MODES], "stream_subgraphs": True}
    run = await streaming.run("asking", {"log": ["in"]}, **stream)
    await compare(streaming, streamed, run)
    command = {"update": {"log": ["from outside"]}, "resume": "yes"}
    again = await streaming.run("asking", None, run["thread_id"], command=command, **stream)
    await compare(streaming, streamed, again)
    history = (await streaming.http.get(f"/threads/{run['thread_id']}/history")).json()
    place = next(state for state in history if state["next"] == ["x"])["checkpoint"]["checkpoint_id"]
    forked = await streaming.run("asking", None, run["thread_id"], checkpoint_id=place, input=None, **stream)
    await compare(streaming, streamed, forked)
