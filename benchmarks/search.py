"""Searches over many states: ``python benchmarks/search.py --states 1000000``.

Starts an OpenSearch of its own, writes synthetic states with the indexer's writer, asks ten typical searches through the gateway's
search, and prints p50 and p99 of each in milliseconds, the writing rate, and the bytes of the index per state. ``--seconds`` bounds
the asking of each search. Everything is removed at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from perdure.chassis.opensearch import OpenSearch
from perdure.gateway.search.query import search
from perdure.indexer.bulk import newest_item, state_item
from perdure.indexer.domain import document_of, newest
from perdure.indexer.redaction import Redaction
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.writer import Writer
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack
from perdure.schemas.events import CheckpointSaved, ErrorInfo, Event, RunFailed
from perdure.schemas.index import STATES, THREADS

TENANT = "bench"
NODES = ("plan", "browse", "Login", "fill", "submit", "wait_for_mail", "verify", "report")
GRAPHS = ("crm", "billing", "audit", "trader")
WORDS = [
    f"{a}{b}"
    for a in ("con", "re", "in", "ac", "de", "pro")
    for b in ("nect", "set", "voice", "count", "liver", "cess")
]
STEPS = 20
PORTION = 2_000
SEARCHES = {
    "a node and a status, yesterday": "node:Login status:error since:yesterday until:today",
    "a phrase": '"connect reset"',
    "a word in a graph": "invoice graph:billing",
    "a beginning": "acc* since:2d",
    "without": "deliver -reset node:browse",
    "either of two groups": "(graph:crm status:error) OR (graph:audit node:submit)",
    "slow steps": "duration>5m step>10",
    "metadata": "metadata.customer:42",
    "one thread": "thread:thread-17",
    "where threads stand": "status:error scope:threads",
}


def states(count: int) -> Iterator[Event]:
    """Threads of :data:`STEPS` states over the last three days; each tenth ends in an error."""
    rng = random.Random(1)
    now = datetime.now(UTC)
    for n in range(count):
        thread, step = divmod(n, STEPS)
        shared = {
            "tenant": TENANT,
            "thread_id": f"thread-{thread}",
            "run_id": f"run-{thread}",
            "graph_id": GRAPHS[thread % len(GRAPHS)],
            "assistant_id": GRAPHS[thread % len(GRAPHS)],
            "seq": step + 1,
            "epoch": 1,
            "occurred_at": now - timedelta(days=3) * (1 - n / count),
            "metadata": {"customer": thread % 1_000},
        }
        node = rng.choice(NODES)
        if step == STEPS - 1 and thread % 10 == 0:
            error = ErrorInfo(type="TimeoutError", message=f"{rng.choice(WORDS)} reset by peer", node=node)
            yield RunFailed.model_validate(shared | {"error": error, "next": (node,)})
            continue
        fields = {
            "checkpoint_id": f"{n:012d}",
            "step": step,
            "source": "loop",
            "nodes": (node,),
            "next": (rng.choice(NODES),),
        }
        text = f"$.messages[{step}].content\t{' '.join(rng.choices(WORDS, k=60))}"
        yield CheckpointSaved.model_validate(
            shared | fields | {"text": text, "duration_ms": rng.expovariate(1 / 60_000)}
        )


async def load(client: OpenSearch, settings: IndexerSettings, count: int) -> float:
    """Write so many states; the seconds that it took."""
    writer = Writer(client, settings)
    await writer.open()
    started, portion = time.monotonic(), []
    for n, event in enumerate(states(count), 1):
        portion.append(document_of(event, Redaction(), settings.index_text_limit))
        if len(portion) == PORTION or n == count:
            items = [state_item(one) for one in portion] + [newest_item(one) for one in newest(portion).values()]
            refused = await writer.write(items)
            if refused:
                raise SystemExit(f"refused: {refused[0][1]}")
            portion = []
    await client.request("POST", f"/{STATES},{THREADS}/_refresh")
    return time.monotonic() - started


async def measure(client: OpenSearch, query: dict[str, str], seconds: float) -> tuple[int, list[float]]:
    """How many are found, and the milliseconds of each time it was asked (at least 20, then until the time is over)."""
    taken: list[float] = []
    until = time.monotonic() + seconds
    while len(taken) < 20 or time.monotonic() < until:
        started = time.perf_counter()
        answer = await search(client, TENANT, query)
        taken.append((time.perf_counter() - started) * 1_000)
    return answer["total"], taken


async def run(url: str, count: int, seconds: float) -> None:
    """Load, ask, print."""
    client = OpenSearch(url, timeout_s=120)
    try:
        took = await load(client, IndexerSettings(opensearch_url=url), count)
        stats = await client.request("GET", f"/{STATES},{THREADS}/_stats/store")
        size = stats["_all"]["primaries"]["store"]["size_in_bytes"]
        print(
            f"{count:,} states written in {took:.0f} s ({count / took:,.0f}/s), {size / count:.0f} bytes each in the index"
        )
        asked = {name: {"q": text} for name, text in SEARCHES.items()} | {
            "counts by node": {"by": "node", "limit": "1"}
        }
        for name, query in asked.items():
            total, taken = await measure(client, query, seconds)
            p99 = statistics.quantiles(taken, n=100, method="inclusive")[98]
            print(
                f"{name:32} {total:>10,} found  p50 {statistics.median(taken):7.1f} ms  p99 {p99:7.1f} ms  (n={len(taken)})"
            )
    finally:
        await client.close()


def main() -> None:
    """Entry point."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--states", type=int, default=100_000)
    arguments.add_argument("--seconds", type=float, default=5.0, help="of asking each search")
    given = arguments.parse_args()
    local = {"kafka_bootstrap_servers": None, "mongodb_uri": None, "opensearch_url": None}
    stack = Stack(LocalSettings().model_copy(update=local), ephemeral=True)
    try:
        stack.start()
        asyncio.run(run(stack.environment()["PERDURE_OPENSEARCH_URL"], given.states, given.seconds))
    finally:
        stack.stop()


if __name__ == "__main__":
    main()
