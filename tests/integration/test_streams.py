"""Streams of runs over HTTP, with a real worker, database and Kafka."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send, interrupt
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from tests.integration.streaming_stage import Event, Streaming, events_of, open_streaming
from tests.support.gateway import OpenGateway, open_gateway
from tests.support.polling import until

DURABLE = ("values", "updates", "tasks", "checkpoints", "debug")


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    n: int


def says(text: str) -> Any:
    return lambda _: {"log": [text]}


def ask(_: State) -> State:
    return {"log": [f"answer {interrupt('may I?')}"]}


def fail(_: State) -> State:
    raise ValueError("broken")


async def slow(_: State) -> State:
    await asyncio.sleep(0.3)
    return {"log": ["slow"]}


def answer(_: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("hello", id="hers")]}


def graphs() -> dict[str, Any]:
    fan = StateGraph(State).add_node("fan", says("fan")).add_node("work", lambda state: {"log": [f"work {state['n']}"]})
    fan.add_edge(START, "fan").add_conditional_edges(
        "fan", lambda _: [Send("work", {"n": n}) for n in range(3)], ["work"]
    )
    inner = StateGraph(State).add_sequence([("x", says("x")), ("ask", ask)]).add_edge(START, "x")
    outer = StateGraph(State).add_node("before", says("before")).add_node("sub", inner.compile())
    outer.add_edge(START, "before").add_edge("before", "sub")
    line = StateGraph(State).add_sequence([("a", says("a")), ("b", says("b"))]).add_edge(START, "a")
    asking = StateGraph(State).add_sequence([("a", says("a")), ("ask", ask), ("z", says("z"))]).add_edge(START, "a")
    failing = StateGraph(State).add_sequence([("a", says("a")), ("fail", fail)]).add_edge(START, "a")
    slowly = StateGraph(State).add_sequence([("a", says("a")), ("slow", slow), ("z", says("z"))]).add_edge(START, "a")
    chat = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer")
    named = {
        "line": line, "fan": fan, "asking": asking, "failing": failing, "sub": outer, "slow": slowly, "chat": chat
    }  # fmt: skip
    return {name: builder.compile() for name, builder in named.items()}


@pytest.fixture(scope="module", name="streaming")
async def _streaming(mongodb_uri: str, kafka_bootstrap: str) -> AsyncIterator[Streaming]:
    async with open_streaming(mongodb_uri, kafka_bootstrap, graphs(), gateway_heartbeat_s=0.2) as opened:
        yield opened


@pytest.fixture(name="sdk")
async def _sdk(streaming: Streaming) -> AsyncIterator[LangGraphClient]:
    client = get_client(url=streaming.url, api_key=None)
    yield client
    await client.aclose()


def said(events: list[Event], *names: str) -> list[tuple[str, Any]]:
    return [(one.name, one.data) for one in events if one.name in names]


async def test_a_stream_tells_a_run_from_its_beginning_to_its_end(streaming: Streaming) -> None:
    body = {"assistant_id": "line", "input": {"log": ["in"]}, "stream_mode": ["values", "updates"]}
    async with streaming.http.stream("POST", "/runs/stream", json=body) as opened:
        place = opened.headers["Content-Location"]
        assert opened.headers["Location"] == f"{place}/stream"
        assert opened.headers["Content-Type"].startswith("text/event-stream")
        text = "".join([part async for part in opened.aiter_text()])
    run_id = place.rpartition("/")[2]
    blocks = [block for block in text.split("\r\n\r\n") if block and not block.startswith(":")]
    assert blocks[0] == f'event: metadata\r\ndata: {{"run_id":"{run_id}","attempt":1}}\r\nid: 1-1'
    assert [block.split("\r\n")[:2] for block in blocks[1:]] == [
        ["event: values", 'data: {"log":["in"]}'],
        ["event: updates", 'data: {"a":{"log":["a"]}}'],
        ["event: values", 'data: {"log":["in","a"]}'],
        ["event: updates", 'data: {"b":{"log":["b"]}}'],
        ["event: values", 'data: {"log":["in","a","b"]}'],
        ["event: end", "data: null"],
    ]


@pytest.mark.parametrize("graph", ["line", "fan", "asking", "failing", "sub", "chat"])
async def test_the_replay_is_the_live_stream_from_every_place(streaming: Streaming, graph: str) -> None:
    given = {"messages": [{"role": "user", "content": "hi", "id": "his"}]} if graph == "chat" else {"log": []}
    body = {"assistant_id": graph, "input": given, "stream_mode": [*DURABLE], "stream_subgraphs": True}
    live = await streaming.read("POST", "/runs/stream", json=body)
    assert live[0].name == "metadata"
    assert live[-1].name == "end"
    places = [event.id for event in live]
    assert None not in places
    assert len({*places}) == len(places)
    run = await streaming.ended(live[0].data["run_id"])
    assert await streaming.replay(run) == live
    for number, place in enumerate(places):
        assert place is not None
        assert await streaming.replay(run, place) == live[number + 1 :], place


async def test_a_run_that_nobody_streamed_is_read_afterwards(streaming: Streaming) -> None:
    run = await streaming.run("line", {"log": ["in"]})
    events = await streaming.replay(run, "-1", "updates", "values")
    assert said(events, "updates") == [("updates", {"a": {"log": ["a"]}}), ("updates", {"b": {"log": ["b"]}})]
    assert [event.name for event in events] == [
        "metadata", "values", "updates", "values", "updates", "values", "end",
    ]  # fmt: skip
    assert [event.name for event in await streaming.replay(run)] == ["metadata", "values", "values", "values", "end"]


async def test_an_interrupt_ends_the_stream_and_a_command_goes_on(streaming: Streaming, sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    first = [
        (part.event, part.data)
        async for part in sdk.runs.stream(thread, "asking", input={"log": []}, stream_mode=["values", "updates"])
    ]
    asked = first[-2][1]["__interrupt__"]
    assert [one["value"] for one in asked] == ["may I?"]
    assert first[-2:] == [("values", {"log": ["a"], "__interrupt__": asked}), ("end", None)]
    assert ("updates", {"__interrupt__": asked}) in first
    second = [
        (part.event, part.data)
        async for part in sdk.runs.stream(
            thread, "asking", command={"resume": "yes"}, stream_mode=["values", "updates"]
        )
    ]
    assert second[1:] == [
        ("values", {"log": ["a"]}),
        ("updates", {"ask": {"log": ["answer yes"]}}),
        ("values", {"log": ["a", "answer yes"]}),
        ("updates", {"z": {"log": ["z"]}}),
        ("values", {"log": ["a", "answer yes", "z"]}),
        ("end", None),
    ]


async def test_tasks_carry_what_is_known_of_their_run(streaming: Streaming) -> None:
    run = await streaming.run("line", {"log": []}, metadata={"team": "red"})
    begun = [data for _, data in said(await streaming.replay(run, "-1", "tasks"), "tasks") if "input" in data]
    ids = {"run_id": run["_id"], "graph_id": "line", "assistant_id": run["assistant_id"]}
    assert [one["metadata"] for one in begun] == [{"team": "red", **ids}] * 2


async def test_an_error_is_told(streaming: Streaming, sdk: LangGraphClient) -> None:
    events = [(part.event, part.data) async for part in sdk.runs.stream(None, "failing", input={"log": []})]
    assert events[-2:] == [("error", {"error": "ValueError", "message": "broken"}), ("end", None)]


async def test_messages_are_whole_where_no_chunks_are(streaming: Streaming) -> None:
    message = HumanMessage("hi", id="his").model_dump()
    run = await streaming.run("chat", {"messages": [message]})
    ((_, (told, metadata)),) = said(await streaming.replay(run, "-1", "messages-tuple"), "messages")
    assert (told["content"], told["id"], told["type"]) == ("hello", "hers", "ai")
    assert metadata["langgraph_node"] == "answer"
    assert metadata["run_id"] == run["_id"]
    events = await streaming.replay(run, "-1", "messages")
    assert [event.name for event in events] == ["metadata", "messages/metadata", "messages/complete", "end"]
    assert events[2].data == [told]


async def test_join_without_a_place_begins_now(streaming: Streaming, sdk: LangGraphClient) -> None:
    run = await sdk.runs.create(None, "slow", input={"log": []})
    events = [part async for part in sdk.runs.join_stream(run["thread_id"], run["run_id"], stream_mode="updates")]
    assert [part.event for part in events][-1] == "end"
    assert {"z": {"log": ["z"]}} in [part.data for part in events]
    assert [part.event async for part in sdk.runs.join_stream(run["thread_id"], run["run_id"])] == ["end"]


async def test_heartbeats_come_while_nothing_is_told(streaming: Streaming) -> None:
    body = {"assistant_id": "slow", "input": {"log": []}}
    async with streaming.http.stream("POST", "/runs/stream", json=body) as opened:
        text = "".join([part async for part in opened.aiter_text()])
    assert ": heartbeat\r\n\r\n" in text


async def test_a_client_that_goes_away_cancels_its_run_if_it_asked(streaming: Streaming) -> None:
    for on_disconnect, status in (("cancel", "cancelled"), ("continue", "success")):
        body = {"assistant_id": "slow", "input": {"log": []}, "on_disconnect": on_disconnect}
        async with streaming.http.stream("POST", "/runs/stream", json=body) as opened:
            run_id = opened.headers["Content-Location"].rpartition("/")[2]
            async for _ in opened.aiter_lines():
                break
        if on_disconnect == "cancel":
            await asyncio.sleep(0)
            streaming.stage.worker.cancel([run_id])
        assert (await streaming.ended(run_id))["status"] == status


@pytest.mark.parametrize(
    ("request_", "where"),
    [
        ({"params": {"stream_mode": "novels"}}, "query:stream_mode"),
        ({"params": {"stream_mode": "[1"}}, "query:stream_mode"),
        ({"headers": {"Last-Event-ID": "yesterday"}}, "header:Last-Event-ID"),
    ],
)
async def test_what_cannot_be_told_is_refused(streaming: Streaming, request_: dict[str, Any], where: str) -> None:
    run = await streaming.run("line", {"log": []})
    answer = await streaming.http.get(f"/threads/{run['thread_id']}/runs/{run['_id']}/stream", **request_)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == where


async def test_a_thread_is_read_through_all_its_runs(streaming: Streaming, sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    seen: list[tuple[str, Any]] = []

    async def read() -> None:
        async for part in await sdk.threads.join_stream(thread, stream_mode=["run_modes"]):
            seen.append((part.event, part.data))  # noqa: PERF401 - read while it grows

    reading = asyncio.create_task(read())
    first = await streaming.run("asking", {"log": []}, thread, stream_mode="updates")
    second = await streaming.run("asking", None, thread, command={"resume": "yes"}, stream_mode="updates")
    done = [("metadata", {"status": "run_done", "run_id": run["_id"]}) for run in (first, second)]
    await until(lambda: done[1] in seen, "both runs were read", explain=lambda: seen)
    reading.cancel()
    assert seen.index(done[0]) < seen.index(("metadata", {"run_id": second["_id"], "attempt": 1}))
    assert next(data for name, data in seen if name == "updates") == {"a": {"log": ["a"]}}
    path = f"/threads/{thread}/stream"
    lifecycle = []
    async with streaming.http.stream(
        "GET", path, params={"stream_modes": "lifecycle"}, headers={"Last-Event-ID": "-1"}
    ) as answer:
        async for event in events_of(answer):
            lifecycle.append((event.name, event.data))
            if len(lifecycle) == 4:
                break
    assert lifecycle == [one for one in seen if one[0] == "metadata"]


async def test_a_reader_who_comes_while_the_end_is_being_written_misses_nothing(streaming: Streaming) -> None:
    """The documents of a thread and of its run are two: the thread's may say first that the run has ended."""
    run = await streaming.run("line")
    whole = await streaming.replay(run, "-1", "updates")
    assert [event.name for event in whole] == ["metadata", "updates", "updates", "end"]
    fields = {name: run[name] for name in ("status", "first_seq", "ended_seq", "ended_at")}
    runs = streaming.database.runs
    unsaid = {name: "" for name in fields if name != "status"}
    await runs.update_one({"_id": run["_id"]}, {"$set": {"status": "running"}, "$unset": unsaid})
    path = f"/threads/{run['thread_id']}/runs/{run['_id']}/stream"
    lines: list[str] = []
    async with streaming.http.stream(
        "GET", path, params={"stream_mode": "updates"}, headers={"Last-Event-ID": "-1"}
    ) as answer:
        async for line in answer.aiter_lines():
            if line.startswith(":"):  # a heartbeat: the reader has looked
                await runs.update_one({"_id": run["_id"]}, {"$set": fields})
            lines.append(line)
    assert [line.removeprefix("event: ") for line in lines if line.startswith("event: ")] == [one.name for one in whole]


