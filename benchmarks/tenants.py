"""What one tenant at its limit costs another one: ``python benchmarks/tenants.py``.

Starts a MongoDB-compatible server and one gateway process. A well-behaved tenant starts a run and reads it, one after another; in
turns it is alone, and beside a process of another tenant that is at its limit and starts runs from several connections without any
pause. Prints p50 and p99 of the well-behaved tenant's starts of each turn, in milliseconds, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack

RUN = {"assistant_id": "agent", "input": {"question": "what is new?"}}
LIMITS = "[tenants.hostile]\nopen_runs = 50\n"
SETTLE_S = 60.0


@asynccontextmanager
async def gateway(uri: str, quotas: Path) -> AsyncIterator[str]:
    """A gateway process on this database; its URL. There is no Kafka and no OpenSearch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PERDURE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
        "PERDURE_OPENSEARCH_URL": "http://127.0.0.1:9",
        "PERDURE_MONGODB_URI": uri,
        "PERDURE_GATEWAY_PORT": str(port),
        "PERDURE_QUOTAS_FILE": str(quotas),
    }
    nowhere = asyncio.subprocess.DEVNULL
    command = (sys.executable, "-m", "perdure.gateway")
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=nowhere, stderr=nowhere)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def starts(http: httpx.AsyncClient, tenant: str, seconds: float) -> tuple[list[float], Counter[int]]:
    """Start runs one after another for so long; milliseconds of each, and how often which status was answered."""
    took, statuses = [], Counter[int]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        response = await http.post("/runs", json=RUN, headers={"Perdure-Tenant": tenant})
        took.append(1000 * (time.perf_counter() - began))
        statuses[response.status_code] += 1
    return took, statuses


async def hostile(url: str, connections: int, seconds: float) -> None:
    """The other tenant, in a process of its own."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        found = await asyncio.gather(*(starts(http, "hostile", seconds) for _ in range(connections)))
    total = sum((statuses for _, statuses in found), Counter[int]())
    print("  hostile: " + ", ".join(f"{count:,} x {status}" for status, count in sorted(total.items())))


async def measure(url: str, turns: int, seconds: float, connections: int) -> None:
    """Measure in turns, and print."""
    medians: dict[str, list[float]] = {"alone": [], "beside": []}
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        await ready(http)
        await starts(http, "quiet", 2.0)
        for _ in range(turns):
            for name, found in medians.items():
                other: Any = None
                if name == "beside":
                    arguments = (
                        __file__,
                        "--hostile",
                        url,
                        "--connections",
                        str(connections),
                        "--seconds",
                        str(seconds + 2),
                    )
                    other = await asyncio.create_subprocess_exec(sys.executable, *arguments)
                    await asyncio.sleep(2.0)
                took, statuses = await starts(http, "quiet", seconds)
                if other is not None:
                    await other.wait()
                assert set(statuses) <= {200, 202}, statuses
                found.append(statistics.median(took))
                p99 = statistics.quantiles(took, n=100)[98]
                print(f"{name}: {len(took):,} starts, p50 {found[-1]:.2f} ms, p99 {p99:.2f} ms", flush=True)
    alone, beside = (statistics.median(found) for found in medians.values())
    print(f"p50 alone {alone:.2f} ms, beside a tenant at its limit {beside:.2f} ms: ratio {beside / alone:.3f}")


async def ready(http: httpx.AsyncClient) -> None:
    """Wait until the gateway takes starts."""
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        try:
            response = await http.post("/runs", json=RUN)
            if response.status_code in (200, 202):
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.2)
    raise SystemExit("the gateway takes no starts")


async def run(uri: str, turns: int, seconds: float, connections: int) -> None:
    """Register a graph that no worker serves, start the gateway, and measure."""
    client = mongo.connect(uri)
    graph = {"_id": "agent", "version": "v1", "nodes": ["a"], "input_schema": {"type": "object"}, "updated_at": now()}
    await mongo.database(client, uri).graphs.replace_one({"_id": "agent"}, graph, upsert=True)
    client.close()
    with tempfile.TemporaryDirectory() as folder:
        quotas = Path(folder) / "quotas.toml"
        quotas.write_text(LIMITS, encoding="utf-8")
        async with gateway(uri, quotas) as url:
            await measure(url, turns, seconds, connections)


def main() -> None:
    """Read the arguments, and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--hostile", metavar="URL", help="be the other tenant")
    given = parser.parse_args()
    if given.hostile:
        asyncio.run(hostile(given.hostile, given.connections, given.seconds))
        return
    local = {"kafka_bootstrap_servers": None, "mongodb_uri": None, "opensearch_url": None}
    stack = Stack(LocalSettings().model_copy(update=local), ephemeral=True)
    try:
        stack.start(("mongodb",))
        asyncio.run(run(stack.environment()["PERDURE_MONGODB_URI"], given.turns, given.seconds, given.connections))
    finally:
        stack.stop()


if __name__ == "__main__":
    main()
