"""What readers without a graph see of DeltaChannels: at every checkpoint what LangGraph says, at a cost that does not grow."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import orjson
import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Overwrite

from perdure.agent_step.shown import shown_checkpoint
from perdure.chassis import mongo
from perdure.chassis.outage import Availability
from perdure.checkpoint import PerdureSaver
from perdure.gateway.resources.states.reader import States

ORDINARY = DeltaChannel.checkpoint
LONG = 1_064
WINDOW = 64
CONFIG: Any = {"configurable": {"thread_id": "t"}, "recursion_limit": 5 * LONG}


@pytest.fixture(autouse=True)
def _as_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeltaChannel, "checkpoint", shown_checkpoint)


@pytest.fixture
async def database(mongodb_uri: str) -> AsyncIterator[Any]:
    client = mongo.connect(mongodb_uri)
    made = client[f"shown_{uuid4().hex[:8]}"]
    yield made
    await client.drop_database(made.name)
    client.close()


def add_all(state: list[Any], writes: Sequence[Any]) -> list[Any]:
    return [*state, *(item for write in writes for item in write)]


def merge(state: dict[str, Any], writes: Sequence[Any]) -> dict[str, Any]:
    merged = dict(state)
    for write in writes:
        merged |= write
    return {name: value for name, value in merged.items() if value is not None}


class State(TypedDict, total=False):
    log: Annotated[list[Any], DeltaChannel(add_all, snapshot_frequency=5)]
    files: Annotated[dict[str, Any], DeltaChannel(merge, dict, snapshot_frequency=3)]
    never: Annotated[list[Any], DeltaChannel(add_all)]
    n: int


def step(state: State) -> dict[str, Any]:
    n = state["n"]
    change: dict[str, Any] = {"n": n + 1, "log": [f"{n} " * 200, {"n": n}]}
    if n % 3 == 1:
        change["files"] = {f"f{n}": {"content": "x" * 800}, "f1": {"content": f"{n}" * 500}}
    if n % 7 == 6:
        change["log"] = Overwrite(["from here on"])
        change["files"] = {f"f{n - 2}": None}
    return change


def graph(saver: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("step", step)
    builder.add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: "step" if state["n"] % 25 else END)
    return builder.compile(checkpointer=saver)


async def held(saver: Any) -> list[list[str]]:
    """The names of the channels whose value is in each checkpoint, as LangGraph loads it."""
    return [sorted(one.checkpoint["channel_values"]) async for one in saver.alist(CONFIG)]


@pytest.mark.parametrize("fresh", [False, True], ids=["one worker", "another worker for each turn"])
async def test_every_checkpoint_shows_what_langgraph_says(
    database: Any, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    in_memory, saver = InMemorySaver(), PerdureSaver(database)
    reference = graph(in_memory)
    turns = [{"n": 25 * turn + 1, "log": [f"turn {turn}"]} for turn in range(4)]
    with monkeypatch.context() as ordinary:
        ordinary.setattr(DeltaChannel, "checkpoint", ORDINARY)
        for given in turns:
            await reference.ainvoke(given, CONFIG, durability="sync")
    for given in turns:
        await graph(saver).ainvoke(given, CONFIG, durability="sync")
        if fresh:
            await saver.aclose()
            saver = PerdureSaver(database)
    wanted = [snapshot.values async for snapshot in reference.aget_state_history(CONFIG)]
    assert [snapshot.values async for snapshot in graph(saver).aget_state_history(CONFIG)] == wanted
    assert await held(saver) == await held(in_memory), "what LangGraph loads holds no shown value"
    states = States(database, Availability())
    shown = [orjson.loads(state)["values"] async for state in states.history("t", limit=1000)]
    # What was never written to is told by the worker of a run, which knows the graph.
    written = [{name: value for name, value in values.items() if value or name == "n"} for values in wanted]
    assert [{name: value for name, value in values.items() if value or name == "n"} for values in shown] == written
    await saver.acopy_thread("t", "copy")
    assert (await states.newest("copy") or {})["values"] == shown[0]
    await saver.aprune(["t"])
    assert (await states.newest("t") or {})["values"] == shown[0]
    assert (await graph(saver).aget_state(CONFIG)).values == wanted[0]
    await saver.aclose()


def messages(state: list[BaseMessage], writes: Sequence[Any]) -> list[BaseMessage]:
    return [*state, *(message for write in writes for message in write)]


class Conversation(TypedDict):
    messages: Annotated[list[BaseMessage], DeltaChannel(messages, snapshot_frequency=50)]


async def measured(saver: PerdureSaver, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, float]]:
    """Of each superstep of a long conversation: bytes serialized, bytes given to the database, CPU-ms of this process."""
    serialized: list[int] = []
    stored: list[int] = []
    encode, write = saver.codec.encode, saver.notebook.commit.write

    def counting_encode(value: Any) -> tuple[str, bytes]:
        typ, data = encode(value)
        serialized.append(len(data))
        return typ, data

    async def counting_write(*args: Any, nbytes: int = 0, **more: Any) -> None:
        stored.append(nbytes)
        await write(*args, nbytes=nbytes, **more)

    monkeypatch.setattr(saver.codec, "encode", counting_encode)
    monkeypatch.setattr(saver.notebook.commit, "write", counting_write)
    at: list[tuple[float, float, float]] = []

    async def speak(_: Conversation) -> dict[str, Any]:
        at.append((sum(serialized), sum(stored), time.process_time() * 1000))
        text = " ".join(uuid4().hex for _ in range(10))
        return {"messages": [AIMessage(text, id=uuid4().hex)]}

    builder = StateGraph(Conversation)
    builder.add_node("speak", speak)
    builder.add_edge(START, "speak")
    builder.add_conditional_edges("speak", lambda state: "speak" if len(state["messages"]) < LONG else END)
    await builder.compile(checkpointer=saver).ainvoke({"messages": []}, CONFIG, durability="sync")
    return [(b[0] - a[0], b[1] - a[1], b[2] - a[2]) for a, b in pairwise(at)]


def mean(costs: Sequence[tuple[float, float, float]], begin: int, end: int) -> list[float]:
    part = costs[begin:end]
    return [sum(cost[n] for cost in part) / len(part) for n in range(3)]


async def test_a_step_of_a_long_conversation_costs_what_a_step_of_a_short_one_costs(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = PerdureSaver(database)
    costs = await measured(saver, monkeypatch)
    newest = await States(database, Availability()).newest("t")
    assert newest is not None
    assert len(newest["values"]["messages"]) == LONG
    await saver.adelete_thread("t")
    monkeypatch.setattr(DeltaChannel, "checkpoint", ORDINARY)
    without = await measured(saver, monkeypatch)
    for name, one in (("shown", costs), ("not shown", without)):
        for begin, end in ((5, 15), (WINDOW, 2 * WINDOW), (LONG - 1 - WINDOW, LONG - 1)):
            print(name, f"steps {begin} to {end}: bytes serialized, bytes stored, CPU-ms:", mean(one, begin, end))
    early, late = mean(costs, WINDOW, 2 * WINDOW), mean(costs, LONG - 1 - WINDOW, LONG - 1)
    assert late[1] < 1.5 * early[1], f"{early[1]:.0f} bytes stored a step at first, {late[1]:.0f} at the end"
    # The window has a merge of 512 items; without shown blocks each snapshot is serialized whole.
    assert late[0] < mean(without, LONG - 1 - WINDOW, LONG - 1)[0]
    await saver.aclose()
