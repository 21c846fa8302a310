"""Pruning keeps a thread whole: everything that its newest state needs, its history entries, and nobody else's segments."""

from __future__ import annotations

import operator
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from perdure.chassis import mongo
from perdure.checkpoint import PerdureSaver, documents, keys, values


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    count: int
    inner: dict[str, str]


class Calls(TypedDict, total=False):
    """One list for each graph: nobody adds another's twice."""

    log: Annotated[list[str], operator.add]
    inner: Annotated[list[str], operator.add]


THREAD: Any = {"configurable": {"thread_id": "t"}}


def work(state: State) -> State:
    count = state.get("count", 0) + 1
    return {"count": count, "log": [f"step {count} " + "x" * 3_000], "inner": {"of": "y" * 2_000 + str(count)}}


def graph_of(saver: PerdureSaver) -> Any:
    inner = StateGraph(State)
    inner.add_node("work", work)
    inner.add_edge(START, "work")
    builder = StateGraph(State)
    builder.add_node("work", work)
    builder.add_node("sub", inner.compile(checkpointer=True))
    builder.add_edge(START, "work")
    builder.add_edge("work", "sub")
    builder.add_conditional_edges("sub", lambda state: "work" if len(state["log"]) < 40 else "__end__")
    return builder.compile(checkpointer=saver)


@pytest.fixture
async def saver(database_uri: str) -> AsyncIterator[PerdureSaver]:
    client = mongo.connect(database_uri)
    name = f"prune_{uuid.uuid4().hex[:8]}"
    made = PerdureSaver(client[name])
    await made.ensure_indexes()
    yield made
    await made.aclose()
    await client.drop_database(name)
    client.close()


async def segments(saver: PerdureSaver, thread_id: str) -> tuple[set[bytes], set[bytes]]:
    """The segments that are stored, and those that checkpoints and writes name."""
    notebook = saver.notebook.store.collection
    held = await notebook.find(keys.query(keys.of_kind(thread_id, keys.SEGMENT)), {"_id": 1}).to_list(None)
    entries: list[Any] = []
    for found in await notebook.find(keys.query(keys.of_kind(thread_id, keys.CHECKPOINT))).to_list(None):
        entries += documents.checkpoint_entries_by_name(saver.codec, found).values()
    for found in await notebook.find(keys.query(keys.of_kind(thread_id, keys.WRITES))).to_list(None):
        entries += documents.write_entries(saver.codec, found)
    named = {digest for entry in entries for digest in values.digests_of(entry)}
    return {bytes.fromhex(keys.parts(one["_id"])[2]) for one in held}, named


async def test_what_is_left_is_whole_and_goes_on(saver: PerdureSaver) -> None:
    graph = graph_of(saver)
    config = {"configurable": {"thread_id": "t"}, "recursion_limit": 200}
    other = {"configurable": {"thread_id": "t2"}, "recursion_limit": 200}
    for one in (config, other):
        await graph.ainvoke({"log": []}, one)
    notebook = saver.notebook.store.collection
    entry = {"_id": keys.entry("t", 1), "kind": "e", "thread": "t", "seq": 1}
    note = {"_id": keys.note("t", 1, 1), "kind": "n", "thread": "t", "after": 1}
    await notebook.insert_many([entry, note])
    before = (await graph.aget_state(config)).values
    others = await notebook.find(keys.query(keys.everything("t2"))).to_list(None)
    held, _ = await segments(saver, "t")

    await saver.aprune(["t"])

    fresh = PerdureSaver(notebook.database)
    again = graph_of(fresh)
    assert (await again.aget_state(config)).values == before
    namespaces = {found.config["configurable"]["checkpoint_ns"] async for found in fresh.alist(config)}
    assert len([found async for found in fresh.alist(config)]) == len(namespaces) > 1, "the newest of each namespace"
    left, named = await segments(fresh, "t")
    assert left == named, "nothing is missing, nothing is left over"
    assert left < held
    assert await notebook.count_documents({"_id": {"$in": [entry["_id"], note["_id"]]}}) == 2
    assert await notebook.find(keys.query(keys.everything("t2"))).to_list(None) == others
    assert len((await again.ainvoke({"log": ["one more"]}, config))["log"]) > len(before["log"])
    await fresh.aclose()


