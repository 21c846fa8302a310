"""Tokens and other chunks through Kafka, many readers, slow readers: a real worker, database and broker."""

from __future__ import annotations

import asyncio
import json
import operator
import resource
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict
from urllib.parse import urlsplit

import psutil
import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from tests.integration.streaming_stage import Event, Streaming, open_streaming

from perdure.gateway.streams.history import History

pytestmark = pytest.mark.alone

WORDS = "the quick brown fox jumps over the lazy dog"
CHUNKS = 10_000
READERS = 1_000
STEPS, STEP_BYTES = 60, 200_000
MIB = 1024 * 1024


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    large: str
    step: int


async def speak(state: MessagesState) -> dict[str, Any]:
    model = GenericFakeChatModel(messages=iter([AIMessage(WORDS, id=f"said-{len(state['messages'])}")]))
    return {"messages": [await model.ainvoke(state["messages"])]}


async def emit(_: State) -> State:
    write = get_stream_writer()
    for number in range(CHUNKS):
        write({"n": number})
        if number % 50 == 0:
            await asyncio.sleep(0)
    return {"log": ["emitted"]}


async def grow(state: State) -> State:
    step = state.get("step", 0) + 1
    return {"step": step, "large": str(step % 10) * STEP_BYTES}


async def pause(state: State) -> State:
    await asyncio.sleep(0.2)
    return {"step": state.get("step", 0) + 1}


def looping(node: Any, steps: int) -> StateGraph[Any]:
    builder = StateGraph(State).add_node("work", node).add_edge(START, "work")
    return builder.add_conditional_edges("work", lambda state: "work" if state["step"] < steps else "__end__")


def graphs() -> dict[str, Any]:
    talk = StateGraph(MessagesState).add_sequence([("speak", speak), ("again", speak)]).add_edge(START, "speak")
    many = StateGraph(State).add_node("emit", emit).add_edge(START, "emit")
    named = {"talk": talk, "many": many, "large": looping(grow, STEPS), "slow": looping(pause, 10)}
    return {name: builder.compile() for name, builder in named.items()}


@pytest.fixture(scope="module", name="streaming")
async def _streaming(mongodb_uri: str, kafka_bootstrap: str) -> AsyncIterator[Streaming]:
    async with open_streaming(mongodb_uri, kafka_bootstrap, graphs(), recursion_limit_max=1_000) as opened:
        yield opened


def talk(**more: Any) -> dict[str, Any]:
    return {"assistant_id": "talk", "input": {"messages": [{"role": "user", "content": "hi", "id": "his"}]}, **more}


def text_of(events: list[Event]) -> dict[str, str]:
    said: dict[str, str] = {}
    for message, _ in (event.data for event in events if event.name == "messages"):
        said[message["id"]] = said.get(message["id"], "") + message["content"]
    return said


async def test_tokens_come_before_what_their_superstep_made_durable(streaming: Streaming) -> None:
    live = await streaming.read("POST", "/runs/stream", json=talk(stream_mode=["messages-tuple", "updates"]))
    names = [event.name for event in live]
    first, second = (index for index, name in enumerate(names) if name == "updates")
    assert names[0] == "metadata"
    assert {*names[1:first]} == {"messages"}
    assert {*names[first + 1 : second]} == {"messages"}
    assert names[second + 1 :] == ["end"]
    assert {event.data[0]["type"] for event in live if event.name == "messages"} == {"AIMessageChunk"}
    assert [*text_of(live).values()] == [WORDS, WORDS]
    assert all("+" in str(event.id) for event in live if event.name == "messages")
    run = await streaming.ended(live[0].data["run_id"])
    for number, event in enumerate(live):
        assert event.id is not None
        again = await streaming.replay(run, event.id)
        assert [(one.id, one.name) for one in again] == [(one.id, one.name) for one in live[number + 1 :]], event.id