async def test_a_gateway_that_ends_breaks_streams_off(mongodb_uri: str, kafka_bootstrap: str) -> None:
    async with open_streaming(mongodb_uri, kafka_bootstrap, graphs()) as opened:
        body = {"assistant_id": "asking", "input": {"log": []}, "after_seconds": 60}
        run = (await opened.http.post("/runs", json=body)).json()
        path = f"{opened.url}/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
        client = httpx.AsyncClient(timeout=30)
        answer = await client.send(client.build_request("GET", path), stream=True)
        assert answer.status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        await answer.aread()
    await client.aclose()


async def test_streams_go_on_while_kafka_is_away(streaming: Streaming, mongodb_uri: str) -> None:
    uri = mongodb_uri.rsplit("/", 1)[0] + f"/{streaming.database.name}"
    async with open_gateway(uri, "127.0.0.1:9", OpenGateway) as blind:
        run = (await streaming.http.post("/runs", json={"assistant_id": "slow", "input": {"log": []}})).json()
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream?stream_mode=updates&stream_mode=messages-tuple"
        async with blind.http.stream("GET", path, headers={"Last-Event-ID": "-1"}) as answer:
            told = [(event.name, event.data) async for event in events_of(answer)]
    assert [name for name, _ in told] == ["metadata", "updates", "updates", "updates", "end"]
    assert told[3][1] == {"z": {"log": ["z"]}}
