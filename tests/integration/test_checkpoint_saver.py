"""The saver in LangGraph programs, on a real server: synchronous, asynchronous, large, encrypted, damaged."""

from __future__ import annotations

import asyncio
import operator
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from perdure.chassis import mongo
from perdure.checkpoint import SCOPE_KEY, PerdureSaver, RunScope, keys
from perdure.checkpoint.errors import NotSerialisable, SegmentCorrupt, SegmentMissing, WrongThread


@pytest.fixture(scope="module")
def uri(request: pytest.FixtureRequest) -> str:
    return os.environ.get("PERDURE_MONGODB_URI") or request.getfixturevalue("mongodb_uri")


@pytest.fixture
async def database(uri: str) -> AsyncIterator[mongo.Database]:
    client = mongo.connect(uri)
    name = f"saver_{uuid4().hex[:12]}"
    yield client[name]
    await client.drop_database(name)
    client.close()


@pytest.fixture
async def saver(database: mongo.Database) -> AsyncIterator[PerdureSaver]:
    found = PerdureSaver(database)
    await found.ensure_indexes()
    yield found
    await found.aclose()


class State(TypedDict):
    messages: Annotated[list[Any], operator.add]
    n: int


def chain(saver: Any, *values: Any) -> Any:
    """A graph whose nodes return the values one after the other."""
    builder = StateGraph(State)
    names = [f"node_{number}" for number in range(len(values))]
    for name, value in zip(names, values, strict=True):
        builder.add_node(name, lambda state, value=value: {"messages": [value], "n": state["n"] + 1})
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return builder.compile(checkpointer=saver)


def config(thread: str = "t", **more: Any) -> Any:
    return {"configurable": {"thread_id": thread, **more}}


async def documents(saver: PerdureSaver) -> list[dict[str, Any]]:
    return await saver.notebook.store.find({})


async def test_history_equals_that_of_the_reference_saver(saver: PerdureSaver) -> None:
    def program(checkpointer: Any) -> Any:
        inner = StateGraph(State)
        inner.add_node("leaf", lambda state: {"messages": [f"leaf {state['n']}"]})
        inner.add_edge(START, "leaf")
        builder = StateGraph(State)
        builder.add_node("fan", lambda state: {"n": state["n"] + 1})
        builder.add_node("work", lambda state: {"messages": [f"work {state['n']}"]})
        builder.add_node("inner", inner.compile())
        builder.add_node("ask", lambda _: {"messages": [interrupt("go?")]})
        builder.add_edge(START, "fan")
        builder.add_conditional_edges("fan", lambda _: [Send("work", {"n": k, "messages": []}) for k in range(3)])
        builder.add_edge("work", "inner")
        builder.add_edge("inner", "ask")
        return builder.compile(checkpointer=checkpointer)

    async def run(checkpointer: Any) -> list[Any]:
        graph = program(checkpointer)
        await graph.ainvoke({"messages": [], "n": 0}, config())
        await graph.ainvoke(Command(resume="yes"), config())
        return [
            (
                s.values,
                s.next,
                s.metadata["step"],
                s.metadata["source"],
                sorted((t.name, str(t.result)) for t in s.tasks),
            )
            async for s in graph.aget_state_history(config())
        ]

    assert await run(saver) == await run(InMemorySaver())


def test_synchronous_use_with_a_loop_of_its_own(uri: str) -> None:
    name = f"saver_{uuid4().hex[:12]}"
    with PerdureSaver.from_conn_string(uri) as saver:
        graph = chain(saver, "a", "b")
        thread = name
        assert graph.invoke({"messages": [], "n": 0}, config(thread))["messages"] == ["a", "b"]
        assert [s.values["n"] for s in graph.get_state_history(config(thread), limit=2)] == [2, 1]
        saver.copy_thread(thread, f"{thread}-copy")
        saver.delete_thread(thread)
        assert saver.get_tuple(config(thread)) is None
        assert graph.get_state(config(f"{thread}-copy")).values["messages"] == ["a", "b"]
        saver.prune([f"{thread}-copy"], strategy="delete")
        assert list(saver.list(config(f"{thread}-copy"))) == []


async def test_a_synchronous_call_on_the_loop_raises_and_from_a_thread_works(saver: PerdureSaver) -> None:
    graph = chain(saver, "a")
    with pytest.raises(WrongThread, match="aget_tuple"):
        saver.get_tuple(config())
    found = await asyncio.to_thread(graph.invoke, {"messages": [], "n": 0}, config())
    assert found["messages"] == ["a"]
    assert (await graph.aget_state(config())).values["messages"] == ["a"]


