"""Single runs beside a batch. ``python benchmarks/batch.py [--items 20000] [--seconds 60] [--concurrency 1000]``.

Starts real servers and all services with empty data, measures how long single runs wait until a worker begins with them, uploads a
batch, measures the same beside it for ``--seconds``, downloads what has ended, and cancels the rest. One JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from rich.console import Console
from smoke import machine, percentile_ms, versions
from usage import cpu_seconds, difference, memory_mib, servers

from perdure.chassis.settings import ServiceSettings
from perdure.chassis.telemetry import configure_logging
from perdure.cli.provision import provision
from perdure.local.dev import CONFIG_VARIABLE
from perdure.local.display import ConsoleDisplay
from perdure.local.services import Services, available_services
from perdure.local.stack import Stack

GRAPHS = Path(__file__).resolve().parent / "graphs"
INPUT = {"messages": [{"role": "user", "content": "x" * 200}]}
GAP_S = 0.2
"""Between the ends of two single runs."""


async def single(session: aiohttp.ClientSession) -> float:
    """Start a run and wait for its end; for how many seconds it waited for a worker."""
    async with session.post("/runs", json={"assistant_id": "chain", "input": INPUT}) as answer:
        made = await answer.json()
    path = f"/threads/{made['thread_id']}/runs/{made['run_id']}"
    async with session.get(f"{path}/join"):
        pass
    async with session.get(path) as answer:
        run = await answer.json()
    started, created = (datetime.fromisoformat(run[name]) for name in ("started_at", "created_at"))
    return (started - created).total_seconds()


async def singles(session: aiohttp.ClientSession, seconds: float) -> list[float]:
    """One single run after another for so long."""
    found, ends = [], time.monotonic() + seconds
    while time.monotonic() < ends:
        found.append(await single(session))
        await asyncio.sleep(GAP_S)
    return found


async def batch_of(session: aiohttp.ClientSession, batch_id: str) -> Any:
    """How the batch stands."""
    async with session.get(f"/batches/{batch_id}") as answer:
        return await answer.json()


async def ended(session: aiohttp.ClientSession, batch_id: str) -> Any:
    """The batch once it is over."""
    while True:
        over = await batch_of(session, batch_id)
        if over["status"] in ("completed", "cancelled"):
            return over
        await asyncio.sleep(0.1)


async def downloaded(session: aiohttp.ClientSession, batch_id: str) -> dict[str, Any]:
    """The results so far: how many and how fast."""
    began, lines = time.monotonic(), 0
    async with session.get(f"/batches/{batch_id}/results") as answer:
        async for _ in answer.content:
            lines += 1
    took = time.monotonic() - began
    return {"results": lines, "results_per_s": round(lines / took, 1)}


async def measure(options: argparse.Namespace, services: Services, stack: Stack, display: ConsoleDisplay) -> Any:
    """The whole run; the JSON line."""
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(services.gateway_url, timeout=timeout) as session:
        display.say("single runs alone")
        await singles(session, 3)
        alone = await singles(session, 10)
        line = json.dumps({"input": INPUT}).encode() + b"\n"
        began = time.monotonic()
        params = {"assistant_id": "chain", "concurrency": options.concurrency}
        headers = {"Content-Type": "application/x-ndjson"}
        async with session.post("/batches", params=params, data=line * options.items, headers=headers) as answer:
            if answer.status != 202:
                sys.exit(f"POST /batches was answered {answer.status}: {await answer.text()}")
            batch_id = (await answer.json())["batch_id"]
        upload_s = time.monotonic() - began
        display.say(f"{options.items} items uploaded in {upload_s:.1f} s; single runs beside them")
        cpu, before = cpu_seconds(stack), time.monotonic()
        beside = await singles(session, options.seconds)
        used, took = difference(cpu_seconds(stack), cpu), time.monotonic() - before
        stands = await batch_of(session, batch_id)
        results = await downloaded(session, batch_id)
        began = time.monotonic()
        async with session.post(f"/batches/{batch_id}/cancel"):
            pass
        over = await ended(session, batch_id)
    return {
        "workload": "batch",
        "items": options.items,
        "upload_s": round(upload_s, 2),
        "singles_alone": {f"p{n}_ms": percentile_ms(alone, n) for n in (50, 99, 100)} | {"runs": len(alone)},
        "singles_beside": {f"p{n}_ms": percentile_ms(beside, n) for n in (50, 99, 100)} | {"runs": len(beside)},
        "items_per_s": round(stands["ended"] / took, 1),
        "counts": stands["counts"],
        **results,
        "cancel_s": round(time.monotonic() - began, 2),
        "cancelled": over["counts"]["cancelled"],
        "cores": {name: round(seconds / took, 2) for name, seconds in used.items()},
        "mib": memory_mib(stack),
        "versions": versions(),
        "machine": machine(),
    }


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--concurrency", type=int, default=1_000)
    options = parser.parse_args()
    configure_logging("bench", ServiceSettings(log_level="WARNING", log_format="console"))
    settings = {
        CONFIG_VARIABLE: str(GRAPHS / "langgraph.json"),
        "PERDURE_LOG_LEVEL": "WARNING",
        "PERDURE_GATEWAY_PORT": "0",
    }
    with ConsoleDisplay(Console(stderr=True)) as display, servers(display, optimised=False) as stack:
        provision(stack.environment())
        with Services.of(stack, available_services(), env=settings, cwd=GRAPHS) as services:
            line = uvloop.run(measure(options, services, stack, display))
    print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
