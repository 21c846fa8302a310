"""What everything costs that keeps strangers out: the same runs without and with it, in turn. ``make bench-secured``.

    python benchmarks/secured.py [--agents 200] [--rounds 4] [--state-bytes 1024]

Two whole systems run side by side (three brokers each): one without security, one with TLS and a user with its grants for every
service on Kafka, the database and OpenSearch, an API key at the gateway, signed verdicts and encryption at rest. Each round starts
the same agents first on one, then on the other; who is first changes with every round. CPU seconds count every server and service
of the system that works, until three seconds after its last run ended; the load generator is not counted. One JSON line for each
round, then the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from load import Load, Watcher
from usage import cpu_seconds, difference

HERE = Path(__file__).resolve().parent
GRAPHS = HERE / "graphs"
sys.path[:0] = [str(GRAPHS), str(HERE.parent)]

from payload import STEPS, first_message  # noqa: E402 (the workload's own module)
from tests.chaos.sites import SecuredSite, Site  # noqa: E402 (beside this folder)

from perdure.chassis.settings import ServiceSettings  # noqa: E402
from perdure.chassis.telemetry import configure_logging  # noqa: E402
from perdure.cli.provision import service_settings  # noqa: E402
from perdure.local.dev import CONFIG_VARIABLE  # noqa: E402
from perdure.local.services import Services  # noqa: E402

OPEN, CLIENTS, WARMUP = 200, 64, 100
SETTLE_S = 3.0
"""The index and the deliveries of a round are done by then; counted in its round."""


class System:
    """One system that is up."""

    def __init__(self, site: Site, exit_: ExitStack) -> None:
        self.site = site
        exit_.callback(site.stop)
        site.start()
        settings = {CONFIG_VARIABLE: str(GRAPHS / "langgraph.json"), "PERDURE_LOG_LEVEL": "WARNING"}
        self.services = Services.of(site.stack, env=settings, cwd=GRAPHS)
        for process in self.services.processes.values():
            process.env |= site.settings_of(process.name)
        exit_.enter_context(self.services)

    async def open(self, state_bytes: int) -> None:
        """Connect the clients."""
        self.watcher = Watcher(service_settings(self.site.environment | self.site.kafka_of_clients()), sample=0)
        await self.watcher.ready()
        self.load = Load(
            self.services.gateway_url,
            self.watcher,
            lambda: {"messages": [first_message(state_bytes)]},
            assistant_id="chain",
            opened=OPEN,
            clients=CLIENTS,
            credentials=self.site.access.credentials,
        )

    async def round(self, agents: int) -> dict[str, Any]:
        """Run so many agents; what that cost."""
        before = cpu_seconds(self.site.stack)
        measured = await self.load.run(agents)
        if measured.errors:
            raise RuntimeError(f"{len(measured.errors)} agents failed: {measured.errors[0]}")
        await asyncio.sleep(SETTLE_S)
        cpu = difference(cpu_seconds(self.site.stack), before)
        steps = agents * STEPS
        return {
            "cpu_ms_a_step": round(1000 * sum(cpu.values()) / steps, 3),
            "steps_per_s": round(steps / measured.wall_s, 1),
            "starts_per_s": round(agents / measured.wall_s, 1),
            "cpu_ms_a_step_by_process": {name: round(1000 * one / steps, 3) for name, one in sorted(cpu.items())},
        }


async def measure(systems: dict[str, System], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """All rounds, in turn."""
    for system in systems.values():
        await system.open(options.state_bytes)
    for system in systems.values():
        await system.round(WARMUP)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
    for number in range(options.rounds):
        for name in sorted(systems, reverse=bool(number % 2)):
            line = await systems[name].round(options.agents)
            found[name].append(line)
            print(json.dumps({"round": number, "system": name, **line}), flush=True)
    for system in systems.values():
        await system.watcher.close()
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=200, help="for each round and system")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--state-bytes", type=int, default=1024)
    options = parser.parse_args()
    configure_logging("bench", ServiceSettings(log_level="WARNING", log_format="console"))
    began = time.monotonic()
    with ExitStack() as exit_:
        systems = {"plain": System(Site(), exit_), "secured": System(SecuredSite(), exit_)}
        found = uvloop.run(measure(systems, options))
    for name, lines in found.items():
        medians = {one: median(line[one] for line in lines) for one in ("cpu_ms_a_step", "steps_per_s", "starts_per_s")}
        print(json.dumps({"system": name, "rounds": len(lines), **medians}))
    print(f"took {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
