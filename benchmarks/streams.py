"""What a stream costs a worker: its CPU with and without somebody who asked, on the same runs in turn.

    python benchmarks/streams.py [--chunks 10000] [--rounds 5] [--agents 1] [--pause-ms 0]

Starts Kafka, a MongoDB-compatible server and one process of agent-step, with empty data. In every round ``--agents`` runs of the
graph ``chatter`` say ``--chunks`` things together, by a model or by the stream writer, first without a stream mode that tells them,
then with one. CPU is user and system time of the whole worker process, from the command until the run's end is recorded. The topic
is read in the end: a stream that lost a chunk, or a run without one that told any, fails the measurement. One JSON line for each
mode; the exit status is 1 if a chunk costs more than ``--budget`` CPU-milliseconds (median of the rounds' differences).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from pathlib import Path
from statistics import median
from typing import Any

import confluent_kafka
import psutil
import uvloop
from smoke import machine, versions
from usage import servers

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.payload import pack
from perdure.cli.provision import provision
from perdure.local.dev import CONFIG_VARIABLE
from perdure.local.display import SilentDisplay
from perdure.local.services import Services
from perdure.registry.runs import new_id, publish_start, run_document
from perdure.schemas.commands import StartReason
from perdure.schemas.envelope import decode
from perdure.schemas.stream import STREAM, StreamChunks
from perdure.schemas.topics import STREAM as TOPIC

GRAPHS = Path(__file__).resolve().parent / "graphs"
RUN_S = 300.0
POLL_S = 0.02
TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
MODES = {"messages": "model", "custom": "writer", "events": "model"}
"""How the node speaks, by stream mode."""


class Bench:
    """One worker and what is done to it."""

    def __init__(self, environment: dict[str, str], worker: psutil.Process, options: argparse.Namespace) -> None:
        self._bootstrap = environment["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]
        self._db = mongo.database(mongo.connect(environment["PERDURE_MONGODB_URI"]), environment["PERDURE_MONGODB_URI"])
        self._producer = Producer(self._bootstrap, "bench")
        self._worker = worker
        self._options = options

    async def close(self) -> None:
        """Let go of the servers."""
        await self._producer.close()
        self._db.client.close()

    async def pair(self, mode: str) -> dict[str, float]:
        """Without and with a stream of this mode: CPU and wall seconds."""
        without, took = await self._runs(mode, asked=False)
        streamed, took_streamed = await self._runs(mode, asked=True)
        return {"without": without, "with": streamed, "took": took, "took_streamed": took_streamed}

    async def _runs(self, mode: str, *, asked: bool) -> tuple[float, float]:
        given = {
            "chunks": self._options.chunks // self._options.agents,
            "pause_s": self._options.pause_ms / 1000,
            "by": MODES[mode],
        }
        payload: dict[str, Any] = {"input": given}
        if asked:
            payload["stream"] = {"modes": [mode], "subgraphs": False}
        runs = [
            run_document(
                tenant="default", thread_id=uuid.uuid4().hex, graph_id="chatter", graph_version=None,
                packed=pack(payload), metadata={}, traceparent=TRACE, moment=now(), run_id=new_id(), new_thread=True,
            )
            for _ in range(self._options.agents)
        ]  # fmt: skip
        before, began = self._cpu_s(), time.perf_counter()
        await self._db.runs.insert_many(runs)
        for run in runs:
            publish_start(self._producer, run, StartReason.REGISTERED, "bench")
        await self._ended([run["_id"] for run in runs])
        spent, took = self._cpu_s() - before, time.perf_counter() - began
        await asyncio.to_thread(self._verify, [run["_id"] for run in runs], given["chunks"] if asked else 0, mode)
        return spent, took

    def _cpu_s(self) -> float:
        times = self._worker.cpu_times()
        return times.user + times.system

    async def _ended(self, run_ids: list[str]) -> None:
        deadline = time.monotonic() + RUN_S
        while time.monotonic() < deadline:
            found = await self._db.runs.count_documents({"_id": {"$in": run_ids}, "status": "success"})
            if found == len(run_ids):
                return
            await asyncio.sleep(POLL_S)
        raise RuntimeError(f"the runs had not succeeded after {RUN_S:g} s")

    def _verify(self, run_ids: list[str], chunks: int, mode: str) -> None:
        """Read the whole topic: every run has so many chunks of the mode, in order, or none at all."""
        said = dict.fromkeys(run_ids, 0)
        for message in read_all(self._bootstrap):
            if message.run_id in said:
                said[message.run_id] += sum(is_token(mode, chunk.data) for chunk in message.chunks)
        wrong = {run_id: count for run_id, count in said.items() if count != chunks}
        if wrong:
            raise RuntimeError(f"{chunks} chunks of each run were expected on {TOPIC.name}; counted: {wrong}")


def is_token(mode: str, data: Any) -> bool:
    """Whether a chunk is one of those that the node said, not an event about the graph or the end of the message."""
    if mode == "events":
        return bool(data["event"] == "on_chat_model_stream" and data["data"]["chunk"]["content"])
    return mode != "messages" or bool(data[0]["content"])


def read_all(bootstrap: str) -> list[StreamChunks]:
    """What is on the topic now."""
    reader = confluent_kafka.Consumer({"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex})
    try:
        found: list[StreamChunks] = []
        for number in reader.list_topics(TOPIC.name, timeout=20).topics[TOPIC.name].partitions:
            place = confluent_kafka.TopicPartition(TOPIC.name, number, 0)
            _, high = reader.get_watermark_offsets(place)
            reader.assign([place])
            while place.offset < high:
                for message in reader.consume(1000, 1.0):
                    decoded = decode(message.headers(), message.value(), STREAM).message
                    assert isinstance(decoded, StreamChunks)
                    found.append(decoded)
                    place.offset = message.offset() + 1
        return found
    finally:
        reader.close()


async def measure(environment: dict[str, str], pid: int, options: argparse.Namespace) -> bool:
    """All modes; whether all are within the budget."""
    bench = Bench(environment, psutil.Process(pid), options)
    within = True
    for mode in options.modes:
        await bench.pair(mode)  # warm-up
        pairs = [await bench.pair(mode) for _ in range(options.rounds)]
        each = sorted((pair["with"] - pair["without"]) * 1000 / options.chunks for pair in pairs)
        within = within and median(each) <= options.budget
        line = {
            "workload": f"stream-{mode}",
            "chunks": options.chunks,
            "agents": options.agents,
            "pause_ms": options.pause_ms,
            "cpu_ms_per_chunk": round(median(each), 4),
            "smallest_largest": [round(each[0], 4), round(each[-1], 4)],
            "cpu_s_without": round(median(pair["without"] for pair in pairs), 3),
            "cpu_s_with": round(median(pair["with"] for pair in pairs), 3),
            "took_s_without": round(median(pair["took"] for pair in pairs), 2),
            "took_s_with": round(median(pair["took_streamed"] for pair in pairs), 2),
            "versions": versions(),
            "machine": machine(),
        }
        print(json.dumps(line), flush=True)
    await bench.close()
    return within


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=10_000, help="of all agents of a round together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--agents", type=int, default=1, help="runs at once")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="between two chunks of one run")
    parser.add_argument("--modes", nargs="+", default=[*MODES], choices=[*MODES])
    parser.add_argument("--budget", type=float, default=0.1, help="CPU-milliseconds that a chunk may cost")
    options = parser.parse_args()
    with servers(SilentDisplay(), optimised=False) as stack:
        environment = stack.environment()
        provision(environment)
        settings = {CONFIG_VARIABLE: str(GRAPHS / "langgraph.json"), "PERDURE_LOG_LEVEL": "WARNING"}
        with Services.of(stack, ["agent_step"], env=settings, cwd=GRAPHS):
            pid = stack.state.read().records["agent_step"].identity.pid
            return int(not uvloop.run(measure(environment, pid, options)))


if __name__ == "__main__":
    sys.exit(main())
