"""Hibernation: thousands of agents asleep, then woken by the clock. ``make bench-hibernate``.

    python benchmarks/hibernate.py [--agents 10000] [--rate 100] [--batch 10000] [--note-bytes 1024] [--workers 1] [--schedulers 1]

Starts real servers and all services with empty data, warms up, puts the agents to sleep over HTTP, and looks at what each service
holds in memory and computes while they sleep; then their times come. ``--rate`` agents a second are started, so that no backlog
grows whose memory would be taken for that of the sleepers, and as many wake (0: all at one instant). Lateness is from the time that
the agent asked for until its node goes on, by the same clock, as the node itself writes it down. ``--batch`` uploads a batch of so
many one-call agents when the first times come, and tells how fast it was, how far the readers of Kafka were behind, and what each
process held meanwhile. One JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import uvloop
from batch import INPUT, ended
from load import Watcher
from rich.console import Console
from smoke import machine, percentile_ms, versions
from usage import cpu_seconds, difference, memory_mib, servers

from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.settings import ServiceSettings
from perdure.chassis.telemetry import configure_logging
from perdure.cli.provision import provision
from perdure.local.dev import CONFIG_VARIABLE
from perdure.local.display import ConsoleDisplay
from perdure.local.services import Services, available_services
from perdure.local.stack import Stack
from perdure.schemas.events import RunSucceeded
from perdure.schemas.topics import COMMANDS, EVENTS

HERE = Path(__file__).resolve().parent
GRAPHS = HERE / "graphs"
CLIENTS = 64
IDLE_S = 10.0
WATCH_S = 2.0
STEPS = 5
"""Of ``graphs/chain.py``."""
READERS = {
    "agent_step": ("perdure.agent-step", COMMANDS),
    "indexer": ("perdure-indexer", EVENTS),
    "notifier": ("perdure.notifier", EVENTS),
}
WARM_UP = 2_000
"""Enough for every process to be as busy as it will be: what it needs while thousands fall asleep is not what sleepers need."""


class Beside:
    """A batch that runs while agents wake, and what is seen meanwhile."""

    def __init__(self, stack: Stack, items: int) -> None:
        self._stack = stack
        self._items = items
        self._kafka = TopicAdmin(stack.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"])
        self._lags: dict[str, list[int]] = {name: [] for name in READERS}
        self._mib: dict[str, float] = {}

    async def run(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        """Upload it and wait for its end."""
        watching = asyncio.create_task(self._watch())
        line = json.dumps({"input": INPUT}).encode() + b"\n"
        params = {"assistant_id": "chain"}
        headers = {"Content-Type": "application/x-ndjson"}
        began = time.monotonic()
        async with session.post("/batches", params=params, data=line * self._items, headers=headers) as answer:
            if answer.status != 202:
                sys.exit(f"POST /batches was answered {answer.status}: {await answer.text()}")
            batch_id = (await answer.json())["batch_id"]
        over = await ended(session, batch_id)
        took_s = time.monotonic() - began
        watching.cancel()
        return {
            "items": self._items,
            "counts": over["counts"],
            "took_s": round(took_s, 1),
            "items_per_s": round(self._items / took_s, 1),
            "steps_per_s": round(self._items * STEPS / took_s, 1),
            "lag_records": {name: {"median": median(seen), "max": max(seen)} for name, seen in self._lags.items()},
            "mib_most": self._mib,
        }

    async def _watch(self) -> None:
        while True:
            for name, (group, topic) in READERS.items():
                self._lags[name].append(await self._kafka.lag(group, topic))
            for name, mib in memory_mib(self._stack).items():
                self._mib[name] = max(mib, self._mib.get(name, 0.0))
            await asyncio.sleep(WATCH_S)


async def until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until ``condition()``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {timeout_s:.0f} s")
        await asyncio.sleep(0.1)


async def measure(options: argparse.Namespace, stack: Stack, services: Services, display: ConsoleDisplay) -> Any:
    """The whole run; the JSON line."""
    watcher = Watcher(stack.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"], sample=0)
    await watcher.ready()
    note = "".join(random.choices("abcdefghijklmnopqrstuvwxyz ", k=options.note_bytes))
    connector = aiohttp.TCPConnector(limit=CLIENTS)
    async with aiohttp.ClientSession(services.gateway_url, connector=connector) as session:
        rooms = asyncio.Semaphore(CLIENTS)

        async def start(due: datetime) -> str:
            body = {"assistant_id": "sleeper", "input": {"until": due.isoformat(), "note": note}}
            async with rooms, session.post("/runs", json=body) as answer:
                if answer.status != 202:
                    sys.exit(f"POST /runs was answered {answer.status}: {await answer.text()}")
                return str((await answer.json())["thread_id"])

        display.say(f"warm-up: {WARM_UP} agents, not measured")
        soon = datetime.now(UTC) + timedelta(seconds=2)
        warm = await asyncio.gather(*(start(soon) for _ in range(WARM_UP)))
        await asyncio.gather(*(watcher.end(one) for one in warm))
        await asyncio.sleep(IDLE_S)
        watcher.parked.clear(), watcher.late_s.clear()
        before = memory_mib(stack)
        display.say(f"{options.agents} agents fall asleep")
        began = time.monotonic()
        gap_s = 1 / options.rate if options.rate else 0
        first = datetime.now(UTC) + timedelta(seconds=options.agents * (gap_s or 1 / 50) + 4 * IDLE_S)

        async def sleeper(n: int) -> str:
            await asyncio.sleep(n * gap_s)
            return await start(first + timedelta(seconds=n * gap_s))

        threads = await asyncio.gather(*map(sleeper, range(options.agents)))
        await until(lambda: len(watcher.parked) == options.agents, 600, "falling asleep")
        falling_s = time.monotonic() - began
        if datetime.now(UTC) + timedelta(seconds=IDLE_S) > first:
            sys.exit("the agents did not fall asleep in time: the machine is too busy; lower --agents")
        await asyncio.sleep(IDLE_S / 2)
        asleep, cpu = memory_mib(stack), cpu_seconds(stack)
        await asyncio.sleep(IDLE_S / 2)
        idle = {k: round(v / (IDLE_S / 2), 3) for k, v in difference(cpu_seconds(stack), cpu).items()}
        display.say("their times come")
        longest_s = options.agents * gap_s + 600
        beside: dict[str, Any] = {}
        if options.batch:
            await asyncio.sleep(max(0.0, (first - datetime.now(UTC)).total_seconds()))
            beside["beside"] = await Beside(stack, options.batch).run(session)
        ends = await asyncio.gather(*(watcher.end(one, longest_s) for one in threads))
        woken_s = (datetime.now(UTC) - first).total_seconds()
    await watcher.close()
    late_s = list(watcher.late_s.values())
    return {
        "workload": "hibernate",
        "agents": options.agents,
        "rate": options.rate,
        "late_p50_ms": percentile_ms(late_s, 50),
        "late_p99_ms": percentile_ms(late_s, 99),
        "late_max_ms": percentile_ms(late_s, 100),
        "early": sum(late < 0 for late in late_s),
        "woken_per_s": round(options.agents / woken_s, 1),
        "asleep_per_s": round(options.agents / falling_s, 1),
        **beside,
        "mib_before": before,
        "mib_asleep": asleep,
        "mib_after": memory_mib(stack),
        "cores_asleep": idle,
        "errors": [how for _, how in ends if how != RunSucceeded.TYPE][:10],
        "note_bytes": options.note_bytes,
        "workers": options.workers,
        "schedulers": options.schedulers,
        "versions": versions(),
        "machine": machine(),
    }


def main() -> int:
    """Run it; the exit status is 1 if an agent failed or woke early."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument(
        "--rate", type=float, default=100.0, help="how many are started and are due in a second; 0: all at one instant"
    )
    parser.add_argument("--batch", type=int, default=0, help="items of a batch beside those that wake")
    parser.add_argument("--note-bytes", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--schedulers", type=int, default=1)
    options = parser.parse_args()
    configure_logging("bench", ServiceSettings(log_level="WARNING", log_format="console"))
    multiple = {"agent_step": options.workers, "scheduler": options.schedulers}
    names = [name for name in available_services() for _ in range(multiple.get(name, 1))]
    settings = {
        CONFIG_VARIABLE: str(GRAPHS / "langgraph.json"),
        "PERDURE_LOG_LEVEL": "WARNING",
        "PERDURE_GATEWAY_PORT": "0",
    }
    with ConsoleDisplay(Console(stderr=True)) as display, servers(display, optimised=False) as stack:
        provision(stack.environment())
        with Services.of(stack, names, env=settings, cwd=GRAPHS) as services:
            line = uvloop.run(measure(options, stack, services, display))
    print(json.dumps(line), flush=True)
    return int(bool(line["errors"] or line["early"]))


if __name__ == "__main__":
    sys.exit(main())
