"""A worker that tells what nodes say while they run, on real servers: order, numbers, owners, and nothing when nobody asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.types import interrupt
from tests.integration.stream_stage import Reader, history, reading, superstep_chunks, texts
from tests.integration.worker_stage import Stage, open_worker
from tests.support.polling import until

from perdure.agent_step.handlers import handle
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.payload import pack
from perdure.schemas import topics
from perdure.schemas.commands import StreamRun
from perdure.schemas.envelope import Decoded


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Agent:
    """Nodes that speak, and wait between two words where the test wants them to."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def first(self, _: State) -> dict[str, Any]:
        return await self._say("first", "one two")

    async def second(self, _: State) -> dict[str, Any]:
        return await self._say("second", "three four")

    async def third(self, _: State) -> dict[str, Any]:
        get_stream_writer()({"progress": 1})
        return {"messages": [AIMessage("whole", id="whole")]}

    async def asks(self, _: State) -> dict[str, Any]:
        await self._say("asks", "may I")
        return {"messages": [AIMessage(str(interrupt("sure?")), id="answer")]}

    async def _say(self, node: str, text: str) -> dict[str, Any]:
        self.entered.append(node)
        model = GenericFakeChatModel(messages=iter([AIMessage(text)]))
        said: Any = None
        async for chunk in model.astream("hi"):
            said = chunk if said is None else said + chunk
            await self.go_on.wait()
        return {"messages": [AIMessage(said.content, id=said.id)]}

    def graph(self, *names: str) -> Any:
        builder = StateGraph(State)
        for name in names:
            builder.add_node(name, getattr(self, name))
        for before, after in zip([START, *names], [*names, END], strict=True):
            builder.add_edge(before, after)
        return builder

    def loop(self) -> Any:
        builder = StateGraph(State)
        builder.add_node("first", self.first)
        builder.add_edge(START, "first")
        builder.add_edge("first", "first")
        return builder.compile()

    def parent(self) -> Any:
        builder = StateGraph(State)
        builder.add_node("child", self.graph("first", "second").compile())
        builder.add_node("third", self.third)
        builder.add_edge(START, "child")
        builder.add_edge("child", "third")
        return builder.compile()


@pytest.fixture
async def agent() -> Agent:
    return Agent()


@pytest.fixture
async def reader(kafka_bootstrap: str) -> AsyncIterator[Reader]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    with reading(kafka_bootstrap) as reader:
        yield reader


@pytest.fixture
async def stage(mongodb_uri: str, kafka_bootstrap: str, agent: Agent, reader: Reader) -> AsyncIterator[Stage]:
    """A worker; the topics are there before it is."""
    assert reader
    graphs = {
        "graph": agent.graph("first", "second", "third").compile(),
        "asks": agent.graph("first", "asks").compile(),
        "parent": agent.parent(),
        "loop": agent.loop(),
    }
    async with open_worker(mongodb_uri, kafka_bootstrap, graphs) as stage:
        yield stage
        agent.go_on.set()


def payload(*modes: str, subgraphs: bool = False, **more: Any) -> bytes:
    asked = {"stream": {"modes": ["values", *modes], "subgraphs": subgraphs}} if modes else {}
    return pack({"input": {"messages": []}, **asked, **more}).inline


async def started(stage: Stage, graph: str = "graph", *modes: str, **more: Any) -> dict[str, Any]:
    run = await stage.run(graph, payload=payload(*modes, **more))
    await stage.worker.start([run["thread_id"]])
    return run


async def asked(stage: Stage, run: Mapping[str, Any], *modes: str) -> None:
    command = StreamRun(tenant="default", thread_id=run["thread_id"], run_id=run["_id"], modes=modes)
    await handle(stage.worker, [Decoded(None, command)])  # type: ignore[arg-type]


async def test_the_chunks_of_a_superstep_come_before_the_record_that_says_it_is_durable(
    stage: Stage, reader: Reader
) -> None:
    run = await stage.until(await started(stage, "graph", "messages-tuple", "custom"), "success")
    told = superstep_chunks(await reader.until_end(run))
    entries = await history(stage, run)
    assert list(told) == [entry["seq"] for entry in entries]
    by_nodes = {
        tuple(entry["ev"]["nodes"]): texts(told[entry["seq"]]) for entry in entries if entry["kind"] == "c" and entry["ev"]["nodes"]
    }  # fmt: skip
    assert by_nodes == {("first",): ["one", " ", "two"], ("second",): ["three", " ", "four"], ("third",): ["whole"]}
    assert [chunk.data for chunks in told.values() for chunk in chunks if chunk.mode == "custom"] == [{"progress": 1}]
    second = next(entry["seq"] for entry in entries if entry["ev"].get("nodes") == ["second"])
    (message, metadata) = told[second][0].data
    assert (message["type"], metadata["run_id"], metadata["langgraph_node"]) == ("AIMessageChunk", run["_id"], "second")
    assert "__perdure_run" not in metadata


