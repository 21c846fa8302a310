"""A worker of agent-step in this process, on real servers, with graphs of the test and its heartbeats made by the test."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.polling import until

from perdure.agent_step.__main__ import paces_of
from perdure.agent_step.chunks import Streams
from perdure.agent_step.claims import Claims
from perdure.agent_step.endings import Endings
from perdure.agent_step.graphs import ServedGraph
from perdure.agent_step.hibernation import Hibernation
from perdure.agent_step.lease import OWNED_FIELDS, Owned
from perdure.agent_step.poison import Poison
from perdure.agent_step.ports import Ports
from perdure.agent_step.settings import AgentStepSettings
from perdure.agent_step.shown import initial_values
from perdure.agent_step.timings import Timings
from perdure.agent_step.worker import Worker
from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.payload import pack
from perdure.chassis.signatures import Signatures
from perdure.checkpoint import PerdureSaver
from perdure.registry.runs import new_id, run_document
from perdure.registry.signals import Signals
from perdure.registry.waits import Waits
from perdure.sdk.context import SdkContext

TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


@dataclass
class Stage:
    """The worker, and what a test does to it."""

    db: mongo.Database
    saver: PerdureSaver
    worker: Worker
    claims: Claims
    incarnation: list[str]
    """Of the lease; a test changes it in place of the scheduler that declared the worker dead."""
    streams: Streams

    async def run(self, graph: str = "graph", run_input: Any = None, **fields: Any) -> dict[str, Any]:
        """Register a run on a thread of its own; its document."""
        run: dict[str, Any] = dict(
            run_document(
                tenant="default", thread_id=uuid.uuid4().hex, graph_id=graph, graph_version=None,
                packed=pack({"input": run_input or {}}), metadata={}, traceparent=TRACE, moment=now(), run_id=new_id(),
                new_thread=True,
            )
        )  # fmt: skip
        await self.db.runs.insert_one({**run, **fields})
        return run

    async def heartbeat(self) -> None:
        """What the lease tells the worker every few seconds."""
        found = self.db.runs.find({"settled": False, "owner": self.incarnation[0]}, OWNED_FIELDS)
        self.worker.audit([Owned.of(one) async for one in found])

    async def stored(self, run: Mapping[str, Any]) -> dict[str, Any]:
        found = await self.db.runs.find_one({"_id": run["_id"]})
        assert found is not None
        return found

    async def until(self, run: Mapping[str, Any], status: str, heartbeats: bool = False) -> dict[str, Any]:
        """The run's document once it has this status; with a heartbeat between two looks, if asked for."""

        async def look() -> dict[str, Any]:
            document = await self.stored(run)
            if heartbeats and document["status"] != status:
                await self.heartbeat()
            return document

        return await until(look, f"the run is {status}", holds=lambda document: document["status"] == status)


@asynccontextmanager
async def open_worker(
    mongodb_uri: str, kafka_bootstrap: str, graphs: Mapping[str, Any], saver: Callable[..., PerdureSaver] = PerdureSaver,
    **settings: Any,
) -> AsyncIterator[Stage]:  # fmt: skip
    """A worker that serves compiled graphs, by graph id."""
    client = mongo.connect(mongodb_uri)
    db = client[f"worker_{uuid.uuid4().hex[:8]}"]
    await mongo.ensure_indexes(db)
    store = saver(db)
    await store.ensure_indexes()
    options = AgentStepSettings(mongodb_uri=mongodb_uri, kafka_bootstrap_servers=kafka_bootstrap, **settings)
    served: dict[str, ServedGraph] = {}
    for name, graph in graphs.items():
        graph.checkpointer = store
        served[name] = ServedGraph(name, graph, "v1", tuple(graph.nodes), initial=initial_values(graph.channels))
    producer = Producer(kafka_bootstrap, "test")
    runs, threads = (GroupCommit(db[name], availability=store.availability) for name in ("runs", "threads"))
    incarnation = ["worker-1"]
    claims = Claims(db, runs, store.availability, lambda: incarnation[0], served)
    waits = Waits(db, runs, producer, store.availability, "test")
    signals = Signals(db, waits, store.availability)
    endings = Endings(runs, threads, Hibernation(waits, signals, producer, "test", Signatures([])))
    sdk = SdkContext(db, store.availability, waits, asyncio.get_running_loop())
    paces = paces_of(served, Timings(db, list(served)), options)
    poison = Poison(claims, options.crash_limit)
    streams = Streams(producer)
    worker = Worker(options, Ports(store, runs, claims, endings, producer, served, paces, poison, sdk, streams))
    try:
        yield Stage(db, store, worker, claims, incarnation, streams)
    finally:
        await worker.drain(2)
        await producer.close(2)
        await store.aclose()
        await client.drop_database(db.name)
        client.close()