async def test_messages_so_far(streaming: Streaming) -> None:
    live = await streaming.read("POST", "/runs/stream", json=talk(stream_mode="messages"))
    partial = [event.data[0]["content"] for event in live if event.name == "messages/partial"]
    assert WORDS in partial
    assert partial[0] != WORDS
    assert "messages/complete" not in [event.name for event in live]


async def test_a_run_that_was_started_without_tokens_tells_whole_messages(streaming: Streaming) -> None:
    run = await streaming.run("talk", talk()["input"])
    events = await streaming.replay(run, "-1", "messages-tuple")
    assert [*text_of(events).values()] == [WORDS, WORDS]
    assert {event.data[0]["type"] for event in events if event.name == "messages"} == {"ai"}


async def test_ten_thousand_chunks_come_once_each_in_order(streaming: Streaming) -> None:
    body = {"assistant_id": "many", "input": {"log": []}, "stream_mode": ["custom", "updates"]}
    live = await streaming.read("POST", "/runs/stream", json=body)
    assert [event.data["n"] for event in live if event.name == "custom"] == [*range(CHUNKS)]
    assert [event.name for event in live[-2:]] == ["updates", "end"]


async def readers(streaming: Streaming, run: dict[str, Any], count: int) -> list[tuple[Any, Any]]:
    """Open connections that read a run from its beginning."""
    host = urlsplit(streaming.url)
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream?stream_mode=values&stream_mode=updates"
    opened = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection(host.hostname, host.port, limit=2**22)
        writer.write(f"GET {path} HTTP/1.0\r\nLast-Event-ID: -1\r\n\r\n".encode())
        opened.append((reader, writer))
    return opened


async def test_a_thousand_readers_share_what_is_read(streaming: Streaming, monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8_192), hard))
    pages = 0
    page = History.page

    async def counted(self: History, thread_id: str, after: int) -> Any:
        nonlocal pages
        pages += 1
        return await page(self, thread_id, after)

    monkeypatch.setattr(History, "page", counted)
    before = psutil.Process().memory_info().rss
    run = (await streaming.http.post("/runs", json={"assistant_id": "slow", "input": {"step": 0}})).json()
    opened = await readers(streaming, run, READERS)
    try:
        told = await asyncio.gather(*(reader.read() for reader, _ in opened))
        grown = (psutil.Process().memory_info().rss - before) / MIB
    finally:
        for _, writer in opened:
            writer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    counts = {data.count(b"event: values") for data in told}
    assert counts == {11}, (counts, [data[:600] for data in told if b"event: end" not in data][:3])
    assert all(b"event: end" in data for data in told)
    print(f"{READERS} readers: {grown:.0f} MiB more with their clients, {pages} reads of the history")
    assert grown < 300
    assert pages < READERS / 2


async def test_a_reader_that_stalls_holds_nothing_and_misses_nothing(streaming: Streaming) -> None:
    host = urlsplit(streaming.url)
    body = {"assistant_id": "large", "input": {"step": 0}, "config": {"recursion_limit": 200}}
    run = (await streaming.http.post("/runs", json=body)).json()
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
    reader, writer = await asyncio.open_connection(host.hostname, host.port, limit=1024)
    writer.write(f"GET {path}?stream_mode=values HTTP/1.0\r\nLast-Event-ID: -1\r\n\r\n".encode())
    await reader.readline()
    before = psutil.Process().memory_info().rss
    document = await streaming.ended(run["run_id"])
    assert document["status"] == "success"
    others = await streaming.replay(document, "-1", "values")
    grown = (psutil.Process().memory_info().rss - before) / MIB
    print(f"{STEPS * STEP_BYTES / MIB:.0f} MiB told to another, {grown:.0f} MiB more with the clients")
    data = await asyncio.wait_for(reader.read(-1), 60)
    writer.close()
    events = [block for block in data.decode().split("\r\n\r\n") if block.startswith("event: values")]
    told = [json.loads(block.split("\r\n")[1].removeprefix("data: ")) for block in events]
    assert [one["step"] for one in told] == [one.data["step"] for one in others if one.name == "values"]
    assert len(told) == STEPS + 1
