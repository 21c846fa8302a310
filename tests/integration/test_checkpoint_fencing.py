"""Two owners of one run: exactly one history (ADR 1)."""

from __future__ import annotations

import asyncio
import operator
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, StateGraph
from tests.support.polling import until

from perdure.chassis import mongo
from perdure.checkpoint import SCOPE_KEY, PerdureSaver, RunScope
from perdure.checkpoint.errors import Fenced


@pytest.fixture(scope="module")
def uri(request: pytest.FixtureRequest) -> str:
    return os.environ.get("PERDURE_MONGODB_URI") or request.getfixturevalue("mongodb_uri")


@pytest.fixture
async def savers(uri: str) -> AsyncIterator[tuple[PerdureSaver, PerdureSaver]]:
    """Two workers with a client each."""
    name = f"fencing_{uuid4().hex[:12]}"
    clients = [mongo.connect(uri), mongo.connect(uri)]
    found = [PerdureSaver(client[name]) for client in clients]
    await found[0].ensure_indexes()
    yield found[0], found[1]
    for saver in found:
        await saver.aclose()
    await clients[0].drop_database(name)
    for client in clients:
        client.close()


class State(TypedDict):
    log: Annotated[list[str], operator.add]


def graph(saver: PerdureSaver, name: str, gate: asyncio.Event, hold: int) -> Any:
    builder = StateGraph(State)

    def node(number: int) -> Any:
        async def run(_: State) -> dict[str, Any]:
            if number == hold:
                await gate.wait()
            return {"log": [f"{name} {number}"]}

        return run

    for number in range(6):
        builder.add_node(str(number), node(number))
        builder.add_edge(START if number == 0 else str(number - 1), str(number))
    builder.add_edge("5", END)
    return builder.compile(checkpointer=saver)


def config(scope: RunScope) -> Any:
    return {"configurable": {"thread_id": scope.thread_id, SCOPE_KEY: scope}}


async def entries(saver: PerdureSaver) -> list[dict[str, Any]]:
    found = await saver.notebook.store.find({"thread": "t", "seq": {"$exists": True}})
    return sorted(found, key=lambda document: document["seq"])


async def test_the_old_owner_is_refused_and_the_new_one_goes_on(savers: tuple[PerdureSaver, PerdureSaver]) -> None:
    old, new = savers
    gate = asyncio.Event()
    first = RunScope("t", "r", 1, 1, new_thread=True)
    zombie = asyncio.create_task(
        graph(old, "old", gate, hold=3).ainvoke({"log": ["begin"]}, config(first), durability="sync")
    )

    async def three_steps() -> bool:
        return len(await entries(new)) >= 5

    await until(three_steps, "three steps")
    following = await new.fence("t", "r", 2, 1)
    second = RunScope("t", "r", 2, following)
    gate.set()
    with pytest.raises(Fenced) as caught:
        await zombie
    assert (caught.value.thread_id, caught.value.run_id, caught.value.epoch) == ("t", "r", 1)
    assert first.fenced
    found = await graph(new, "new", gate, hold=-1).ainvoke(None, config(second), durability="sync")
    assert found["log"][:4] == ["begin", "old 0", "old 1", "old 2"]
    # The old owner's node had finished: its pending write was there before the new one loaded, so it is not run again.
    assert found["log"][4:] == ["old 3", "new 4", "new 5"]
    history = await entries(new)
    assert [document["seq"] for document in history] == list(range(1, second.next_seq)), "no hole and no double"
    kinds = "".join(document["kind"] for document in history)
    assert kinds == "c" * 5 + "f" * 8 + "c" * 3
    parents = {document["checkpoint_id"]: document.get("parent") for document in history if document["kind"] == "c"}
    assert len(set(parents.values())) == len(parents), "no checkpoint has two children"
    states = [one async for one in new.alist({"configurable": {"thread_id": "t"}})]
    assert len(states) == 8


async def test_whoever_comes_first_one_history(savers: tuple[PerdureSaver, PerdureSaver]) -> None:
    """The fence and the old owner's writes race, many times."""
    old, new = savers
    for attempt in range(10):
        thread = f"race {attempt}"
        gate = asyncio.Event()
        gate.set()
        first = RunScope(thread, "r", 1, 1, new_thread=True)
        zombie = asyncio.create_task(
            graph(old, "old", gate, hold=-1).ainvoke({"log": []}, config(first), durability="sync")
        )
        await asyncio.sleep(0.002 * attempt)
        following = await new.fence(thread, "r", 2, 1)
        outcome = (await asyncio.gather(zombie, return_exceptions=True))[0]
        second = RunScope(thread, "r", 2, following)
        latest = await new.aget_tuple({"configurable": {"thread_id": thread}})
        if isinstance(outcome, dict):
            assert latest is not None
            assert len(latest.checkpoint["channel_values"]["log"]) == 6, "the old owner had finished before the fence"
            continue
        assert isinstance(outcome, Fenced)
        again: Any = None if latest else {"log": []}
        found = await graph(new, "new", gate, hold=-1).ainvoke(again, config(second), durability="sync")
        assert [entry.split()[1] for entry in found["log"]] == [str(number) for number in range(6)]
        history = await new.notebook.store.find({"thread": thread, "seq": {"$exists": True}})
        assert sorted(document["seq"] for document in history) == list(range(1, second.next_seq))


async def test_two_new_owners_fence_each_other_out(savers: tuple[PerdureSaver, PerdureSaver]) -> None:
    old, new = savers
    numbers = await asyncio.gather(old.fence("t", "r", 2, 1), new.fence("t", "r", 3, 1))
    assert min(numbers) >= 9
    held = {document["seq"] for document in await entries(new)}
    assert held >= set(range(1, max(numbers)))


async def test_a_repeated_put_of_the_same_owner_is_no_fence(savers: tuple[PerdureSaver, PerdureSaver]) -> None:
    old, _ = savers
    gate = asyncio.Event()
    gate.set()
    scope = RunScope("t", "r", 1, 1, new_thread=True)
    seen: list[Any] = []
    scope.on_durable = seen.append
    await graph(old, "old", gate, hold=-1).ainvoke({"log": []}, config(scope), durability="sync")
    await old.notebook.commit.write("t", inserts=[dict(seen[-1])])
    assert len(await entries(old)) == len(seen)


async def test_a_checkpoint_whose_put_is_cancelled_is_known_when_it_is_durable(
    savers: tuple[PerdureSaver, PerdureSaver],
) -> None:
    """The write is on its way: what the database holds must have its event, whoever waits for it or not."""
    saver, _ = savers
    durable: list[int] = []
    scope = RunScope("t", "r", 1, 1, new_thread=True, on_durable=lambda document: durable.append(document["seq"]))
    checkpoint = empty_checkpoint()
    put = asyncio.create_task(saver.aput(config(scope), checkpoint, {"source": "loop", "step": 0, "parents": {}}, {}))
    while not scope.in_flight:
        await asyncio.sleep(0)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    await scope.landed()
    assert durable == [1]
    assert [entry["seq"] for entry in await entries(saver)] == [1]
    assert scope.head == checkpoint["id"]
