"""A failing node is seen: in the worker's log, in the log of its agent, in the API and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

from perdure.chassis.clock import now

pytestmark = pytest.mark.timeout(240)

MISSING = "the price list is missing column 'net'"


def records(log: Path) -> list[dict[str, Any]]:
    """The JSON lines of a log; what nodes print is none."""
    found = []
    for line in log.read_text().splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return [one for one in found if isinstance(one, dict)]


def perdure(*arguments: str, folder: Path | None = None) -> str:
    """What a command of ``perdure`` prints."""
    environment = {**os.environ, **({"PERDURE_DATA_DIR": str(folder)} if folder else {})}
    command = [str(Path(sys.executable).with_name("perdure")), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def failed(system: Any) -> Any:
    """Two runs of the graph that fails, as stored."""
    return system.until_ended(system.start("pricing", {"mark": "one"}), system.start("pricing", {"mark": "two"}))


def test_the_worker_logs_how_a_run_started_and_failed(system: Any, failed: Any) -> None:
    run = failed[0]
    ids = {"thread_id": run["thread_id"], "run_id": run["_id"], "graph": "pricing"}
    ours = [one for one in records(system.services["agent_step"].log) if one.get("run_id") == run["_id"]]
    assert all(one.items() >= ids.items() for one in ours), ours
    assert [one["event"] for one in ours] == [
        "run.started", "loading the price list of one", "few rows", "compared aside for one", "run.ended",
    ]  # fmt: skip
    started, loading, few, aside, ended = ours
    assert started["attempt"] == 1
    assert [one["node"] for one in (loading, few, aside)] == ["load", "compare", "compare"]
    assert (few["level"], few["rows"]) == ("warning", 3)
    assert (ended["level"], ended["status"], ended["node"]) == ("error", "error", "total")
    assert (ended["steps"], ended["next"], ended["attempt"]) == (3, ["total"], 1)
    assert 0 < ended["duration_ms"] < 60_000
    assert ended["error"] == f"ValueError: {MISSING}"
    lines = ended["exception"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].strip().startswith(f'File "{Path(__file__).parent / "graphs" / "pricing.py"}", line ')
    assert lines[2].strip() == f'raise ValueError("{MISSING}")'
    assert f"ValueError: {MISSING}" in lines


def test_the_log_of_an_agent(system: Any, failed: Any) -> None:
    folder = system.services["agent_step"].log.parents[1]
    run, other = failed
    shown = perdure("logs", "--thread", run["thread_id"], "--json", folder=folder).splitlines()
    found = [json.loads(line)["record"] for line in shown]
    assert {one["thread_id"] for one in found} == {run["thread_id"]}
    assert [one["event"] for one in found if one["service"] == "agent-step"][0::4] == ["run.started", "run.ended"]
    assert {one["run_id"] for one in found if "run_id" in one} == {run["_id"]}

    people = perdure("logs", "--run", other["_id"], folder=folder)
    assert "loading the price list of two" in people
    assert "of one" not in people
    assert "node=load" in people
    line = next(line for line in people.splitlines() if "run.ended" in line)
    assert "error" in line
    assert "status=error" in line
    assert not line.startswith("{")
    assert "    raise ValueError(" in people
    assert perdure("logs", "--thread", "no-such-thread", folder=folder) == ""
    assert "printed by a node" in perdure("logs", "agent_step", "--lines", "500", folder=folder)


def test_threads_show_and_runs_show_have_the_traceback_as_lines(system: Any, failed: Any) -> None:
    run = failed[0]
    url = str(system.http.base_url)
    for arguments in (("threads", "show", run["thread_id"]), ("runs", "show", run["thread_id"], run["_id"])):
        lines = perdure(*arguments, "--url", url).splitlines()
        first = next(number for number, line in enumerate(lines) if MISSING in line)
        assert lines[first].split(maxsplit=1) == ["error", f"at node total: ValueError: {MISSING}"]
        assert lines[first + 1].strip() == "Traceback (most recent call last):"
        assert any(line.strip().startswith("raise ValueError(") for line in lines[first:])
        assert not any("\\n" in line for line in lines)


def test_a_run_that_was_taken_over_failed_when_and_where_it_did(system: Any, tmp_path: Path) -> None:
    worker = system.services["agent_step"]
    run = system.start("relapsing", {"file": str(tmp_path / "attempts")})
    until_blocking(lambda: not worker.running, "the worker is dead")
    died_by = now()
    worker.start()
    (ended,) = system.until_ended(run)
    assert ended["error"]["message"] == "failed at the second attempt"
    assert ended["ended_at"].replace(tzinfo=UTC) >= died_by
    entry = system.db.notebook.find_one({"thread": run["thread_id"], "event": "error"})
    assert entry["at"].replace(tzinfo=UTC) >= died_by
    (log,) = [one for one in records(worker.log) if one["event"] == "run.ended" and one["run_id"] == run["run_id"]]
    assert log["attempt"] > 1
