"""A batch of contract audits with two workers that are killed on the way. ``python benchmarks/contracts.py [--items 1000]``.

Starts real servers and all services, two of agent-step, with empty data; orders ``--items`` audits of ``examples/contract_audit``
as one batch, each of which sleeps three times ``--pause`` seconds; kills (SIGKILL) and restarts one worker when a quarter of them
have ended, the other when half have, and both when three quarters have. Then it proves that every item was audited once: one
result for each order, in its order; a thread of its own with one history, in which every sequence number and every step is there
once and one end is recorded; every quote found in its file (``overview.py``). One JSON line; the exit status is 1 if anything is
amiss.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from smoke import machine, versions
from usage import memory_mib, servers

from perdure.chassis import mongo
from perdure.cli.provision import provision
from perdure.local.dev import CONFIG_VARIABLE
from perdure.local.display import ConsoleDisplay
from perdure.local.services import Services, available_services
from perdure.local.stack import Stack

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "contract_audit"
WORKERS = ("agent_step", "agent_step-2")
KILLS: tuple[tuple[float, Sequence[str]], ...] = ((0.25, WORKERS[:1]), (0.5, WORKERS[1:]), (0.75, WORKERS))
RUNS = 4
"""Of an item: it is started once and wakes three times."""
TIMEOUT_S = 3600.0


def command(script: str, *arguments: str) -> str:
    """A command of the example; what it prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / script), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{script}: {done.stderr}")
    return done.stdout


def audited(http: httpx.Client, services: Services, items: Path, display: ConsoleDisplay) -> tuple[str, list[str]]:
    """Order the batch, kill, and wait for its end; its id, and who was killed when."""
    answer = http.post(
        "/batches",
        params={"assistant_id": "contract_audit", "concurrency": 50, "max_attempts": 3},
        content=items.read_bytes(),
        headers={"Content-Type": "application/x-ndjson"},
    )
    if answer.status_code != 202:
        sys.exit(f"POST /batches was answered {answer.status_code}: {answer.text}")
    batch_id = answer.json()["batch_id"]
    left, deadline = list(KILLS), time.monotonic() + TIMEOUT_S
    killed: list[str] = []
    while time.monotonic() < deadline:
        batch = http.get(f"/batches/{batch_id}").json()
        if batch["status"] == "completed":
            return batch_id, killed
        if left and batch["ended"] >= left[0][0] * batch["total"]:
            for label in left.pop(0)[1]:
                services[label].kill()
                services[label].start(wait=False)
                killed.append(f"{label} at {batch['ended']}")
                display.say(f"killed {killed[-1]}")
        time.sleep(0.2)
    sys.exit(f"the batch has not ended within {TIMEOUT_S:.0f} s: {http.get(f'/batches/{batch_id}').text}")


def amiss(db: Any, batch_id: str, rows: list[Any], orders: list[Any]) -> list[str]:
    """What is not as it should be."""
    wrong = [f"item {row['number']}: {row['status']}" for row in rows if row["status"] != "succeeded"]
    if [row["ref"] for row in rows] != [order["ref"] for order in orders]:
        wrong.append("the results are not one for each order, in their order")
    threads = [row["thread_id"] for row in rows]
    if len(set(threads)) != len(orders):
        wrong.append(f"{len(set(threads))} threads of {len(orders)} orders")
    runs = db.runs.count_documents({"batch.id": batch_id})
    if runs != RUNS * len(orders):
        wrong.append(f"{runs} runs, not {RUNS} for each item")
    histories = defaultdict(list)
    for entry in db.notebook.find({"thread": {"$in": threads}, "seq": {"$exists": True}}, {"body": 0}):
        histories[entry["thread"]].append(entry)
    for thread in threads:
        entries = histories[thread]
        steps = Counter((one["ns"], one["run"], one["step"]) for one in entries if one["kind"] == "c")
        ends = Counter(one["event"] for one in entries if one["kind"] == "e")
        if sorted(one["seq"] for one in entries) != [*range(1, len(entries) + 1)]:
            wrong.append(f"{thread}: a sequence number is missing or there twice")
        if max(steps.values(), default=0) != 1:
            wrong.append(f"{thread}: a step is there twice")
        if (ends["success"], ends["interrupted"]) != (1, RUNS - 1):
            wrong.append(f"{thread}: ended as {dict(ends)}")
    return wrong


def measure(stack: Stack, services: Services, display: ConsoleDisplay, *, count: int, pause_s: float) -> dict[str, Any]:
    """The whole run; the JSON line."""
    with tempfile.TemporaryDirectory(prefix="perdure-contracts-") as name:
        folder = Path(name)
        items, results = folder / "contracts.ndjson", folder / "results.ndjson"
        command("collect.py", "--count", str(count), "-o", str(items))
        began = time.monotonic()
        with httpx.Client(base_url=services.gateway_url, timeout=60) as http:
            batch_id, killed = audited(http, services, items, display)
            took_s = time.monotonic() - began
            results.write_bytes(http.get(f"/batches/{batch_id}/results").raise_for_status().content)
        rows, orders = (
            [json.loads(line) for line in file.read_bytes().split(b"\n") if line] for file in (results, items)
        )
        uri = stack.environment()["PERDURE_MONGODB_URI"]
        with mongo.connect_blocking(uri) as client:
            wrong = amiss(client.get_default_database(mongo.DEFAULT_DATABASE), batch_id, rows, orders)
        report = folder / "report.md"
        table = folder / "clauses.csv"
        told = command("overview.py", str(results), "--items", str(items), "--csv", str(table), "--report", str(report))
        clauses = table.read_text().count("\n") - 1
    return {
        "workload": "contracts",
        "items": count,
        "pause_s": pause_s,
        "took_s": round(took_s, 1),
        "killed": killed,
        "clauses": clauses,
        "amiss": wrong[:10],
        "overview": told.partition(".")[0],
        "mib": memory_mib(stack),
        "versions": versions(),
        "machine": machine(),
    }


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000)
    parser.add_argument(
        "--pause", type=float, default=100.0, help="seconds that an audit sleeps before three of its steps"
    )
    options = parser.parse_args()
    settings = {
        CONFIG_VARIABLE: str(EXAMPLE / "langgraph.json"),
        "CONTRACT_AUDIT_PAUSE_S": str(options.pause),
        "PERDURE_LOG_LEVEL": "WARNING",
        "PERDURE_GATEWAY_PORT": "0",
    }
    names = [name for name in available_services() for _ in range(2 if name == "agent_step" else 1)]
    with ConsoleDisplay(Console(stderr=True)) as display, servers(display, optimised=False) as stack:
        provision(stack.environment())
        with Services.of(stack, names, env=settings, cwd=EXAMPLE) as services:
            line = measure(stack, services, display, count=options.items, pause_s=options.pause)
    print(json.dumps(line), flush=True)
    return int(bool(line["amiss"]))


if __name__ == "__main__":
    sys.exit(main())
