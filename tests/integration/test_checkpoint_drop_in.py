"""Programs written for another LangGraph saver run unchanged: threads that it made, its errors, its calling threads."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from perdure.chassis import mongo
from perdure.checkpoint import PerdureSaver
from perdure.checkpoint.errors import NotebookError, NotSerialisable, WrongThread

THREAD: Any = {"configurable": {"thread_id": "t"}}


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    answer: str


def graph_of(saver: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("ask", lambda _: {"answer": interrupt("go on?"), "log": ["asked"]})
    builder.add_node("end", lambda state: {"log": [f"ended after {len(state['log'])}"]})
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "end")
    return builder.compile(checkpointer=saver)


@pytest.fixture
async def database(database_uri: str) -> AsyncIterator[mongo.Database]:
    client = mongo.connect(database_uri)
    name = f"drop_in_{uuid4().hex[:8]}"
    yield client[name]
    await client.drop_database(name)
    client.close()


@pytest.fixture
async def saver(database: mongo.Database) -> AsyncIterator[PerdureSaver]:
    made = PerdureSaver(database)
    await made.ensure_indexes()
    yield made
    await made.aclose()


@pytest.fixture(params=[InMemorySaver, SqliteSaver])
def other(request: pytest.FixtureRequest) -> Iterator[Any]:
    with ExitStack() as stack:
        if request.param is SqliteSaver:
            yield stack.enter_context(SqliteSaver.from_conn_string(":memory:"))
        else:
            yield request.param()


async def copy(source: Any, target: PerdureSaver) -> None:
    """All checkpoints and pending writes, as a program copies them: with the methods that every saver has."""
    for stored in reversed(list(source.list(THREAD))):
        config = stored.parent_config or {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        versions = stored.checkpoint["channel_versions"]
        await target.aput(config, stored.checkpoint, stored.metadata, versions)
        for task_id in dict.fromkeys(task_id for task_id, _, _ in stored.pending_writes):
            writes = [(channel, value) for task, channel, value in stored.pending_writes if task == task_id]
            await target.aput_writes(stored.config, writes, task_id)


async def versions_of(saver: PerdureSaver) -> list[Any]:
    tuples = [stored async for stored in saver.alist(THREAD)]
    return [max(stored.checkpoint["channel_versions"].values()) for stored in reversed(tuples)]


async def test_a_thread_of_another_saver_goes_on(saver: PerdureSaver, other: Any) -> None:
    there = graph_of(other)
    there.invoke({"log": ["first"]}, THREAD)
    await copy(other, saver)
    here = graph_of(saver)
    assert (await here.aget_state(THREAD)).values == there.get_state(THREAD).values

    for graph in (there, here):
        await run_on(graph)
    assert (await here.aget_state(THREAD)).values == there.get_state(THREAD).values
    assert (await here.aget_state(THREAD)).values["log"][-1] == "ended after 6"
    versions = await versions_of(saver)
    assert all(isinstance(version, str) and len(version.partition(".")[0]) == 32 for version in versions)
    assert versions == sorted(versions)
    assert versions[-1].partition(".")[0] == f"{len(versions):032}"


async def run_on(graph: Any) -> None:
    """Resume, change the state from outside, start again and resume."""
    if isinstance(graph.checkpointer, SqliteSaver | InMemorySaver):
        graph.invoke(Command(resume="yes"), THREAD)
        graph.update_state(THREAD, {"log": ["from outside"]}, as_node="end")
        graph.invoke({"log": ["second"]}, THREAD)
        graph.invoke(Command(resume="no"), THREAD)
        return
    await graph.ainvoke(Command(resume="yes"), THREAD)
    await graph.aupdate_state(THREAD, {"log": ["from outside"]}, as_node="end")
    await graph.ainvoke({"log": ["second"]}, THREAD)
    await graph.ainvoke(Command(resume="no"), THREAD)


async def test_a_new_thread_counts_in_integers(saver: PerdureSaver) -> None:
    graph = graph_of(saver)
    await graph.ainvoke({"log": ["first"]}, THREAD)
    await graph.ainvoke(Command(resume="yes"), THREAD)
    versions = await versions_of(saver)
    assert versions == list(range(1, len(versions) + 1))


async def test_a_version_without_a_number_is_refused(saver: PerdureSaver) -> None:
    with pytest.raises(ValueError, match=r"'third' has no successor"):
        saver.get_next_version("third", None)


class Refusing(JsonPlusSerializer):
    """Refuses as a serializer of one's own does."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if obj == ["refused"]:
            raise self.error
        return super().dumps_typed(obj)


@pytest.mark.parametrize("error", [ValueError("no secrets here"), TypeError("no such type")])
async def test_the_error_of_a_serializer_keeps_its_kind(database: mongo.Database, error: Exception) -> None:
    saver = PerdureSaver(database, serde=Refusing(error))
    with pytest.raises(type(error), match=str(error)) as caught:
        await graph_of(saver).ainvoke({"log": ["refused"]}, THREAD)
    assert isinstance(caught.value, NotSerialisable)
    assert isinstance(caught.value, NotebookError)
    assert caught.value.__cause__ is error
    assert caught.value.channel == "log"
    await saver.aclose()


async def test_opened_with_with_it_serves_synchronous_calls_where_a_loop_runs(database_uri: str) -> None:
    """As in a Jupyter cell, or a web handler that calls a synchronous function."""
    name = f"drop_in_{uuid4().hex[:8]}"
    with PerdureSaver.from_conn_string(f"{database_uri.rsplit('/', 1)[0]}/{name}") as saver:
        graph = graph_of(saver)
        graph.invoke({"log": ["first"]}, THREAD)
        assert graph.get_state(THREAD).next == ("ask",)
        assert (await graph.ainvoke(Command(resume="yes"), THREAD))["answer"] == "yes"
        assert len(list(saver.list(THREAD))) == len([stored async for stored in saver.alist(THREAD)])
    client = mongo.connect(database_uri)
    await client.drop_database(name)
    client.close()


async def test_opened_with_async_with_it_names_the_way_out(database_uri: str) -> None:
    name = f"drop_in_{uuid4().hex[:8]}"
    async with PerdureSaver.from_conn_string(f"{database_uri.rsplit('/', 1)[0]}/{name}") as saver:
        with pytest.raises(WrongThread, match=r"with PerdureSaver\.from_conn_string"):
            saver.get_tuple(THREAD)
    client = mongo.connect(database_uri)
    await client.drop_database(name)
    client.close()
