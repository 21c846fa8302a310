"""A run saves checkpoints while somebody else prunes its thread: at every moment, with values that come back."""

from __future__ import annotations

import asyncio
import operator
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, StateGraph

from perdure.checkpoint import PerdureSaver, keys, sweep

THREAD: Any = {"configurable": {"thread_id": "t"}, "recursion_limit": 100}
VALUES = {True: {"of": "a" * 3_000}, False: {"of": "b" * 3_000}}
"""Two values that alternate, so that a segment is freed, pruned and needed again."""


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    inner: dict[str, str]
    left: int


def graph_of(
    saver: PerdureSaver, before: Callable[[State], Awaitable[None]] | None = None, text: str = "x" * 2_000
) -> Any:
    """Counts ``left`` down and logs ``text``; ``before`` is called in each node."""

    async def turn(state: State) -> State:
        if before is not None:
            await before(state)
        return {"left": state["left"] - 1, "log": [text], "inner": VALUES[state["left"] % 2 == 0]}

    builder = StateGraph(State)
    builder.add_node("turn", turn)
    builder.add_edge(START, "turn")
    builder.add_conditional_edges("turn", lambda state: "turn" if state["left"] else "__end__")
    return builder.compile(checkpointer=saver)


Open = Callable[[], PerdureSaver]


@pytest.fixture(params=["plain", "encrypted"])
async def opened(request: pytest.FixtureRequest, database_uri: str) -> AsyncIterator[Open]:
    """Opens savers of one database, each with a client of its own, as those of several processes."""
    name = f"races_{uuid.uuid4().hex[:8]}"
    savers: list[PerdureSaver] = []

    def open_one() -> PerdureSaver:
        encrypting = request.param == "encrypted"
        serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef") if encrypting else None
        savers.append(PerdureSaver.from_conn_string(f"{database_uri.rsplit('/', 1)[0]}/{name}", serde=serde))
        return savers[-1]

    await open_one().ensure_indexes()
    yield open_one
    await savers[0].notebook.store.collection.database.client.drop_database(name)
    for one in savers:
        await one.aclose()


async def readable(opened: Open) -> list[Any]:
    """The states of all checkpoints, newest first, read by a saver that knows nothing."""
    graph = graph_of(opened())
    return [snapshot.values async for snapshot in graph.aget_state_history(THREAD)]


class Watching:
    """Calls ``at`` before the call number ``number`` of a saver's store; counts the calls."""

    def __init__(self, saver: PerdureSaver, number: int, at: Callable[[], Awaitable[Any]]) -> None:
        self.calls = 0
        store = saver.notebook.store
        for name in ("find", "delete", "exact", "change"):
            if inner := getattr(store, name, None):
                setattr(store, name, self._wrapped(inner, number, at))

    def _wrapped(self, inner: Any, number: int, at: Callable[[], Awaitable[Any]]) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == number:
                await at()
            return await inner(*args, **options)

        return call


async def test_a_turn_that_is_saved_at_any_moment_of_pruning_stays_readable(opened: Open) -> None:
    number = 0
    while True:
        number += 1
        writer, pruner = opened(), opened()
        graph = graph_of(writer)
        await graph.ainvoke({"log": [], "left": 3}, THREAD)
        watching = Watching(pruner, number, lambda graph=graph: graph.ainvoke({"log": ["more"], "left": 2}, THREAD))
        await pruner.aprune(["t"])
        states = await readable(opened)
        assert states[0] == (await graph.aget_state(THREAD)).values
        assert states[0]["inner"] == VALUES[False]
        if watching.calls < number:
            assert number > 6, "the turn was saved between any two steps of pruning"
            return
        assert number == 1 or len(states) > 1, "what was saved meanwhile is kept"
        await pruner.aprune(["t"], strategy="delete")


async def test_a_value_that_comes_back_after_its_checkpoint_was_pruned(opened: Open) -> None:
    pruner = opened()

    async def prune(state: State) -> None:
        if state["left"] < 4:
            await pruner.aprune(["t"])

    graph = graph_of(opened(), prune)
    expected = await graph.ainvoke({"log": [], "left": 6}, THREAD, durability="sync")
    states = await readable(opened)
    assert states[0] == expected
    assert [state["inner"] for state in states] == [VALUES[False], VALUES[True]]


class SlowServer:
    """Applies an insert command of a saver in two halves, the segments first, and prunes in between.

    Segments that were there already may be missing again when the other half comes; for new segments the sweep must wait,
    so the other half comes ``STALL_S`` later.
    """

    STALL_S = 0.3

    def __init__(self, saver: PerdureSaver, pruner: PerdureSaver) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.known = self.new = 0
        self._pruner = pruner
        for lane in saver.notebook.commit._lanes:
            lane._insert = self._slow(lane._insert)  # type: ignore[method-assign]

    def _slow(self, insert: Any) -> Any:
        async def apply(documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
            indices = range(len(documents))
            first = [index for index in indices if keys.parts(documents[index]["_id"])[1] == keys.SEGMENT]
            rest = [index for index in indices if index not in first]
            if not first or not rest:
                return list(await insert(documents))
            failures = await self._half(insert, documents, first)
            task = asyncio.create_task(self._pruner.aprune(["t"]))
            self.tasks.append(task)
            if len(failures) == len(first):
                self.known += 1
                await task
            else:
                self.new += 1
                await asyncio.wait({task}, timeout=self.STALL_S)
            return failures + await self._half(insert, documents, rest)

        return apply

    async def _half(
        self, insert: Any, documents: Sequence[Mapping[str, Any]], half: Sequence[int]
    ) -> list[dict[str, Any]]:
        found = await insert([documents[index] for index in half])
        return [{**one, "index": half[one["index"]]} for one in found]


async def test_pruning_amid_a_commit(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SETTLE_S", sweep.SETTLE_S * 3)
    writer, pruner = opened(), opened()
    server = SlowServer(writer, pruner)
    graph = graph_of(writer, text="x" * 20)
    expected = await graph.ainvoke({"log": [], "left": 8}, THREAD, durability="sync")
    await asyncio.gather(*server.tasks)
    assert server.new
    assert server.known or writer.codec.encrypts, "the value that came back was stored already"
    assert (await readable(opened))[0] == expected