async def test_a_string_is_no_list_of_threads(saver: PerdureSaver) -> None:
    graph = graph_of(saver)
    for thread_id in "ab":
        await graph.ainvoke({"log": ["x"] * 39}, {"configurable": {"thread_id": thread_id}})
    with pytest.raises(TypeError, match=r"thread_ids must be a list of ids: pass \['ab'\]"):
        await saver.aprune("ab", strategy="delete")
    with pytest.raises(TypeError, match=r"run_ids must be a list of ids: pass \['ab'\]"):
        await saver.adelete_for_runs("ab")
    with pytest.raises(TypeError, match=r"thread_ids must be a list of ids: pass \['ab'\]"):
        await saver.adelete_for_runs(["run"], thread_ids="ab")
    for thread_id in "ab":
        assert (await graph.aget_state({"configurable": {"thread_id": thread_id}})).values["count"] > 0


def calling(saver: PerdureSaver) -> Any:
    """A graph with a subgraph that remembers its calls, one that does not, and one that asks in every second run."""

    def counting(*, remembers: bool) -> Any:
        builder = StateGraph(Calls)
        builder.add_node("count", lambda state: {"inner": [f"call {len(state.get('inner', []))}"]})
        builder.add_edge(START, "count")
        return builder.compile(checkpointer=True if remembers else None)

    asking = StateGraph(Calls)
    asking.add_node("ask", lambda _: {"log": [interrupt("go on?")]})
    asking.add_edge(START, "ask")
    builder = StateGraph(Calls)
    builder.add_node("memory", lambda _: {"log": [str(memory.invoke({"log": ["in"]})["inner"])]})
    memory = counting(remembers=True)
    builder.add_node("call", counting(remembers=False))
    builder.add_node("asking", asking.compile())
    builder.add_edge(START, "memory")
    builder.add_edge("memory", "call")
    builder.add_edge("call", "asking")
    return builder.compile(checkpointer=saver)


async def tuples_of(saver: PerdureSaver) -> list[CheckpointTuple]:
    return [found async for found in saver.alist(THREAD)]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_calls_that_are_over_go_and_nothing_names_a_deleted_parent(saver: PerdureSaver, durability: Any) -> None:
    graph = calling(saver)
    for number in range(3):
        await graph.ainvoke({"log": [f"run {number}"]}, THREAD, durability=durability)
        if number < 2:
            await graph.ainvoke(Command(resume="yes"), THREAD, durability=durability)
    before = await graph.aget_state(THREAD, subgraphs=True)
    asked = before.tasks[0].state.config["configurable"]["checkpoint_ns"]
    assert len({found.config["configurable"]["checkpoint_ns"] for found in await tuples_of(saver)}) > 3

    await saver.aprune(["t"])

    left = await tuples_of(saver)
    assert sorted(found.config["configurable"]["checkpoint_ns"] for found in left) == sorted(["", "memory", asked])
    assert [found.parent_config for found in left] == [None, None, None]
    after = await graph.aget_state(THREAD, subgraphs=True)
    assert after.values == before.values
    assert after.config == before.config
    assert after.parent_config is None
    assert after.tasks[0].interrupts == before.tasks[0].interrupts
    assert after.tasks[0].state.values == before.tasks[0].state.values
    held, named = await segments(saver, "t")
    assert held == named
    ended = await graph.ainvoke(Command(resume="yes"), THREAD, durability=durability)
    assert ended["log"][-1] == "yes"
    again = await graph.ainvoke({"log": ["run 3"]}, THREAD, durability=durability)
    assert "call 3" in again["log"][-1], "the subgraph with a memory counts on"
