"""Hibernation: thousands of agents asleep, then woken by the clock. ``make bench-hibernate``.

    python benchmarks/hibernate.py [--agents 10000] [--rate 100] [--note-bytes 1024] [--workers 1] [--schedulers 1]

Starts real servers and all services with empty data, warms up, puts the agents to sleep over HTTP, and looks at what each service
holds in memory and computes while they sleep; then their times come, ``--rate`` a second (0: all at one instant). Lateness is from
the time that the agent asked for until its node goes on, by the same clock, as the node itself writes it down. One JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import uvloop
from rich.console import Console
from smoke import machine, percentile_ms, versions
from usage import cpu_seconds, difference, memory_mib, servers

from perdure.chassis.kafka.consumer import Consumer, Subscription
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.settings import ServiceSettings
from perdure.chassis.telemetry import configure_logging
from perdure.cli.provision import provision
from perdure.local.dev import CONFIG_VARIABLE
from perdure.local.display import ConsoleDisplay
from perdure.local.services import Services, available_services
from perdure.local.stack import Stack
from perdure.schemas.envelope import Decoded
from perdure.schemas.events import EVENTS, CheckpointSaved, RunFailed, RunInterrupted, RunSucceeded
from perdure.schemas.topics import EVENTS as EVENTS_TOPIC

HERE = Path(__file__).resolve().parent
GRAPHS = HERE / "graphs"
CLIENTS = 64
IDLE_S = 10.0
WARM_UP = 2_000
"""Enough for every process to be as busy as it will be: what it needs while thousands fall asleep is not what sleepers need."""


class Sleepers:
    """What the events say about the agents."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._producer = Producer(bootstrap_servers, "bench")
        subscription = Subscription(EVENTS_TOPIC, f"bench-{uuid4().hex[:8]}", EVENTS, batch=2000)
        self._consumer = Consumer(bootstrap_servers, "bench", subscription, self._handle, self._producer)
        self._task = asyncio.create_task(self._consumer.run())
        self.asleep: set[str] = set()
        self.awake: set[str] = set()
        self.failed: list[str] = []
        self.late_s: list[float] = []

    async def until(self, condition: Any, timeout_s: float, what: str) -> None:
        """Poll until ``condition()``."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                sys.exit(f"{what}: not within {timeout_s:.0f} s ({len(self.asleep)} asleep, {len(self.awake)} awake)")
            await asyncio.sleep(0.1)

    async def ready(self) -> None:
        """Wait until partitions are assigned."""
        await self.until(lambda: self._consumer.ready, 60, "the event consumer")

    async def close(self) -> None:
        """Leave the group."""
        self._consumer.stop()
        await self._task
        await self._producer.close()

    async def _handle(self, batch: Sequence[Decoded]) -> None:
        for decoded in batch:
            event = decoded.message
            if isinstance(event, RunInterrupted):
                self.asleep.add(event.thread_id)
            elif isinstance(event, RunSucceeded):
                self.awake.add(event.thread_id)
            elif isinstance(event, RunFailed):
                self.failed.append(f"{event.thread_id}: {event.error.message}")
            elif isinstance(event, CheckpointSaved) and event.channels == ("late_s",):
                self.late_s.append(float(event.text.split()[-1]))


async def measure(options: argparse.Namespace, stack: Stack, services: Services, display: ConsoleDisplay) -> Any:
    """The whole run; the JSON line."""
    sleepers = Sleepers(stack.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"])
    await sleepers.ready()
    note = "".join(random.choices("abcdefghijklmnopqrstuvwxyz ", k=options.note_bytes))
    connector = aiohttp.TCPConnector(limit=CLIENTS)
    async with aiohttp.ClientSession(services.gateway_url, connector=connector) as session:
        rooms = asyncio.Semaphore(CLIENTS)

        async def start(until: datetime) -> None:
            body = {"assistant_id": "sleeper", "input": {"until": until.isoformat(), "note": note}}
            async with rooms, session.post("/runs", json=body) as answer:
                if answer.status != 202:
                    sys.exit(f"POST /runs was answered {answer.status}: {await answer.text()}")

        display.say(f"warm-up: {WARM_UP} agents, not measured")
        soon = datetime.now(UTC) + timedelta(seconds=2)
        await asyncio.gather(*(start(soon) for _ in range(WARM_UP)))
        await sleepers.until(lambda: len(sleepers.awake) == WARM_UP, 300, "warm-up")
        await asyncio.sleep(IDLE_S)
        sleepers.asleep.clear(), sleepers.awake.clear(), sleepers.late_s.clear()
        before = memory_mib(stack)
        display.say(f"{options.agents} agents fall asleep")
        began = time.monotonic()
        first = datetime.now(UTC) + timedelta(seconds=options.agents / 50 + 2 * IDLE_S)
        gap_s = 1 / options.rate if options.rate else 0
        await asyncio.gather(*(start(first + timedelta(seconds=n * gap_s)) for n in range(options.agents)))
        await sleepers.until(lambda: len(sleepers.asleep) == options.agents, 600, "falling asleep")
        falling_s = time.monotonic() - began
        if datetime.now(UTC) + timedelta(seconds=IDLE_S) > first:
            sys.exit("the agents did not fall asleep in time: the machine is too busy; lower --agents")
        await asyncio.sleep(IDLE_S / 2)
        asleep, cpu = memory_mib(stack), cpu_seconds(stack)
        await asyncio.sleep(IDLE_S / 2)
        idle = {k: round(v / (IDLE_S / 2), 3) for k, v in difference(cpu_seconds(stack), cpu).items()}
        display.say("their times come")
        await sleepers.until(
            lambda: len(sleepers.awake) + len(sleepers.failed) >= options.agents, options.agents * gap_s + 600, "waking"
        )
        woken_s = (datetime.now(UTC) - first).total_seconds()
    await sleepers.until(lambda: len(sleepers.late_s) >= len(sleepers.awake), 30, "their last checkpoints")
    await sleepers.close()
    return {
        "workload": "hibernate",
        "agents": options.agents,
        "rate": options.rate,
        "late_p50_ms": percentile_ms(sleepers.late_s, 50),
        "late_p99_ms": percentile_ms(sleepers.late_s, 99),
        "late_max_ms": percentile_ms(sleepers.late_s, 100),
        "early": sum(late < 0 for late in sleepers.late_s),
        "woken_per_s": round(options.agents / woken_s, 1),
        "asleep_per_s": round(options.agents / falling_s, 1),
        "mib_before": before,
        "mib_asleep": asleep,
        "mib_after": memory_mib(stack),
        "cores_asleep": idle,
        "errors": sleepers.failed[:10],
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
    parser.add_argument("--rate", type=float, default=100.0, help="how many are due in a second; 0: all at one instant")
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
