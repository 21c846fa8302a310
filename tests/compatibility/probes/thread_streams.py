"""The stream of a thread: the runs that it has, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.compatibility.probe import claim, probe
from tests.compatibility.probes.streams import Event, of
from tests.compatibility.stage import TIMEOUT_S, Stage

STREAM = "GET /threads/{thread_id}/stream"


async def _read(
    stage: Stage, thread: str, modes: str, enough: Callable[[list[Event]], object], since: str | None = None
) -> list[Event]:
    """The events of a thread until there are enough."""
    events: list[Event] = []
    parts = await stage.sdk.threads.join_stream(thread, last_event_id=since, params={"stream_modes": modes})
    async with asyncio.timeout(TIMEOUT_S):
        async for part in parts:
            events.append(Event(part.event, part.data, part.id))
            if enough(events):
                break
    await parts.aclose()  # type: ignore[attr-defined]
    return events


def _is_done(run: Any) -> Callable[[list[Event]], object]:
    return lambda events: any(
        one.get("status") == "run_done" and one.get("run_id") == run["run_id"] for one in of(events, "metadata")
    )


async def followed(stage: Stage) -> None:
    thread = await stage.thread()
    options: Any = {"stream_mode": "values", "stream_resumable": True}
    runs = [await stage.sdk.runs.create(thread, "walk", input={"n": n, "delay_s": 0.5}, **options) for n in (2, 1)]
    events = await _read(stage, thread, "run_modes", _is_done(runs[1]))
    assert of(events, "values")[-1]["log"] == ["left", "right", "left"]
    done = [one["run_id"] for one in of(events, "metadata") if one.get("status") == "run_done"]
    assert done == [one["run_id"] for one in runs]


async def beginnings_and_ends(stage: Stage) -> None:
    thread = await stage.thread()
    options: Any = {"stream_mode": "values", "stream_resumable": True}
    run = await stage.sdk.runs.create(thread, "walk", input={"n": 2, "delay_s": 0.5}, **options)
    events = await _read(stage, thread, "lifecycle", _is_done(run))
    assert {one.name for one in events} == {"metadata"}


async def gone_on_with(stage: Stage) -> None:
    thread = await stage.thread()
    options: Any = {"stream_mode": "values", "stream_resumable": True}
    first = await stage.sdk.runs.create(thread, "walk", input={"n": 2, "delay_s": 0.5}, **options)
    events = await _read(stage, thread, "run_modes", _is_done(first))
    second = await stage.sdk.runs.create(thread, "walk", input={"n": 1}, **options)
    last = events[-1].id
    assert last is not None
    rest = await _read(stage, thread, "run_modes", _is_done(second), since=last)
    logs = [one.get("log") for one in of(rest, "values")]
    assert ["left"] not in logs
    assert logs[-1] == ["left", "right", "left"]


PROBES = (
    probe(followed, claim(STREAM, query="stream_modes")),
    probe(beginnings_and_ends, claim(STREAM, query="stream_modes")),
    probe(gone_on_with, claim(STREAM, header="Last-Event-ID", event="id")),
)
