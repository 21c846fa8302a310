"""A gateway and a worker on one database, with graphs of the test: ``open_streaming``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from tests.integration.worker_stage import Stage, open_worker
from tests.support.gateway import OpenGateway, open_gateway
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.schemas import topics

LOOK_S = 0.01


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    data: Any
    id: str | None


@dataclass
class Streaming(OpenGateway):
    """A gateway whose runs are executed."""

    stage: Stage

    async def run(self, graph: str, given: Any = None, thread: str | None = None, **more: Any) -> dict[str, Any]:
        """Start a run and wait for its end; its document."""
        body = {"assistant_id": graph, **({} if "command" in more else {"input": given or {}}), **more}
        answer = await self.http.post(f"/threads/{thread}/runs" if thread else "/runs", json=body)
        assert answer.status_code == 202, answer.text
        return await self.ended(answer.json()["run_id"])

    async def ended(self, run_id: str) -> dict[str, Any]:
        async def look() -> Any:
            run = await self.database.runs.find_one({"_id": run_id})
            return run if run is not None and run["status"] not in {"pending", "running"} else None

        found: dict[str, Any] = await until(look, f"run {run_id} has ended")
        return found

    async def read(self, method: str, path: str, **request: Any) -> list[Event]:
        """All events of a stream that ends."""
        async with self.http.stream(method, path, **request) as answer:
            assert answer.status_code == 200, await answer.aread()
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            return [event async for event in events_of(answer)]

    async def replay(self, run: Mapping[str, Any], after: str = "-1", *modes: str) -> list[Event]:
        """The events of a run after a place."""
        path = f"/threads/{run['thread_id']}/runs/{run['_id']}/stream"
        params = {"stream_mode": json.dumps(modes)} if modes else {}
        return await self.read("GET", path, params=params, headers={"Last-Event-ID": after})


async def events_of(answer: httpx.Response) -> AsyncIterator[Event]:
    """The events of an answer as they come."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Event(fields["event"], json.loads(fields["data"]), fields.get("id"))
            fields = {}


@asynccontextmanager
async def open_streaming(
    mongodb_uri: str, kafka_bootstrap: str, graphs: Mapping[str, Any], **settings: Any
) -> AsyncIterator[Streaming]:
    """A worker that claims what is due, and a gateway on its database."""
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    served = [{"_id": name, "version": "v1", "nodes": [], "input_schema": None, "updated_at": now()} for name in graphs]
    async with open_worker(mongodb_uri, kafka_bootstrap, graphs) as stage:
        uri = mongodb_uri.rsplit("/", 1)[0] + f"/{stage.db.name}"

        def streaming(*parts: Any) -> Streaming:
            return Streaming(*parts, stage)

        async with open_gateway(uri, kafka_bootstrap, streaming, served, **settings) as opened:  # type: ignore[type-var]
            await until(opened.ready, "the gateway is ready")
            claiming = asyncio.create_task(claim(stage))
            try:
                yield opened
            finally:
                claiming.cancel()


async def claim(stage: Stage) -> None:
    """What the commands of Kafka would make the worker do."""
    while True:
        due = await stage.db.runs.find({"status": "pending"}, {"thread_id": 1}).to_list(None)
        if threads := {run["thread_id"] for run in due}:
            await stage.worker.start(threads)
        await asyncio.sleep(LOOK_S)
