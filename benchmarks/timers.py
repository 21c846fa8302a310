"""The clock benchmark: how late sleeping threads are woken. Only the scheduler and the database run; nothing executes.

    python benchmarks/timers.py [--sleepers 100000] [--instances 2] [--rate 200] [--seconds 20] [--burst 2000] [--kill]

``--sleepers`` waits are due tomorrow; ``--rate`` a second fall due one after the other for ``--seconds``, and ``--burst`` at one
instant in the middle; with ``--kill`` one instance is killed at a third of the time. Prints one JSON line: lateness from the due
time until the run that wakes the thread was made (its ``created_at``) and until a reader saw it in the database (a change stream),
and CPU seconds of the instances that still live.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil

from perdure.chassis import mongo
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack
from perdure.schemas.waits import wait_id

NO_KAFKA = "127.0.0.1:9"
BATCH = 2_000
DEADLINE_S = 120.0


def wait(number: int, due_at: datetime) -> dict[str, Any]:
    """An open timer."""
    thread = f"thread-{number}"
    plain = {"graph_version": "v", "metadata": {}, "traceparent": None, "question": None, "validation": None}
    return {
        **plain,
        "_id": wait_id(thread, "i"),
        "tenant": "default",
        "thread_id": thread,
        "interrupt_id": "i",
        "run_id": f"run-{number}",
        "graph_id": "g",
        "assistant_id": "g",
        "nodes": ["n"],
        "kind": "timer",
        "status": "open",
        "opened_at": datetime.now(UTC),
        "due_at": due_at,
        "events": [],
        "escalations": 0,
    }


async def insert(db: mongo.Database, waits: Sequence[dict[str, Any]]) -> None:
    """Insert in batches."""
    for first in range(0, len(waits), BATCH):
        await db.waits.insert_many(waits[first : first + BATCH], ordered=False)


async def watch(db: mongo.Database, seen: dict[str, float], count: int, watching: asyncio.Event) -> None:
    """When each waking run was seen, until so many were."""
    async with db.runs.watch([{"$match": {"operationType": "insert"}}]) as stream:
        watching.set()
        async for change in stream:
            seen[change["fullDocument"]["wait_id"]] = time.time()
            if len(seen) == count:
                return


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """In seconds."""
    found = sorted(values)
    return {
        name: round(found[min(len(found) - 1, int(len(found) * part))], 3)
        for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


async def measure(db: mongo.Database, arguments: argparse.Namespace, instances: list[subprocess.Popen[bytes]]) -> Any:
    """Insert, let fall due, and read what came of it."""
    now = await mongo.server_time(db)
    tomorrow = now + timedelta(days=1)
    await insert(db, [wait(n, tomorrow + timedelta(seconds=n)) for n in range(arguments.sleepers)])
    seen: dict[str, float] = {}
    watching = asyncio.Event()
    count, first = arguments.rate * arguments.seconds, arguments.sleepers
    watcher = asyncio.create_task(watch(db, seen, count + arguments.burst, watching))
    await asyncio.wait_for(watching.wait(), 10)
    start = await mongo.server_time(db) + timedelta(seconds=5)
    middle = start + timedelta(seconds=arguments.seconds / 2)
    due = [wait(first + n, start + timedelta(seconds=n / arguments.rate)) for n in range(count)]
    due += [wait(first + count + n, middle) for n in range(arguments.burst)]
    await insert(db, due)
    if arguments.kill:
        await asyncio.sleep(5 + arguments.seconds / 3)
        instances[0].kill()
    async with asyncio.timeout(arguments.seconds + DEADLINE_S):
        await watcher
    due_at = {one["_id"]: one["due_at"] for one in due}
    runs = await db.runs.find({}, {"wait_id": 1, "created_at": 1}).to_list(None)
    return {
        "sleepers": arguments.sleepers,
        "instances": arguments.instances,
        "killed": int(arguments.kill),
        "due": len(due),
        "woken": len({run["wait_id"] for run in runs}),
        "woken_twice": len(runs) - len({run["wait_id"] for run in runs}),
        "made_late_s": percentiles([(run["created_at"] - due_at[run["wait_id"]]).total_seconds() for run in runs]),
        "seen_late_s": percentiles([at - due_at[one].timestamp() for one, at in seen.items()]),
    }


def cpu_seconds(pids: Sequence[int]) -> float:
    """Of the processes that still live."""
    times = [psutil.Process(pid).cpu_times() for pid in pids if psutil.pid_exists(pid)]
    return round(sum(one.user + one.system for one in times), 1)


async def run(arguments: argparse.Namespace, uri: str) -> None:
    """One measurement on an empty database."""
    client = mongo.connect(uri)
    db = mongo.database(client, uri)
    await mongo.ensure_indexes(db)
    environment = {
        **os.environ,
        "PERDURE_MONGODB_URI": uri,
        "PERDURE_KAFKA_BOOTSTRAP_SERVERS": NO_KAFKA,
        "PERDURE_LOG_LEVEL": "CRITICAL",
    }
    command = [sys.executable, "-m", "perdure.scheduler"]
    instances = [subprocess.Popen(command, env=environment) for _ in range(arguments.instances)]  # noqa: ASYNC220
    try:
        result = await measure(db, arguments, instances)
        result["cpu_s_instances"] = cpu_seconds([one.pid for one in instances if one.poll() is None])
        print(json.dumps(result))
    finally:
        for one in instances:
            one.terminate()
        for one in instances:
            one.wait()
        client.close()


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("sleepers", 100_000), ("instances", 2), ("rate", 200), ("seconds", 20), ("burst", 2_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--kill", action="store_true")
    arguments = parser.parse_args()
    own = {"kafka_bootstrap_servers": None, "mongodb_uri": None, "opensearch_url": None}
    stack = Stack(LocalSettings().model_copy(update=own), ephemeral=True)
    try:
        stack.start(["mongodb"])
        asyncio.run(run(arguments, stack.environment()["PERDURE_MONGODB_URI"]))
    finally:
        stack.stop()


if __name__ == "__main__":
    main()
