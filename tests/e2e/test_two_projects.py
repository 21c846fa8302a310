"""Two projects on one installation, and a graph that nobody serves: each run finds a worker that has its graph."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

GRAPHS = Path(__file__).parent / "graphs"
NAMES = ("gateway", "agent_step", "agent_step", "scheduler")
SETTINGS = {"PERDURE_STUCK_UNCLAIMED_S": "2", "PERDURE_STUCK_INTERVAL_S": "0.5", "PERDURE_STUCK_GRACE_S": "0"}


def serve(system: Any, worker: str, folder: Path, graph: str, target: str, **more: str) -> None:
    """Start a worker again with a project that has one graph, or several."""
    folder.mkdir()
    file = folder / "langgraph.json"
    graphs = {name: f"{GRAPHS}/{place}" for name, place in {graph: target, **more}.items()}
    file.write_text(json.dumps({"dependencies": [str(GRAPHS)], "graphs": graphs}))
    process = system.services[worker]
    process.terminate()
    process.env["PERDURE_LANGGRAPH_CONFIG"] = str(file)
    process.start()


@pytest.fixture
def system(start_system: Any, tmp_path: Path) -> Any:
    made = start_system(names=NAMES, settings=SETTINGS)
    serve(made, "agent_step", tmp_path / "one", "chain", "chain.py:graph")
    serve(made, "agent_step-2", tmp_path / "two", "effects", "effects.py:graph")
    return made


def test_each_run_is_executed_by_a_worker_that_serves_its_graph(system: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "effects")
    runs = [
        system.start(*given) for _ in range(20) for given in (("chain", {"n": 2}), ("effects", {"n": 2, "file": file}))
    ]
    ended = system.until_ended(*runs, timeout_s=60)
    assert Counter((run["graph_id"], run["status"], run["epoch"]) for run in ended) == {
        ("chain", "success", 1): 20,
        ("effects", "success", 1): 20,
    }, [run.get("error") for run in ended if run["status"] != "success"]
    waited = sorted((run["started_at"] - run["created_at"]).total_seconds() for run in ended)
    print(f"claimed after {waited[len(waited) // 2]:.2f} s (half of them), {waited[-1]:.2f} s (the last)")
    assert not any("unserved" in run for run in ended)


def test_a_run_of_a_graph_that_nobody_serves_waits_for_a_worker(system: Any, tmp_path: Path) -> None:
    worker = system.services["agent_step-2"]
    worker.terminate()
    waiting = system.start("effects", {"n": 2, "file": str(tmp_path / "effects")})
    unwanted = system.start("effects", {"n": 2, "file": str(tmp_path / "unwanted")})
    mark = until_blocking(
        lambda: (system.db.threads.find_one({"_id": waiting["thread_id"]}) or {}).get("stuck"),
        "the thread is marked as stuck",
        explain=lambda: system.run(waiting),
    )
    assert mark["code"] == "unclaimed"
    assert "no living worker serves graph 'effects'" in mark["reason"]
    assert system.db.runs.find_one({"_id": waiting["run_id"]})["status"] == "pending"
    path = f"/threads/{unwanted['thread_id']}/runs/{unwanted['run_id']}/cancel"
    assert system.http.post(path).status_code == 202
    (cancelled,) = system.until_ended(unwanted)
    assert cancelled["status"] == "cancelled"
    worker.start()
    (ended,) = system.until_ended(waiting)
    assert (ended["status"], ended["epoch"]) == ("success", 1)
    assert not (tmp_path / "unwanted").exists()
    until_blocking(lambda: "stuck" not in system.db.threads.find_one({"_id": waiting["thread_id"]}), "the mark is gone")


def test_a_new_version_is_rolled_out_while_runs_come(system: Any, tmp_path: Path) -> None:
    """The new version has a graph more. While workers of both are there, runs of either graph come, and none is lost."""
    serve(system, "agent_step-2", tmp_path / "old", "chain", "chain.py:graph")
    runs = [system.start("chain", {"n": 2}) for _ in range(10)]
    serve(system, "agent_step", tmp_path / "new", "chain", "chain.py:graph", effects="effects.py:graph")
    until_blocking(lambda: serves(system, "effects"), "a worker of the new version is there")
    for number in range(10):
        file = str(tmp_path / f"effects-{number}")
        runs += [system.start("chain", {"n": 2}), system.start("effects", {"n": 1, "file": file})]
    serve(system, "agent_step-2", tmp_path / "new-2", "chain", "chain.py:graph", effects="effects.py:graph")
    runs += [system.start("chain", {"n": 2}) for _ in range(10)]
    ended = system.until_ended(*runs, timeout_s=90)
    assert Counter((run["graph_id"], run["status"]) for run in ended) == {
        ("chain", "success"): 30,
        ("effects", "success"): 10,
    }, [run.get("error") for run in ended if run["status"] != "success"]
    assert all((tmp_path / f"effects-{number}").read_text().count("\n") == 1 for number in range(10)), "each act once"


def serves(system: Any, graph: str) -> bool:
    """Whether a living worker serves a graph."""
    return system.db.workers.find_one({"state": "alive", "graphs": graph}) is not None