async def test_the_scope_reaches_subgraphs_and_synchronous_nodes(saver: PerdureSaver) -> None:
    inner = chain(None, "inner")
    builder = StateGraph(State)
    builder.add_node("sub", chain(None, "sub"))
    builder.add_node("sync", lambda state: {"messages": inner.invoke({"messages": [], "n": state["n"]})["messages"]})
    builder.add_edge(START, "sub")
    builder.add_edge("sub", "sync")
    graph = builder.compile(checkpointer=saver)
    durable: list[Any] = []
    scope = RunScope("t", "r", 1, 1, new_thread=True, on_durable=durable.append, describe=lambda ns, *_: {"ns": ns})
    await graph.ainvoke({"messages": [], "n": 0}, config(**{SCOPE_KEY: scope}), durability="sync")
    assert [document["seq"] for document in durable] == list(range(1, scope.next_seq))
    assert {document["ns"].split(":")[0] for document in durable} == {"", "sub", "sync"}
    assert all(document["ev"] == {"ns": document["ns"]} for document in durable)
    assert all((document["run"], document["epoch"], document["thread"]) == ("r", 1, "t") for document in durable)
    assert not any("perdure" in str(document["meta"]) for document in durable)
    assert scope.head == (await saver.aget_tuple(config())).config["configurable"]["checkpoint_id"]
    assert len(saver.notebook.pages) == 2
    scope.close()
    assert len(saver.notebook.pages) == 1, "only what was read without the scope is still remembered"


async def test_another_thread_inside_a_run_is_not_its_history(saver: PerdureSaver) -> None:
    other = chain(saver, "other")

    async def node(_: State) -> dict[str, Any]:
        return {"messages": (await other.ainvoke({"messages": [], "n": 0}, config("elsewhere")))["messages"]}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    scope = RunScope("t", "r", 1, 1, new_thread=True)
    await builder.compile(checkpointer=saver).ainvoke(
        {"messages": [], "n": 0}, config(**{SCOPE_KEY: scope}), durability="sync"
    )
    sequenced = await saver.notebook.store.find({"seq": {"$exists": True}})
    assert {document["thread"] for document in sequenced} == {"t"}
    assert sorted(document["seq"] for document in sequenced) == list(range(1, scope.next_seq))
    found = [one async for one in saver.alist(None, filter={"step": 1})]
    assert {one.config["configurable"]["thread_id"] for one in found} == {"t", "elsewhere"}


@pytest.mark.parametrize(
    "value", ["s" * (20 << 20), [os.urandom(1 << 19).hex() for _ in range(20)]], ids=["str", "list"]
)
async def test_values_of_20_mib(saver: PerdureSaver, value: Any) -> None:
    graph = chain(saver, value)
    await graph.ainvoke({"messages": [], "n": 0}, config())
    fresh = PerdureSaver(saver.notebook.store.collection.database)
    tuple_ = await fresh.aget_tuple(config())
    assert tuple_.checkpoint["channel_values"]["messages"] == [value]
    await fresh.aclose()


async def test_an_append_stores_under_one_percent(saver: PerdureSaver) -> None:
    history = [os.urandom(512).hex() for _ in range(2048)]
    graph = chain(saver, *[os.urandom(512).hex() for _ in range(40)])
    stored: list[int] = []
    statistics = saver.notebook.commit.statistics
    scope = RunScope("t", "r", 1, 1, new_thread=True, on_durable=lambda _: stored.append(statistics.bytes))
    limits = {"recursion_limit": 60}
    await graph.ainvoke({"messages": history, "n": 0}, {**config(**{SCOPE_KEY: scope}), **limits}, durability="sync")
    assert stored[1] > 2 << 19, "the history itself, compressed"
    per_step = (stored[-1] - stored[2]) / (len(stored) - 3)
    assert per_step < 0.01 * (2 << 20)


async def test_what_cannot_be_stored_is_named(saver: PerdureSaver) -> None:
    graph = chain(saver, {"open": object()})
    with pytest.raises(NotSerialisable) as caught:
        await graph.ainvoke({"messages": [], "n": 0}, config())
    assert caught.value.channel == "messages"
    assert caught.value.thread_id == "t"
    assert caught.value.node == "node_0"


async def test_missing_and_corrupt_segments(saver: PerdureSaver) -> None:
    graph = chain(saver, "x" * 5000)
    await graph.ainvoke({"messages": [], "n": 0}, config())
    collection = saver.notebook.store.collection
    segment = await collection.find_one(keys.query(keys.of_kind("t", "s")))
    digest = segment["_id"].rsplit("\x1f", 1)[1]
    await collection.update_one({"_id": segment["_id"]}, {"$set": {"d": b"\0" + segment["d"][1:]}})
    with pytest.raises(SegmentCorrupt) as corrupt:
        await saver.aget_tuple(config())
    assert corrupt.value.digest == digest
    await collection.delete_one({"_id": segment["_id"]})
    with pytest.raises(SegmentMissing, match=digest):
        await saver.aget_tuple(config())


