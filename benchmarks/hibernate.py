"""Hibernation alone: the workload ``sleepers`` with other sizes, instances, or a batch beside it.

    python benchmarks/hibernate.py [--agents 10000] [--rate 100] [--batch 10000] [--workers 1] [--schedulers 1]

Starts real servers and all services with empty data. ``--batch`` uploads a batch of so many five-step agents when the first times
come, and tells how fast it was, how far the readers of Kafka were behind, and what each process held meanwhile. One JSON line; the
exit status is 1 if an agent woke early.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parent / "graphs"))
from batch import INPUT, ended
from harness.workloads import sleepers
from payload import STEPS
from perdure_driver import Perdure
from smoke import machine
from usage import memory_mib

from perdure.chassis.kafka.admin import TopicAdmin
from perdure.schemas.topics import COMMANDS, EVENTS

WATCH_S = 2.0
READERS = {
    "agent_step": ("perdure.agent-step", COMMANDS),
    "indexer": ("perdure-indexer", EVENTS),
    "notifier": ("perdure.notifier", EVENTS),
}


class Beside:
    """A batch that runs while agents wake, and what is seen meanwhile."""

    def __init__(self, system: Perdure, items: int) -> None:
        self._system = system
        self._items = items
        self._kafka = TopicAdmin(system.stack.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"])
        self._lags: dict[str, list[int]] = {name: [] for name in READERS}
        self._mib: dict[str, float] = {}

    async def run(self) -> dict[str, Any]:
        """Upload it and wait for its end."""
        watching = asyncio.create_task(self._watch())
        session = self._system.http
        line = json.dumps({"input": INPUT}).encode() + b"\n"
        params = {"assistant_id": "chain"}
        headers = {"Content-Type": "application/x-ndjson"}
        began = time.monotonic()
        async with session.post("/batches", params=params, data=line * self._items, headers=headers) as answer:
            if answer.status != 202:
                raise RuntimeError(f"POST /batches was answered {answer.status}: {await answer.text()}")
            batch_id = (await answer.json())["batch_id"]
        over = await ended(session, batch_id)
        took_s = time.monotonic() - began
        watching.cancel()
        seen = {
            "items": self._items,
            "counts": over["counts"],
            "took_s": round(took_s, 1),
            "items_per_s": round(self._items / took_s, 1),
            "steps_per_s": round(self._items * STEPS / took_s, 1),
            "lag_records": {name: {"median": median(lags), "max": max(lags)} for name, lags in self._lags.items()},
            "mib_most": self._mib,
        }
        return {"beside": seen}

    async def _watch(self) -> None:
        while True:
            for name, (group, topic) in READERS.items():
                self._lags[name].append(await self._kafka.lag(group, topic))
            for name, mib in memory_mib(self._system.stack).items():
                self._mib[name] = max(mib, self._mib.get(name, 0.0))
            await asyncio.sleep(WATCH_S)


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The whole run; the JSON line."""
    system = Perdure(Path(), Path())
    system.instances = {"agent_step": options.workers, "scheduler": options.schedulers}
    try:
        await system.open()
        size = {"agents": options.agents, "rate": options.rate, "warmup": options.warmup}
        numbers = await sleepers(system, size, Beside(system, options.batch).run if options.batch else None)
        return {"workload": "sleepers", **vars(options), **numbers, "versions": system.about(), "machine": machine()}
    finally:
        await system.close()


def main() -> int:
    """Run it; the exit status is 1 if an agent woke early."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument(
        "--rate", type=float, default=100.0, help="how many are started and are due in a second; 0: all at one instant"
    )
    parser.add_argument("--warmup", type=int, default=2_000, help="agents that sleep and wake before measuring")
    parser.add_argument("--batch", type=int, default=0, help="items of a batch beside those that wake")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--schedulers", type=int, default=1)
    line = uvloop.run(measure(parser.parse_args()))
    print(json.dumps(line), flush=True)
    return int(bool(line["early"]))


if __name__ == "__main__":
    sys.exit(main())