async def test_the_first_word_is_told_while_the_node_still_speaks(stage: Stage, reader: Reader, agent: Agent) -> None:
    agent.go_on.clear()
    run = await started(stage, "graph", "messages")
    await reader.until_chunk(run, "one")
    assert (await stage.stored(run))["status"] == "running"
    assert agent.entered == ["first"]


async def test_nothing_is_told_when_nobody_asked(stage: Stage, reader: Reader) -> None:
    silent = await stage.until(await started(stage), "success")
    durable = await stage.until(await started(stage, "graph", "updates", "debug"), "success")
    told = await stage.until(await started(stage, "graph", "custom"), "success")
    await reader.until_end(told)
    for run in (silent, durable):
        # In the same partition the reader is past everything; in another it reads on until nothing comes.
        await reader.read()
        assert reader.of(run) == []


async def test_subgraphs_with_their_namespace_and_their_own_supersteps(stage: Stage, reader: Reader) -> None:
    run = await stage.until(await started(stage, "parent", "messages", subgraphs=True), "success")
    told = superstep_chunks(await reader.until_end(run))
    entries = await history(stage, run)
    assert list(told) == [entry["seq"] for entry in entries]
    inner = [entry for entry in entries if entry["kind"] == "c" and entry["ns"] and entry["ev"]["nodes"]]
    assert [texts(told[entry["seq"]]) for entry in inner] == [["one", " ", "two"], ["three", " ", "four"]]
    assert {chunk.ns for entry in inner for chunk in told[entry["seq"]]} == {inner[0]["ns"]}
    assert (await stage.stored(run))["status"] == "success"


async def test_events_of_langchain(stage: Stage, reader: Reader) -> None:
    run = await stage.until(await started(stage, "graph", "events"), "success")
    told = superstep_chunks(await reader.until_end(run))
    events = [chunk.data for chunks in told.values() for chunk in chunks]
    names = [event["event"] for event in events]
    assert names.count("on_chat_model_end") == 2
    assert "__perdure" not in str(events)
    (root,) = {event["run_id"] for event in events if not event["parent_ids"]}
    assert root == run["_id"]


async def test_an_interrupt_and_what_is_said_after_it(stage: Stage, reader: Reader) -> None:
    run = await stage.until(await started(stage, "asks", "messages", subgraphs=True), "interrupted")
    told = superstep_chunks(await reader.until_end(run))
    assert [texts(chunks) for chunks in told.values() if chunks] == [["one", " ", "two"], ["may", " ", "I"]]
    thread = await stage.db.threads.find_one({"_id": run["thread_id"]})
    assert thread is not None
    assert [one["value"] for one in thread["interrupts"]] == ["sure?"]
    answer = await stage.run(
        "asks", thread_id=run["thread_id"], new_thread=False, payload=payload("messages", command={"resume": "yes"})
    )
    await stage.worker.start([run["thread_id"]])
    answered = await stage.until(answer, "success")
    resumed = superstep_chunks(await reader.until_end(answered))
    assert [texts(chunks) for chunks in resumed.values() if chunks] == [["may", " ", "I", "yes"]]


async def test_who_asks_in_the_middle_is_told_from_the_next_superstep_on_and_nothing_is_executed_twice(
    stage: Stage, reader: Reader, agent: Agent
) -> None:
    agent.go_on.clear()
    run = await started(stage)
    await until(lambda: agent.entered, "the first node is entered")
    await asked(stage, run, "messages", "custom")
    await asked(stage, run, "messages")
    agent.go_on.set()
    ended = await stage.until(run, "success")
    assert ended["epoch"] == 1
    assert agent.entered == ["first", "second"]
    records = await reader.until_end(ended)
    entries = await history(stage, ended)
    assert [entry["event"] for entry in entries if entry["kind"] == "e"] == ["started", "success"]
    assert records[0].chunks, "nothing says that the first superstep was told"
    base = records[0].seq
    assert entries[base - entries[0]["seq"]]["ev"]["nodes"] == ["first"]
    said = [chunk for one in records for chunk in one.chunks]
    assert texts(said) == ["three", " ", "four", "whole"]
    assert [one.before for one in records if not one.chunks] == [3, 2, 0]
    assert {one.modes for one in records} == {("custom", "messages")}