class XorCipher:
    """Stands for any cipher: a fresh nonce each time, as real ones have."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        nonce = os.urandom(16)
        return "xor", nonce + bytes(b ^ nonce[i % 16] for i, b in enumerate(plaintext))

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "xor"
        nonce = ciphertext[:16]
        return bytes(b ^ nonce[i % 16] for i, b in enumerate(ciphertext[16:]))


async def test_an_encrypting_serializer_encrypts_everything_and_appends_stay_small(database: mongo.Database) -> None:
    saver = PerdureSaver(database, serde=EncryptedSerializer(XorCipher()))
    secret = "the cat is called Mimi"
    graph = chain(saver, secret, {"long": secret * 100}, secret)
    scope = RunScope("t", "r", 1, 1, new_thread=True)
    found = await graph.ainvoke({"messages": [[secret] * 300], "n": 0}, config(**{SCOPE_KEY: scope}), durability="sync")
    stored = await documents(saver)
    assert not any(secret.encode() in document.get(part, b"") for document in stored for part in ("body", "d"))
    fresh = PerdureSaver(database, serde=EncryptedSerializer(XorCipher()))
    assert (await fresh.aget_tuple(config())).checkpoint["channel_values"]["messages"] == found["messages"]
    large = [document for document in stored if len(document.get("d", b"")) > 6000]
    assert len(large) == 2, "the input and the channel, each once: an unchanged block is not encrypted and stored again"
    await saver.aclose()
    await fresh.aclose()


async def test_list_filters_metadata(saver: PerdureSaver) -> None:
    graph = chain(saver, "a", "b")
    await graph.ainvoke({"messages": [], "n": 0}, {**config(), "metadata": {"customer": "acme", "tier": 2}})
    await graph.ainvoke({"messages": [], "n": 0}, config())
    found = [one async for one in saver.alist(config(), filter={"customer": "acme", "tier": 2})]
    assert [one.metadata["step"] for one in found] == [2, 1, 0, -1]
    latest = found[0]
    assert [one async for one in saver.alist(None, filter={"parents": {}, "step": 2, "customer": "acme"})] == [latest]
    assert [one async for one in saver.alist(config(), filter={"tier": "2"})] == []
    assert [one.metadata["step"] async for one in saver.alist(config(), before=latest.config, limit=2)] == [1, 0]


def add_all(state: list[Any], writes: list[Any]) -> list[Any]:
    return [*state, *(item for write in writes for item in (write if isinstance(write, list) else [write]))]


class DeltaState(TypedDict):
    log: Annotated[list[Any], DeltaChannel(add_all, snapshot_frequency=7)]
    n: int


def delta_graph(saver: Any) -> Any:
    builder = StateGraph(DeltaState)
    builder.add_node("fan", lambda state: {"n": state["n"] + 1, "log": [f"fan {state['n']}"]})
    builder.add_node("work", lambda state: {"log": [f"work {state['n']}"]})
    builder.add_node("join", lambda _: None)
    builder.add_edge(START, "fan")
    builder.add_conditional_edges(
        "fan", lambda state: [Send("work", {"n": k}) for k in range(state["n"] % 3)] or "join"
    )
    builder.add_edge("work", "join")
    builder.add_conditional_edges("join", lambda state: "fan" if state["n"] % 10 else END)
    return builder.compile(checkpointer=saver)


async def test_delta_channels_are_rebuilt_pruned_and_copied(saver: PerdureSaver) -> None:
    async def run(checkpointer: Any) -> list[Any]:
        graph = delta_graph(checkpointer)
        for _ in range(3):
            await graph.ainvoke({"log": ["begin"], "n": 1}, {**config(), "recursion_limit": 100})
        return [snapshot.values async for snapshot in graph.aget_state_history(config())]

    expected = await run(InMemorySaver())
    assert await run(saver) == expected
    fresh = PerdureSaver(saver.notebook.store.collection.database)
    graph = delta_graph(fresh)
    assert (await graph.aget_state(config())).values == expected[0]
    await fresh.acopy_thread("t", "copy")
    await fresh.aprune(["t"])
    assert (await graph.aget_state(config())).values == expected[0]
    assert (await graph.aget_state(config("copy"))).values == expected[0]
    kept = [one async for one in fresh.alist(config())]
    assert len(kept) < len(expected)
    segments = await fresh.notebook.store.find(keys.query(keys.of_kind("t", "s")))
    assert not segments
    await fresh.aclose()


async def test_pruning_keeps_every_segment_that_is_still_named(saver: PerdureSaver) -> None:
    graph = chain(saver, *[f"{number}" * 3000 for number in range(6)])
    expected = await graph.ainvoke({"messages": ["h" * 100] * 100, "n": 0}, config())
    before = len(await saver.notebook.store.find(keys.query(keys.of_kind("t", "s"))))
    await saver.aprune(["t"])
    after = len(await saver.notebook.store.find(keys.query(keys.of_kind("t", "s"))))
    assert after < before
    assert (await graph.aget_state(config())).values == expected
    assert (await graph.ainvoke({"messages": ["more"], "n": 0}, config()))["messages"][: len(expected["messages"])]


async def test_ordinary_use_remembers_a_bounded_number_of_threads(saver: PerdureSaver) -> None:
    graph = chain(saver, "a")
    for number in range(70):
        await graph.ainvoke({"messages": [], "n": 0}, config(f"t{number}"))
    assert len(saver.notebook.pages) <= 64
