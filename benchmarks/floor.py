"""What a durable, indexed step costs at least: ``python benchmarks/floor.py``.

Each part of a step is done alone, in large batches, by the plainest client there is, and its CPU is counted with that of the
client: LangGraph's loop with its in-memory saver, an insert into MongoDB (synced, with the notebook's indexes), an event through
Kafka (produced, and read once), a document in OpenSearch. Times how often a five-step agent needs each, that is a floor
under which nothing built of these can be: no claims, no leases, no HTTP, no recovery, nothing in smaller batches. Servers
start empty and are removed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from confluent_kafka import Consumer, Producer
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from usage import cpu_seconds, own_cpu_seconds, servers

from perdure.chassis import mongo
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.opensearch import OpenSearch
from perdure.checkpoint.store import DURABLE, INDEXES
from perdure.indexer.bulk import state_item
from perdure.indexer.domain import document_of
from perdure.indexer.redaction import Redaction
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.writer import Writer
from perdure.local.display import SilentDisplay
from perdure.local.stack import Stack
from perdure.schemas import topics
from perdure.schemas.events import CheckpointSaved

sys.path.insert(0, str(Path(__file__).parent / "graphs"))
from chain import build
from payload import first_message

STEPS = 5
PER_STEP = {"langgraph": 1.0, "mongodb": 7 / STEPS, "kafka": 9 / STEPS, "opensearch": 7 / STEPS}
"""How often a step of a five-step agent needs each: it has seven checkpoints, each of which is searched for, and nine events."""
BYTES = 700
PORTION = 200

Work = Callable[[int], Awaitable[None]]


async def main() -> None:
    """Measure each part twice, the first time to warm up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30_000, help="records, documents and supersteps")
    count = parser.parse_args().count
    with servers(SilentDisplay(), optimised=False) as stack:
        found = {
            "langgraph": await cost(stack, None, count, langgraph),
            "mongodb": await cost(stack, "mongodb", count, inserting(stack)),
            "kafka": await cost(stack, "kafka", count, await sending(stack)),
            "opensearch": await cost(stack, "opensearch", count, indexing(stack)),
        }
    print("| | CPU-ms of the server | of the client | a step needs | CPU-ms a step |\n|---|---|---|---|---|")
    for name, (server, client) in found.items():
        print(
            f"| {name} | {server:.3f} | {client:.3f} | {PER_STEP[name]:g} | {PER_STEP[name] * (server + client):.3f} |"
        )
    total = sum(PER_STEP[name] * sum(pair) for name, pair in found.items())
    print(f"\n{total:.2f} CPU-ms a step at least; two cores: {2_000 / total:,.0f} steps/s at most.")


async def cost(stack: Stack, server: str | None, count: int, work: Work) -> tuple[float, float]:
    """CPU milliseconds of one item: of the server, and of this process."""
    await work(count // 3)
    await asyncio.sleep(2)
    before, own = cpu_seconds(stack), own_cpu_seconds()
    await work(count)
    own = own_cpu_seconds() - own
    await asyncio.sleep(2)  # what it does after it has answered
    spent = cpu_seconds(stack)[server] - before[server] if server else 0.0
    return spent / count * 1_000, own / count * 1_000


def text() -> str:
    """Text that does not compress away."""
    return os.urandom(BYTES * 3 // 8).hex()


async def langgraph(count: int) -> None:
    """Supersteps of the chain; its checkpoints are made, and kept in memory."""
    graph = build(STEPS).compile(checkpointer=InMemorySaver())
    for number in range(count // STEPS):
        config: RunnableConfig = {"configurable": {"thread_id": str(number)}}
        await graph.ainvoke({"messages": [first_message(1024)]}, config, durability="sync")


def inserting(stack: Stack) -> Work:
    """Documents as large as a checkpoint, in statements of ``PORTION``, synced."""
    uri = stack.environment()["PERDURE_MONGODB_URI"]

    async def work(count: int) -> None:
        client = mongo.connect(uri)
        database = client[f"floor_{uuid4().hex[:8]}"]
        notebook = database.notebook.with_options(write_concern=DURABLE)
        await notebook.create_indexes(INDEXES)
        for start in range(0, count, PORTION):
            await notebook.insert_many(
                [
                    {"_id": f"{start + n:09d}", "kind": "c", "thread": f"{start + n:09d}", "seq": n, "state": text()}
                    for n in range(PORTION)
                ],
                ordered=False,
            )
        client.close()

    return work


async def sending(stack: Stack) -> Work:
    """Events through the topic: produced, acknowledged by all replicas, read once."""
    servers_ = stack.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]
    await TopicAdmin(servers_).apply(topics.ALL)
    common = {"bootstrap.servers": servers_}
    reader = Consumer(common | {"group.id": "floor", "auto.offset.reset": "earliest", "fetch.min.bytes": 65_536})
    reader.subscribe([topics.EVENTS.name])
    producer = Producer(common | {"enable.idempotence": True, "compression.type": "lz4", "linger.ms": 50})

    async def work(count: int) -> None:
        for number in range(count):
            producer.produce(topics.EVENTS.name, text().encode(), f"thread-{number % 500}".encode())
            if number % PORTION == 0:
                producer.poll(0)
        producer.flush()
        left, deadline = count, time.monotonic() + 60
        while left > 0 and time.monotonic() < deadline:
            left -= len(reader.consume(min(left, 500), 0.5))
        if left:
            raise RuntimeError(f"{left} records did not come back")

    return work


def events(count: int) -> Iterator[CheckpointSaved]:
    """Checkpoints, ten to a thread."""
    for number in range(count):
        yield CheckpointSaved(
            tenant="floor",
            thread_id=uuid4().hex,
            run_id="run",
            graph_id="chain",
            assistant_id="chain",
            seq=number + 1,
            epoch=1,
            occurred_at=datetime.now(UTC),
            metadata={},
            checkpoint_id=f"{number:012d}",
            step=number,
            source="loop",
            nodes=("step",),
            next=("step",),
            text=f"$.messages[1]\t{text()}",
        )


def indexing(stack: Stack) -> Work:
    """Documents of states, in requests of ``PORTION``."""
    url = stack.environment()["PERDURE_OPENSEARCH_URL"]

    async def work(count: int) -> None:
        client = OpenSearch(url)
        writer = Writer(client, IndexerSettings(opensearch_url=url))
        await writer.open()
        portion = []
        for event in events(count):
            portion.append(state_item(document_of(event, Redaction(), 1_000)))
            if len(portion) == PORTION:
                if refused := await writer.write(portion):
                    raise RuntimeError(f"OpenSearch refuses {len(refused)} documents")
                portion = []
        await client.close()

    return work


if __name__ == "__main__":
    asyncio.run(main())
