"""The smoke benchmark: many short agents over HTTP against the whole system, indexing on. ``make bench-smoke``.

    python benchmarks/smoke.py [--agents 500] [--open 200] [--state-bytes 1024 65536] [--workers 1] [--profile]

For each state size it starts real servers and all services with empty data on free ports, warms up (50 agents: the JVMs
compile), measures, and prints one JSON line to standard output; what goes on is told on standard error. The numbers are
explained in ``benchmarks/README.md``. CPU seconds count every server and service from the first POST until the last
event is searchable; the load generator is reported beside them and not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import uvloop
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from harness.accounting import busy_seconds, folder_bytes
from load import Load, Measured, Watcher, indexed_documents, watch_index
from rich.console import Console
from usage import Profile, cpu_seconds, difference, own_cpu_seconds, servers

from perdure.chassis import mongo
from perdure.chassis.opensearch import OpenSearch
from perdure.chassis.settings import ServiceSettings
from perdure.chassis.telemetry import configure_logging
from perdure.cli.provision import provision
from perdure.local.dev import CONFIG_VARIABLE
from perdure.local.display import ConsoleDisplay
from perdure.local.pins import load_pins
from perdure.local.servers import ADDRESS_FIELDS, variable
from perdure.local.services import Services, available_services
from perdure.local.stack import Stack

HERE = Path(__file__).resolve().parent
GRAPHS = HERE / "graphs"
OUT = HERE / "out"
sys.path.insert(0, str(GRAPHS))

from payload import STEPS, first_message  # noqa: E402 (the workload's own module)

PACKAGES = (
    "perdure langgraph langgraph-checkpoint confluent-kafka faust-streaming motor pymongo opensearch-py aiohttp uvloop"
)
SAMPLE = 10
"""Every tenth run is followed into the index."""
CHECKED = 20
"""So many results are read back and compared."""
CATCH_UP_S = 120.0
IDLE_S = 3.0


def main() -> int:
    """Run the benchmark; returns the exit status: 1 if any run had errors."""
    options = arguments()
    if given := [variable(field) for field in ADDRESS_FIELDS.values() if os.environ.get(variable(field))]:
        sys.exit(f"unset {', '.join(given)}: what a server that somebody else started costs cannot be counted")
    configure_logging("bench", ServiceSettings(log_level="WARNING", log_format="console"))
    failed = False
    with ConsoleDisplay(Console(stderr=True)) as display:
        for state_bytes in options.state_bytes:
            for _ in range(options.repeat):
                line = measure(options, state_bytes, display)
                failed = failed or bool(line["errors"])
                print(json.dumps(line), flush=True)
                OUT.mkdir(exist_ok=True)
                with (OUT / "smoke.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
    return int(failed)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=500)
    parser.add_argument("--open", type=int, default=200, help="runs open at a time at most")
    parser.add_argument("--clients", type=int, default=64, help="HTTP requests under way at a time at most")
    parser.add_argument("--state-bytes", type=int, nargs="+", default=[1024, 65536])
    parser.add_argument("--workers", type=int, default=1, help="agent-step processes")
    parser.add_argument("--warmup", type=int, default=50, help="agents before measuring")
    parser.add_argument("--repeat", type=int, default=1, help="runs for each state size, each with servers of its own")
    parser.add_argument("--jvm", choices=["quick", "full"], default="quick", help="Java's compilers; see README.md")
    parser.add_argument("--profile", action="store_true", help="attach py-spy to the first agent-step process")
    return parser.parse_args()


def measure(options: argparse.Namespace, state_bytes: int, display: ConsoleDisplay) -> dict[str, Any]:
    """One run on servers of its own."""
    names = [name for name in available_services() if name != "agent_step"] + ["agent_step"] * options.workers
    with servers(display, optimised=options.jvm == "full") as stack:
        provision(stack.environment())
        settings = {
            CONFIG_VARIABLE: str(GRAPHS / "langgraph.json"),
            "PERDURE_LOG_LEVEL": "WARNING",
            "PERDURE_GATEWAY_PORT": "0",
        }
        services = Services.of(stack, names, env=settings, cwd=GRAPHS)
        with services:
            return uvloop.run(Bench(options, state_bytes, stack, services, display).line())


class Bench:
    """One measured run against a system that is up."""

    def __init__(
        self, options: argparse.Namespace, state_bytes: int, stack: Stack, services: Services, display: ConsoleDisplay
    ) -> None:
        self._options = options
        self._state_bytes = state_bytes
        self._stack = stack
        self._services = services
        self._display = display
        self._environment = stack.environment()

    async def line(self) -> dict[str, Any]:
        """Warm up, measure, and say it as one JSON object."""
        options = self._options
        opensearch = OpenSearch(self._environment["PERDURE_OPENSEARCH_URL"])
        watcher = Watcher(self._environment["PERDURE_KAFKA_BOOTSTRAP_SERVERS"], SAMPLE)
        try:
            await watcher.ready()
            load = Load(
                self._services.gateway_url,
                watcher,
                lambda: {"messages": [first_message(self._state_bytes)]},
                assistant_id="chain",
                opened=options.open,
                clients=options.clients,
            )
            self._display.say(f"warm-up: {options.warmup} agents at {self._state_bytes} bytes, not measured")
            warm = await load.run(options.warmup)
            await self._caught_up(opensearch, watcher)
            watcher.unseen.clear()
            self._display.say(f"measuring: {options.agents} agents x {STEPS} supersteps at {self._state_bytes} bytes")
            measured, cost = await self._measured(load, watcher, opensearch)
            wrong = await self._check(measured)
        finally:
            await watcher.close()
            await opensearch.close()
        errors = [*(f"warm-up: {error}" for error in warm.errors), *measured.errors, *wrong]
        return self._report(measured, cost, errors)

    async def _measured(self, load: Load, watcher: Watcher, opensearch: OpenSearch) -> tuple[Measured, dict[str, Any]]:
        data = Path(self._stack.state.read().records["mongodb"].data or ".")
        bson, disk = await self._stored(), folder_bytes(data)
        checkpoints = watcher.checkpoints
        idle = await self._idle_cores()
        profile = self._profile()
        cpu, own, busy, started = cpu_seconds(self._stack), own_cpu_seconds(), busy_seconds(), time.perf_counter()
        stop, seen_s = asyncio.Event(), list[float]()
        index = asyncio.create_task(watch_index(opensearch, watcher, seen_s, stop))
        measured = await load.run(self._options.agents)
        top = profile.stop() if profile else []
        catching_up = time.perf_counter()
        late = await self._caught_up(opensearch, watcher)
        stop.set()
        try:
            await asyncio.wait_for(index, CATCH_UP_S)
        except TimeoutError:
            late.append(f"{len(watcher.unseen)} sampled checkpoints were not searchable after {CATCH_UP_S:.0f} s")
        measured.errors += late
        measured.searchable_s = seen_s
        ended = time.perf_counter()
        cost = {
            "idle": idle,
            "cpu": difference(cpu_seconds(self._stack), cpu),
            "own": own_cpu_seconds() - own,
            "busy": busy_seconds() - busy,
            "window_s": ended - started,
            "catch_up_s": ended - catching_up,
            "checkpoints": watcher.checkpoints - checkpoints,
            "bson": difference(await self._stored(), bson),
            "disk": folder_bytes(data) - disk,
        }
        for row in top:
            self._display.say(row)
        if profile:
            self._display.say(f"profile: {profile.file} (open it at https://www.speedscope.app)")
        return measured, cost

    async def _idle_cores(self) -> dict[str, float]:
        """CPU seconds a second of each process while nothing is to do."""
        before, started = cpu_seconds(self._stack), time.perf_counter()
        await asyncio.sleep(IDLE_S)
        seconds = time.perf_counter() - started
        spent = difference(cpu_seconds(self._stack), before)
        return {name: round(cpu / seconds, 3) for name, cpu in sorted(spent.items())}

    def _profile(self) -> Profile | None:
        if not self._options.profile:
            return None
        return Profile(self._services["agent_step"].pid, OUT / f"agent-step-{self._state_bytes}.speedscope.json")

    async def _caught_up(self, opensearch: OpenSearch, watcher: Watcher) -> list[str]:
        """Wait until every event that was seen can be found; says if it cannot."""
        deadline = time.monotonic() + CATCH_UP_S
        while (found := await indexed_documents(opensearch)) < watcher.events:
            if time.monotonic() > deadline:
                return [f"{watcher.events - found} of {watcher.events} events were not searchable in time"]
            await asyncio.sleep(0.2)
        return []

    async def _stored(self) -> dict[str, float]:
        """BSON bytes of all documents, by collection."""
        uri = self._environment["PERDURE_MONGODB_URI"]
        client = mongo.connect(uri)
        try:
            options = CodecOptions(document_class=RawBSONDocument)
            database = client.get_database(mongo.database_name(uri), codec_options=options)
            found: dict[str, float] = {}
            for name in await database.list_collection_names():
                found[name] = sum([len(document.raw) async for document in database[name].find({})])
            return found
        finally:
            client.close()

    async def _check(self, measured: Measured) -> list[str]:
        """Read some results back."""
        wrong = []
        chosen = measured.threads[:: max(1, len(measured.threads) // CHECKED)]
        async with aiohttp.ClientSession() as session:
            for thread_id in chosen:
                async with session.get(f"{self._services.gateway_url}/threads/{thread_id}/state") as answer:
                    state = await answer.json()
                numbers = [message["i"] for message in (state.get("values") or {}).get("messages", [])]
                if numbers != list(range(-1, STEPS)):
                    wrong.append(f"thread {thread_id} has messages {numbers}")
        return wrong

    def _report(self, measured: Measured, cost: dict[str, Any], errors: list[str]) -> dict[str, Any]:
        steps = max(1, len(measured.threads)) * STEPS
        thousand = steps / 1000
        cpu = {name: round(seconds / thousand, 3) for name, seconds in sorted(cost["cpu"].items())}
        others = max(0.0, cost["busy"] - sum(cost["cpu"].values()) - cost["own"]) / cost["window_s"]
        return {
            "workload": "chain",
            "agents": self._options.agents,
            "state_bytes": self._state_bytes,
            "steps_per_s": round(steps / measured.wall_s, 1),
            "cpu_s_per_1000_steps": round(sum(cost["cpu"].values()) / thousand, 3),
            "ack_p50_ms": percentile_ms(measured.ack_s, 50),
            "ack_p99_ms": percentile_ms(measured.ack_s, 99),
            "e2e_p50_ms": percentile_ms(measured.end_to_end_s, 50),
            "e2e_p99_ms": percentile_ms(measured.end_to_end_s, 99),
            "searchable_p50_ms": percentile_ms(measured.searchable_s, 50),
            "searchable_p99_ms": percentile_ms(measured.searchable_s, 99),
            "bytes_per_step": round(sum(cost["bson"].values()) / steps),
            "versions": versions(),
            "cpu_by_process": cpu,
            "errors": errors[:10],
            "detail": {
                "open": self._options.open,
                "clients": self._options.clients,
                "workers": self._options.workers,
                "warmup": self._options.warmup,
                "jvm": self._options.jvm,
                "profiled": self._options.profile,
                "succeeded": len(measured.threads),
                "errors": len(errors),
                "wall_s": round(measured.wall_s, 3),
                "index_catch_up_s": round(cost["catch_up_s"], 3),
                "searchable_samples": len(measured.searchable_s),
                "checkpoints": cost["checkpoints"],
                "cpu_s_per_1000_steps_of_load_generator": round(cost["own"] / thousand, 3),
                "other_cpu_cores": round(others, 2),
                "bytes_per_step_by_collection": {k: round(v / steps) for k, v in cost["bson"].items() if v},
                "mongodb_folder_bytes_per_step": round(cost["disk"] / steps),
                "idle_cores_by_process": cost["idle"],
                "machine": machine(),
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        }


def percentile_ms(values: list[float], percent: float) -> float | None:
    """The nearest-rank percentile of seconds, in milliseconds."""
    if not values:
        return None
    ordered = sorted(values)
    return round(1000 * ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))], 2)


def versions() -> dict[str, str]:
    """What was measured."""
    found = {"python": platform.python_version()}
    for name in PACKAGES.split():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    found |= {name: pin.version for name, pin in load_pins().items()}
    commit = subprocess.run(
        ["git", "-C", str(HERE), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found | {"commit": commit.stdout.strip() or "unknown"}


def machine() -> str:
    """Cores, memory and load."""
    memory = psutil.virtual_memory().total >> 30
    return f"{os.cpu_count()} cores, {memory} GiB, {platform.platform()}, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    sys.exit(main())
