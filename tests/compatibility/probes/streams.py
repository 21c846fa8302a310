"""Streams of runs, protocol 1: each mode, what is common to them, joining, going on after the last event."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
from tests.compatibility.probe import Claim, Probe, claim, probe
from tests.compatibility.stage import Stage
from tests.compatibility.starts import STREAMS, Start, of_each

SENTENCE = "one two three four"
JOIN = "GET /threads/{thread_id}/runs/{run_id}/stream"
SAY = {"messages": [{"role": "user", "content": "count"}]}


class Event(NamedTuple):
    """One event of a stream."""

    name: str
    data: Any
    id: str | None


async def _events(parts: AsyncIterator[Any]) -> list[Event]:
    return [Event(part.event, part.data, part.id) async for part in parts if part.event != "end"]


async def told(stage: Stage, start: Start, graph: str, **options: Any) -> list[Event]:
    """All events of a run but ``end``; a thread that is made with the run is kept, or the reference keeps no checkpoints."""
    thread = await stage.thread() if start.stateful else None
    if not start.stateful:
        options["on_completion"] = "keep"
    return await _events(stage.sdk.runs.stream(thread, graph, **options))


def of(events: list[Event], name: str) -> list[Any]:
    """The data of the events with this name."""
    return [one.data for one in events if one.name == name]


async def values(stage: Stage, start: Start) -> None:
    events = await told(stage, start, "walk", input={"n": 2}, stream_mode="values")
    assert {one.name for one in events} == {"metadata", "values"}
    assert events[0].name == "metadata"
    assert events[0].data["run_id"]
    logs = [one.get("log", []) for one in of(events, "values")]
    assert logs == sorted(logs, key=len)
    assert logs[-1] == ["left", "right"]
    assert ["left"] in logs


async def updates(stage: Stage, start: Start) -> None:
    events = await told(stage, start, "walk", input={"n": 2}, stream_mode="updates")
    found = of(events, "updates")
    assert [list(one) for one in found] == [["begin"], ["left"], ["right"]]
    assert found[1]["left"]["log"] == ["left"]


async def message_tuples(stage: Stage, start: Start) -> None:
    events = await told(stage, start, "talk", input=SAY, stream_mode="messages-tuple")
    chunks = [(chunk, metadata) for chunk, metadata in of(events, "messages") if chunk["type"] == "AIMessageChunk"]
    assert "".join(chunk["content"] for chunk, _ in chunks) == SENTENCE
    assert len(chunks) > 4
    assert len({chunk["id"] for chunk, _ in chunks}) == 1
    assert {metadata["langgraph_node"] for _, metadata in chunks} == {"model"}


async def messages(stage: Stage, start: Start) -> None:
    events = await told(stage, start, "talk", input=SAY, stream_mode="messages")
    described = of(events, "messages/metadata")
    ((message_id, of_message),) = described[0].items()
    assert of_message["metadata"]["langgraph_node"] == "model"
    partial = [one[0] for one in of(events, "messages/partial")]
    texts = [one["content"] for one in partial]
    assert texts[-1] == SENTENCE
    assert texts == sorted(texts, key=len)
    assert len(texts) > 4
    assert {one["id"] for one in partial} == {message_id}


async def custom(stage: Stage, start: Start) -> None:
    assert of(await told(stage, start, "talk", input=SAY, stream_mode="custom"), "custom") == [{"progress": 1}]


async def tasks(stage: Stage, start: Start) -> None:
    found = of(await told(stage, start, "walk", input={"n": 1}, stream_mode="tasks"), "tasks")
    begun, ended = [one for one in found if "input" in one], [one for one in found if "result" in one]
    assert [one["name"] for one in begun] == [one["name"] for one in ended] == ["begin", "left"]
    assert [one["id"] for one in begun] == [one["id"] for one in ended]
    assert ended[1]["result"]["log"] == ["left"]


async def checkpoints(stage: Stage, start: Start) -> None:
    found = of(await told(stage, start, "walk", input={"n": 1}, stream_mode="checkpoints"), "checkpoints")
    assert found[-1]["values"]["log"] == ["left"]
    assert found[-1]["next"] == []
    assert [one["next"] for one in found][-3:-1] == [["begin"], ["left"]]
    ids = [one["config"]["configurable"]["checkpoint_id"] for one in found]
    assert ids == sorted(set(ids))


async def debug(stage: Stage, start: Start) -> None:
    found = of(await told(stage, start, "walk", input={"n": 1}, stream_mode="debug"), "debug")
    assert {one["type"] for one in found} == {"checkpoint", "task", "task_result"}
    assert [one["payload"]["name"] for one in found if one["type"] == "task"] == ["begin", "left"]
    assert [one["step"] for one in found] == sorted(one["step"] for one in found)


async def langchain_events(stage: Stage, start: Start) -> None:
    found = of(await told(stage, start, "talk", input=SAY, stream_mode="events"), "events")
    assert {"on_chain_start", "on_chain_end", "on_chat_model_stream", "on_chat_model_end"} <= {
        one["event"] for one in found
    }
    chunks = [one["data"]["chunk"]["content"] for one in found if one["event"] == "on_chat_model_stream"]
    assert "".join(chunks) == SENTENCE


async def several(stage: Stage, start: Start) -> None:
    events = await told(stage, start, "walk", input={"n": 1}, stream_mode=["values", "updates"])
    assert {one.name for one in events} == {"metadata", "values", "updates"}
    assert of(events, "updates")[-1]["left"]["log"] == of(events, "values")[-1]["log"] == ["left"]


async def of_subgraphs(stage: Stage, start: Start) -> None:
    events = await told(stage, start, "nested", input={}, stream_mode="updates", stream_subgraphs=False)
    assert {one.name for one in events} == {"metadata", "updates"}
    events = await told(stage, start, "nested", input={}, stream_mode="values", stream_subgraphs=True)
    assert any(one.name.startswith("values|inner:") for one in events)


async def errors(stage: Stage, start: Start) -> None:
    events = await told(stage, start, "fail", input={}, stream_mode="values")
    assert events[-1].name == "error"
    assert events[-1].data == {"error": "ValueError", "message": "failed on purpose"}


async def questions(stage: Stage, start: Start) -> None:
    (interrupt,) = of(await told(stage, start, "ask", input={}, stream_mode="values"), "values")[-1]["__interrupt__"]
    assert interrupt["value"] == {"question": "go on?"}
    assert interrupt["id"]


async def ids(stage: Stage, start: Start) -> None:
    events = await told(stage, start, "walk", input={"n": 2}, stream_mode="values", stream_resumable=True)
    found = [one.id for one in events if one.name == "values"]
    assert None not in found
    assert len(set(found)) == len(found)


async def located(stage: Stage, start: Start) -> None:
    told_of: list[Any] = []
    thread = await stage.thread() if start.stateful else None
    async for _ in stage.sdk.runs.stream(thread, "walk", input={"n": 1}, on_run_created=told_of.append):
        pass
    (run,) = told_of
    assert run["run_id"]
    if thread is not None:
        assert run["thread_id"] == thread
        assert [one["run_id"] for one in await stage.sdk.runs.list(thread)] == [run["run_id"]]
    body = {"assistant_id": "walk", "input": {"n": 1}}
    async with stage.http.stream("POST", start.path(thread), json=body) as answer:
        assert answer.headers["Location"].endswith("/stream")
        assert [line async for line in answer.aiter_lines()]


async def joined(stage: Stage) -> None:
    thread = await stage.thread()
    run = await stage.sdk.runs.create(thread, "walk", input={"n": 3, "delay_s": 0.3}, stream_resumable=True)
    events = await _events(stage.sdk.runs.join_stream(thread, run["run_id"], stream_mode="values"))
    assert of(events, "values")[-1]["log"] == ["left", "right", "left"]


async def joined_in_one_mode(stage: Stage) -> None:
    thread = await stage.thread()
    options: Any = {"stream_mode": ["values", "updates"], "stream_resumable": True}
    run = await stage.sdk.runs.create(thread, "walk", input={"n": 2, "delay_s": 0.3}, **options)
    parts = stage.sdk.runs.join_stream(thread, run["run_id"], stream_mode="updates", last_event_id="-1")
    events = await _events(parts)
    assert "values" not in {one.name for one in events}
    assert [list(one) for one in of(events, "updates")] == [["begin"], ["left"], ["right"]]


async def gone_on_with(stage: Stage) -> None:
    thread = await stage.thread()
    told_of: list[Any] = []
    options: Any = {"stream_mode": "values", "stream_resumable": True, "on_run_created": told_of.append}
    live = await _events(stage.sdk.runs.stream(thread, "walk", input={"n": 3, "delay_s": 0.2}, **options))
    run_id = told_of[0]["run_id"]
    first = [one for one in live if one.name == "values"]
    again = await _events(stage.sdk.runs.join_stream(thread, run_id, stream_mode="values", last_event_id="-1"))
    assert [one for one in again if one.name == "values"] == first
    rest = await _events(stage.sdk.runs.join_stream(thread, run_id, stream_mode="values", last_event_id=first[1].id))
    assert [one for one in rest if one.name == "values"] == first[2:]


async def replayed_after_its_end(stage: Stage) -> None:
    """What was not streamed when it ran, and by a run that nobody streamed, can be read from its beginning."""
    thread, run = await stage.walked(2)
    parts = stage.sdk.runs.join_stream(thread, run["run_id"], stream_mode="updates", last_event_id="-1")
    events = await _events(parts)
    assert [list(one) for one in of(events, "updates")] == [["begin"], ["left"], ["right"]]


async def ended(stage: Stage) -> None:
    body = {"assistant_id": "walk", "input": {"n": 1}}
    async with stage.http.stream("POST", f"/threads/{await stage.thread()}/runs/stream", json=body) as answer:
        lines = [line async for line in answer.aiter_lines()]
    assert [line for line in lines if line.startswith("event:")][-1] == "event: end"


async def joined_until_it_is_cut_off(stage: Stage) -> None:
    for wanted, cancels in {"success": "0", "interrupted": "1"}.items():
        thread = await stage.thread()
        run = await stage.sdk.runs.create(thread, "walk", input={"n": 1, "delay_s": 4})
        path = f"/threads/{thread}/runs/{run['run_id']}/stream"
        try:
            await stage.http.get(path, params={"cancel_on_disconnect": cancels}, timeout=1.5)
        except httpx.ReadTimeout:
            assert (await stage.ended(run))["status"] == wanted
        else:
            raise AssertionError("the stream did not wait for the run")


MODES = {
    "values": values,
    "updates": updates,
    "messages-tuple": message_tuples,
    "messages": messages,
    "custom": custom,
    "tasks": tasks,
    "checkpoints": checkpoints,
    "debug": debug,
    "events": langchain_events,
}


def _joins() -> list[Probe]:
    resumed: list[Claim] = [claim(JOIN, header="Last-Event-ID", query="stream_mode", event="id")]
    return [
        probe(joined, claim(JOIN)),
        probe(joined_in_one_mode, claim(JOIN, query="stream_mode", header="Last-Event-ID", event="metadata")),
        probe(gone_on_with, *resumed),
        probe(joined_until_it_is_cut_off, claim(JOIN, query="cancel_on_disconnect")),
    ]


PROBES = (
    *(one for mode, run in MODES.items() for one in of_each(STREAMS, run, body=f"stream_mode={mode}")),
    *of_each(STREAMS, several, body="stream_mode=values stream_mode=updates"),
    *of_each(STREAMS, of_subgraphs, body="stream_subgraphs"),
    *of_each(STREAMS, errors, event="metadata error"),
    *of_each(STREAMS, questions, event="metadata"),
    *of_each(STREAMS, ids, body="stream_resumable", event="id"),
    *of_each(STREAMS, located, answer_header="Content-Location Location"),
    *_joins(),
    probe(
        replayed_after_its_end,
        differs="A stream can be read from its beginning long after the run, also of a run that nobody streamed and in any mode "
        "that the history holds; the Agent Server keeps what was asked for at the start, for a while (`stream_resumable`).",
    ),
    probe(
        ended,
        differs="A stream ends with an `end` event, so that a client can tell the end of the run from a broken connection.",
    ),
)
