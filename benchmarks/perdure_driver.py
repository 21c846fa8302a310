"""Perdure as a system under test: Kafka, OpenSearch, the MongoDB-compatible server and every service, with default settings.

Starts go over HTTP, at most 64 requests under way; an end counts when its event is read from Kafka. Indexing is on, and the CPU
of a workload includes it: ``settle`` waits until every event is searchable. ``PERDURE_BENCH_WORKERS`` is the number of
agent-step processes, ``PERDURE_BENCH_JVM`` is ``quick`` or ``full`` (see ``README.md``).
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop
from harness.mongodb import bson_bytes
from harness.session import main
from harness.system import System
from load import Watcher, indexed_documents, watch_index
from payload import STEPS, first_message
from pymongo import MongoClient
from smoke import versions
from usage import memory_mib, servers

from perdure.chassis import mongo
from perdure.chassis.opensearch import OpenSearch
from perdure.chassis.settings import ServiceSettings
from perdure.chassis.telemetry import configure_logging
from perdure.cli.provision import provision
from perdure.local.dev import CONFIG_VARIABLE
from perdure.local.display import SilentDisplay
from perdure.local.services import Services, available_services
from perdure.schemas.events import RunSucceeded

GRAPHS = Path(__file__).resolve().parent / "graphs"
CLIENTS = 64
SAMPLE = 20
"""Of every so many-th chain, each checkpoint is searched for until it is found."""
CHECKED = 25
"""The state of every so many-th agent is read back over HTTP and compared."""
RUN_S = 600.0
CATCH_UP_S = 120.0


class Perdure(System):
    """Everything that a user runs, on servers of its own."""

    title = "Perdure"
    in_process = False
    persists = (
        "what changed in the state, the message lists as content-addressed segments; every state change is indexed too"
    )
    stored_is = "BSON bytes of all documents in MongoDB"
    stores = frozenset({"kafka", "mongodb", "opensearch"})

    def __init__(self, scratch: Path, home: Path) -> None:
        super().__init__(scratch, home)
        self._exit = ExitStack()
        self.instances = {"agent_step": int(os.environ.get("PERDURE_BENCH_WORKERS") or 1)}
        """How many of a service, where not one."""
        self._jvm = os.environ.get("PERDURE_BENCH_JVM") or "quick"
        self._threads: dict[str, str] = {}
        self._started = 0

    async def open(self) -> None:
        configure_logging("bench", ServiceSettings(log_level="WARNING", log_format="console"))
        self.stack = self._exit.enter_context(servers(SilentDisplay(), optimised=self._jvm == "full"))
        environment = self.stack.environment()
        await asyncio.to_thread(provision, environment)
        settings = {
            CONFIG_VARIABLE: str(GRAPHS / "langgraph.json"),
            "PERDURE_LOG_LEVEL": "WARNING",
            "PERDURE_GATEWAY_PORT": "0",
        }
        names = [name for name in available_services() for _ in range(self.instances.get(name, 1))]
        services = self._exit.enter_context(Services.of(self.stack, names, env=settings, cwd=GRAPHS))
        self._url = services.gateway_url
        self._mongodb = environment["PERDURE_MONGODB_URI"]
        self._opensearch = OpenSearch(environment["PERDURE_OPENSEARCH_URL"])
        self.http = aiohttp.ClientSession(
            services.gateway_url, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=RUN_S)
        )
        self._clients = asyncio.Semaphore(CLIENTS)
        self._watcher = Watcher(environment["PERDURE_KAFKA_BOOTSTRAP_SERVERS"], sample=0)
        await self._watcher.ready()
        self._index = asyncio.create_task(
            watch_index(self._opensearch, self._watcher, self.searchable_s, asyncio.Event())
        )

    def agent_server(self) -> str:
        return self._url

    async def close(self) -> None:
        try:
            if hasattr(self, "_index"):
                self._index.cancel()
                await self._watcher.close()
                await self._opensearch.close()
                await self.http.close()
        finally:
            self._exit.close()

    async def _start(self, assistant: str, body: dict[str, Any], thread_id: str | None = None) -> str:
        """Start a run, on a thread made for it unless one is named; returns the thread."""
        self._watcher.sample = SAMPLE if assistant == "chain" else 0
        path = f"/threads/{thread_id}/runs" if thread_id else "/runs"
        content, headers = orjson.dumps({"assistant_id": assistant, **body}), {"content-type": "application/json"}
        async with self._clients:
            began = time.perf_counter()
            async with self.http.post(path, data=content, headers=headers) as answer:
                read = await answer.read()
            self.ack_s.append(time.perf_counter() - began)
        if answer.status != 202:
            raise RuntimeError(f"POST {path} was answered {answer.status}: {read[:150]!r}")
        return str(orjson.loads(read)["thread_id"])

    async def _end(self, thread_id: str) -> None:
        _, how = await self._watcher.end(thread_id, RUN_S)
        if how != RunSucceeded.TYPE:
            raise RuntimeError(f"thread {thread_id} ended with {how}")

    async def _values(self, thread_id: str) -> dict[str, Any]:
        async with self.http.get(f"/threads/{thread_id}/state") as answer:
            found = orjson.loads(await answer.read())
        return dict(found.get("values") or {})

    async def _run(self, assistant: str, given: dict[str, Any], messages: int) -> None:
        thread_id = await self._start(assistant, {"input": given})
        await self._end(thread_id)
        self._started += 1
        if self._started % CHECKED == 0 and (found := len((await self._values(thread_id))["messages"])) != messages:
            raise RuntimeError(f"thread {thread_id} has {found} messages instead of {messages}")

    async def chain(self, key: str, state_bytes: int) -> None:  # noqa: ARG002
        await self._run("chain", {"messages": [first_message(state_bytes)]}, 1 + STEPS)

    async def short(self, key: str) -> None:  # noqa: ARG002
        await self._run("short", {"messages": [first_message(1024)]}, 2)

    async def fan_out(self, key: str, width: int) -> None:  # noqa: ARG002
        await self._run("fanout", {"width": width}, width)

    async def park(self, key: str) -> None:
        self._threads[key] = await self._start("approve", {"input": {"messages": [first_message(1024)]}})

    async def parked(self) -> int:
        return len(self._watcher.parked)

    async def resume(self, key: str) -> None:
        thread_id, asked = self._threads.pop(key), time.time()
        await self._start("approve", {"command": {"resume": "yes"}}, thread_id)
        await self._end(thread_id)
        self.back_s.append(self._watcher.resumed_at.pop(thread_id) - asked)

    async def timer(self, key: str, due: float) -> float:  # noqa: ARG002
        until = datetime.fromtimestamp(due, UTC).isoformat()
        async with self.rooms:
            thread_id = await self._start(
                "sleeper", {"input": {"until": until, "note": first_message(1024)["content"]}}
            )
        await self._end(thread_id)
        return self._watcher.late_s.pop(thread_id)

    async def talk(self, key: str, until: int) -> None:
        self._threads[key] = await self._start("chat", {"input": {"until": until}}, self._threads.get(key))
        await self._end(self._threads[key])

    async def recall(self, key: str) -> int:
        return len((await self._values(self._threads[key]))["messages"])

    async def settle(self) -> None:
        """Wait until every event that was seen can be found, and the sampled checkpoints have been.

        Raises:
            TimeoutError: it cannot, two minutes later.

        """
        deadline = time.monotonic() + CATCH_UP_S
        while (found := await indexed_documents(self._opensearch)) < self._watcher.events or self._watcher.unseen:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{self._watcher.events - found} of {self._watcher.events} events were not searchable in time"
                )
            await asyncio.sleep(0.2)

    def processes(self) -> list[int]:
        return [record.pid for record in self.stack.state.read().records.values()]

    def memory_mib(self) -> dict[str, float]:
        return memory_mib(self.stack)

    async def stored(self) -> dict[str, int]:
        def read() -> int:
            client: MongoClient[dict[str, Any]] = MongoClient(self._mongodb)
            with client:
                return bson_bytes(client[mongo.database_name(self._mongodb)])

        return {"data": await asyncio.to_thread(read)}

    def about(self) -> dict[str, Any]:
        return versions() | {
            "agent-step processes": self.instances["agent_step"],
            "java's compilers": self._jvm,
            "durable": "MongoDB w=majority, j=true, sync on commit; Kafka acks=all, one broker; each superstep before the next",
        }


if __name__ == "__main__":
    main(Perdure, uvloop.run)
