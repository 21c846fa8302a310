"""Effects under the real services: a worker killed between the act and its receipt leaves exactly one act."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(240)

RUNS = 20


@pytest.fixture(scope="module")
def system(start_module_system: Any) -> Any:
    """Without an index: nothing here is searched."""
    return start_module_system(names=("gateway", "agent_step", "scheduler"))


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def killed_in_the_act(system: Any, file: Path, graph: str, *, reconcile: bool) -> list[Any]:
    """Runs whose worker is killed when each has acted and none has a receipt; a new worker is started."""
    hang = Path(f"{file}.hang")
    hang.touch()
    runs = [system.start(graph, {"file": str(file), "reconcile": reconcile}) for _ in range(RUNS)]
    until_blocking(lambda: len(lines(file)) == RUNS, "all runs act")
    worker = system.services["agent_step"]
    worker.kill()
    hang.unlink()
    threads = [run["thread_id"] for run in runs]
    assert system.db.effects.count_documents({"state": "intent", "thread_id": {"$in": threads}}) == RUNS
    worker.start()
    return runs


@pytest.mark.parametrize("graph", ["once", "once_blocking"])
def test_kill_9_between_the_act_and_its_receipt(system: Any, tmp_path: Path, graph: str) -> None:
    file = tmp_path / "acts"
    runs = killed_in_the_act(system, file, graph, reconcile=True)
    ended = system.until_ended(*runs, timeout_s=60)
    assert Counter(run["status"] for run in ended) == {"success": RUNS}
    assert {run["epoch"] for run in ended} == {2}
    assert Counter(lines(file)) == Counter(f"{run['thread_id']}:order" for run in runs), "not exactly once"
    for run in runs:
        assert system.values(run["thread_id"])["receipt"] == f"found {run['thread_id']}:order"
    system.assert_linear([run["thread_id"] for run in runs])


def test_without_reconcile_a_plain_effect_is_repeated_with_the_same_key(system: Any, tmp_path: Path) -> None:
    file = tmp_path / "acts"
    runs = killed_in_the_act(system, file, "once", reconcile=False)
    ended = system.until_ended(*runs, timeout_s=60)
    assert Counter(run["status"] for run in ended) == {"success": RUNS}
    assert Counter(lines(file)) == {f"{run['thread_id']}:order": 2 for run in runs}


def approve(system: Any, run: Any) -> None:
    (waiting,) = system.until_ended(run)
    assert waiting["status"] == "interrupted"
    (found,) = system.http.get("/approvals", params={"thread_id": run["thread_id"]}).json()["approvals"]
    answer = system.http.post(f"/approvals/{found['approval_id']}", json={"answer": True, "by": "ada"})
    assert answer.status_code == 202, answer.text


def last_run(system: Any, run: Any) -> Any:
    """The run that woke the thread, once it has ended."""

    def ended() -> Any:
        found = list(system.db.runs.find({"thread_id": run["thread_id"], "wait_id": {"$exists": True}}))
        return found[-1] if found and found[-1]["status"] not in {"pending", "running"} else None

    return until_blocking(ended, "the last run has ended")


def test_approve_82000_run_820000_fails_closed(system: Any, tmp_path: Path) -> None:
    file = tmp_path / "acts"
    allowed = {"pay": 82_000}
    wrong = system.start("paid", {"file": str(file), "action": allowed, "run": {"pay": 820_000}})
    right = system.start("paid", {"file": str(file), "action": allowed})
    by_hand = system.start("paid", {"file": str(file), "action": allowed})
    approve(system, wrong)
    approve(system, right)
    system.until_ended(by_hand)
    (resumed,) = system.until_ended(system.start("paid", thread=by_hand["thread_id"], command={"resume": True}))
    assert (resumed["status"], resumed["error"]["type"].rpartition(".")[2]) == ("error", "GuardMissing")
    refused = last_run(system, wrong)
    assert (refused["status"], refused["error"]["type"].rpartition(".")[2]) == ("error", "GuardMismatch")
    assert last_run(system, right)["status"] == "success"
    assert lines(file) == [f"{right['thread_id']}:pay 82000"]
