"""examples/contract_audit as a batch: workers killed, everything stopped for the night, and every text audited once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(420)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "contract_audit"
ITEMS = 60
PAUSE_S = 0.1
CONCURRENCY = 6
"""So few, because those that sleep take no place: the night should fall before all have been started."""


def run(script: str, *arguments: str) -> None:
    """A command of the example, as a reader of its README types it."""
    command = [sys.executable, str(EXAMPLE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def overview(results: Path, items: Path) -> str:
    """The report on results; the command fails for a quote that is not in its file."""
    report, table = results.with_name("report.md"), results.with_name("clauses.csv")
    run("overview.py", str(results), "--items", str(items), "--csv", str(table), "--report", str(report))
    return report.read_text()


class Batch:
    """The orders of a file, under way."""

    def __init__(self, system: Any, items: Path) -> None:
        self._system = system
        answer = system.http.post(
            "/batches",
            params={"assistant_id": "contract_audit", "concurrency": CONCURRENCY},
            content=items.read_bytes(),
            headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": "today"},
        )
        assert answer.status_code == 202, answer.text
        self.path = f"/batches/{answer.json()['batch_id']}"

    def show(self) -> Any:
        return self._system.http.get(self.path).raise_for_status().json()

    def ask(self, what: str) -> None:
        self._system.http.post(f"{self.path}/{what}").raise_for_status()

    def until_ended(self, count: int) -> None:
        until_blocking(self.show, f"{count} items have ended", 120, holds=lambda now: now["ended"] >= count)

    def download(self, file: Path) -> list[Any]:
        file.write_bytes(self._system.http.get(f"{self.path}/results").raise_for_status().content)
        return [json.loads(line) for line in file.read_bytes().splitlines()]


def test_sixty_texts_over_two_days(own_stack: Any, start_system: Any, tmp_path: Path) -> None:
    items, results = tmp_path / "contracts.ndjson", tmp_path / "results.ndjson"
    run("collect.py", "--count", str(ITEMS), "-o", str(items))
    servers = own_stack("kafka", "mongodb")
    settings = {
        "PERDURE_LANGGRAPH_CONFIG": str(EXAMPLE / "langgraph.json"),
        "CONTRACT_AUDIT_PAUSE_S": str(PAUSE_S),
    }
    names = ("gateway", "agent_step", "agent_step", "scheduler")
    system = start_system(names=names, settings=settings, servers=servers)
    batch = Batch(system, items)

    batch.until_ended(5)
    kill(system, "agent_step")
    batch.until_ended(15)
    kill(system, "agent_step-2")
    batch.until_ended(20)
    batch.ask("pause")
    ended = len(batch.download(results))
    assert 20 <= ended < ITEMS, "the night falls while it runs"
    assert f"Not complete: {ended} of {ITEMS} orders have ended" in overview(results, items)
    system.services.stop()
    for name in ("kafka", "mongodb"):
        servers.stop_server(name)

    for name in ("kafka", "mongodb"):
        servers.start_server(name)
    system.services.start()
    assert batch.show()["status"] == "paused"
    batch.ask("resume")
    batch.until_ended(ITEMS)

    rows = batch.download(results)
    assert [row["number"] for row in rows] == [*range(1, ITEMS + 1)]
    assert {row["status"] for row in rows} == {"succeeded"}
    orders = [json.loads(line) for line in items.read_bytes().splitlines()]
    assert [row["ref"] for row in rows] == [order["ref"] for order in orders]
    for row, order in zip(rows, orders, strict=True):
        assert_quotes_are_there(row["values"], order["input"])
    assert f"Complete: all {ITEMS} orders have ended" in overview(results, items)
    threads = [row["thread_id"] for row in rows]
    assert len(set(threads)) == ITEMS
    system.assert_linear(threads)
    runs = {"batch.id": batch.path.rpartition("/")[2], "thread_id": {"$in": threads}}
    assert system.db.runs.count_documents(runs) == 4 * ITEMS, "each was started once and slept three times"


def kill(system: Any, label: str) -> None:
    system.services[label].kill()
    system.services[label].start(wait=False)


def assert_quotes_are_there(values: Any, order: Any) -> None:
    """Compared with the file itself, not with what the agent kept of it."""
    text = Path(order["path"]).read_bytes().decode()
    assert values["sha256"] == order["sha256"]
    clauses = [clause for found in values["clauses"].values() for clause in found]
    assert set(values["clauses"]) == set(values["assessment"]["counts"])
    assert values["quotes_checked"] == len(clauses)
    for clause in clauses:
        assert text[clause["start"] : clause["end"]] == clause["quote"]
        assert text.count("\n", 0, clause["start"]) + 1 == clause["line"]