async def test_who_asks_in_the_middle_does_not_make_the_recursion_limit_start_anew(
    stage: Stage, reader: Reader, agent: Agent
) -> None:
    alone = await stage.until(await started(stage, "loop", config={"recursion_limit": 5}), "error")
    executed = len(agent.entered)
    agent.entered.clear()
    agent.go_on.clear()
    run = await started(stage, "loop", config={"recursion_limit": 5})
    await until(lambda: agent.entered, "the node is entered")
    await asked(stage, run, "messages")
    agent.go_on.set()
    failed = await stage.until(run, "error")
    assert len(agent.entered) == executed
    assert {name: failed["error"][name] for name in ("type", "message")} == {
        "type": "langgraph.errors.GraphRecursionError", "message": alone["error"]["message"],
    }  # fmt: skip
    assert failed["steps"] == alone["steps"]
    assert texts([chunk for one in await reader.until_end(failed) for chunk in one.chunks])[:3] == ["one", " ", "two"]


async def test_modes_are_added_to_those_that_are_told(stage: Stage, reader: Reader, agent: Agent) -> None:
    agent.go_on.clear()
    run = await started(stage, "graph", "custom")
    await until(lambda: agent.entered, "the first node is entered")
    await asked(stage, run, "messages")
    agent.go_on.set()
    records = await reader.until_end(await stage.until(run, "success"))
    told = superstep_chunks(records)
    assert [texts(chunks) for chunks in told.values() if texts(chunks)] == [["three", " ", "four"], ["whole"]]
    assert [one.modes for one in records if not one.chunks] == [("custom",)] * 4 + [("custom", "messages")] * 3


async def test_who_asks_before_the_run_is_executed_is_told_all_of_it(stage: Stage, reader: Reader) -> None:
    run = await stage.run(payload=payload())
    await asked(stage, run, "messages")
    await stage.worker.start([run["thread_id"]])
    told = superstep_chunks(await reader.until_end(await stage.until(run, "success")))
    assert [texts(chunks) for chunks in told.values() if chunks] == [
        ["one", " ", "two"],
        ["three", " ", "four"],
        ["whole"],
    ]


async def test_a_run_that_is_handed_over_is_told_by_both_owners(stage: Stage, reader: Reader, agent: Agent) -> None:
    agent.go_on.clear()
    run = await started(stage, "graph", "messages")
    await reader.until_chunk(run, "one")
    execution = stage.worker._open[run["_id"]]
    assert execution is not None
    execution.drain()
    agent.go_on.set()
    await stage.until(run, "pending")
    await stage.worker.start([run["thread_id"]])
    ended = await stage.until(run, "success")
    records = await reader.until_end(ended)
    first, second = ([one for one in records if one.epoch == epoch] for epoch in (1, 2))
    assert records == first + second
    assert [texts(chunks) for chunks in superstep_chunks(first).values() if chunks] == [["one", " ", "two"]]
    assert [texts(chunks) for chunks in superstep_chunks(second).values() if chunks] == [
        ["three", " ", "four"],
        ["whole"],
    ]
    assert agent.entered == ["first", "second"]


async def test_what_a_lost_owner_said_is_said_once_more_by_the_next(stage: Stage, reader: Reader, agent: Agent) -> None:
    agent.go_on.clear()
    run = await started(stage, "graph", "messages")
    await reader.until_chunk(run, "one")
    stage.worker.lose_everything()
    stage.worker.resume()
    await stage.until(run, "pending")
    agent.go_on.set()
    await stage.worker.start([run["thread_id"]])
    ended = await stage.until(run, "success")
    records = await reader.until_end(ended)
    first, second = ([one for one in records if one.epoch == epoch] for epoch in (1, 2))
    assert texts([chunk for one in first for chunk in one.chunks]) == ["one"]
    told = superstep_chunks(second)
    assert [texts(chunks) for chunks in told.values() if chunks] == [
        ["one", " ", "two"],
        ["three", " ", "four"],
        ["whole"],
    ]
    assert min(told) > max(one.seq for one in first)


async def test_the_end_of_a_cancelled_run_is_told_after_what_it_said(
    stage: Stage, reader: Reader, agent: Agent
) -> None:
    agent.go_on.clear()
    run = await started(stage, "graph", "messages")
    await reader.until_chunk(run, "one")
    stage.worker.cancel([run["_id"]])
    told = superstep_chunks(await reader.until_end(await stage.until(run, "cancelled")))
    assert texts(told[max(told)]) == ["one"]
