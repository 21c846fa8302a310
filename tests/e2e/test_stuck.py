"""Agents that do not go on: a poison run is parked and can be retried, who stands still is marked, told of and found."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

from perdure.local.errors import ServerFailedError

pytestmark = pytest.mark.timeout(240)

LIMIT = 3
INNOCENT = 20


@pytest.fixture(scope="module")
def system(start_module_system: Any) -> Any:
    settings = {
        "PERDURE_CRASH_LIMIT": str(LIMIT),
        "PERDURE_CRASH_BACKOFF_S": "0.2",
        "PERDURE_EXPECTED_DEFAULT_S": "1.5",
        "PERDURE_EXPECTED_FLOOR_S": "1.5",
        "PERDURE_STUCK_INTERVAL_S": "0.3",
        "PERDURE_STUCK_GRACE_S": "0.2",
        "PERDURE_STUCK_UNCLAIMED_S": "1",
    }
    return start_module_system(names=("gateway", "agent_step", "scheduler", "indexer"), settings=settings)


def stuck_of(system: Any, thread_id: str) -> Any:
    return system.http.get(f"/threads/{thread_id}").raise_for_status().json()["stuck"]


def found_stuck(system: Any, thread_id: str, **query: str) -> bool:
    """Whether the search for stuck threads finds this one."""
    answer = system.http.get("/search", params={"status": "stuck", "scope": "threads", "limit": "100", **query})
    return thread_id in {item["thread_id"] for item in answer.raise_for_status().json()["items"]}


def notes_of(system: Any, thread_id: str) -> list[Any]:
    found = system.db.notebook.find({"thread": thread_id, "kind": "n"})
    return sorted(found, key=lambda note: (note["after"], note["note"]))


def assert_told(system: Any, thread_id: str, code: str) -> None:
    """That it was stuck and that it recovered, once each, both published."""

    def told() -> list[str]:
        notes = notes_of(system, thread_id)
        return [n["event"] for n in notes if n["ev"]["code"] == code] if all(n["published"] for n in notes) else []

    until_blocking(
        lambda: told() == ["stuck", "recovered"],
        "the thread is told stuck and recovered",
        explain=lambda: notes_of(system, thread_id),
    )


def test_a_run_that_kills_its_workers_is_parked_and_the_others_are_not(system: Any, tmp_path: Path) -> None:
    mended, acts = tmp_path / "mended", tmp_path / "acts"
    others = [
        system.start("effects", {"n": 10, "delay_s": 0.05, "file": str(acts), "number": n}) for n in range(INNOCENT)
    ]
    poison = system.start("poison", {"mended": str(mended)})
    worker = system.services["agent_step"]

    def ended() -> Any:
        if not worker.running:
            with suppress(ServerFailedError):  # killed again before it was ready
                worker.start()
        run = system.db.runs.find_one({"_id": poison["run_id"]})
        return run if run["status"] not in {"pending", "running"} and run["settled"] else None

    run = until_blocking(
        ended,
        "the run is parked",
        90,
        explain=lambda: system.db.runs.find_one({"_id": poison["run_id"]}, {"payload": 0}),
    )
    assert (run["status"], run["error"]["type"], run["error"]["node"]) == ("error", "perdure.poison", "lethal")
    assert f"crashed its worker {LIMIT} times at lethal" in run["error"]["message"]
    assert (run["crashes"], run["parked"], len(run["crash_log"])) == (LIMIT, True, LIMIT)
    assert worker.running, "a parked run must not crash its worker again"
    assert Counter(one["status"] for one in system.until_ended(*others)) == {"success": INNOCENT}

    thread_id = poison["thread_id"]
    stuck = until_blocking(
        lambda: s if (s := stuck_of(system, thread_id)) and s["code"] == "poison" else None,
        "the thread is marked as poison",
    )
    assert (stuck["node"], stuck["run_id"]) == ("lethal", poison["run_id"])
    until_blocking(
        lambda: found_stuck(system, thread_id, node="lethal", since="1h"), "the search finds the stuck thread"
    )
    path = f"/threads/{thread_id}/runs/{poison['run_id']}/retry"
    mended.touch()
    answer = system.http.post(path)
    assert answer.status_code == 202, answer.text
    (again,) = system.until_ended(answer.json())
    assert (again["status"], again["resumes"]) == ("success", [poison["run_id"]])
    assert system.values(thread_id)["log"] == ["good", "survived"], "it goes on, it does not begin again"
    repeated = system.http.post(path)
    assert (repeated.status_code, repeated.json()["run_id"]) == (202, again["_id"])
    assert repeated.headers["idempotent-replayed"] == "true"
    until_blocking(lambda: stuck_of(system, thread_id) is None, "the mark is gone")
    assert_told(system, thread_id, "poison")
    system.assert_linear([thread_id])


def test_a_retry_is_refused_where_there_is_nothing_to_retry(system: Any) -> None:
    run = system.start("chain", {})
    system.until_ended(run)
    answer = system.http.post(f"/threads/{run['thread_id']}/runs/{run['run_id']}/retry")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:perdure:problem:run-not-failed")
    failed = system.start("fails", {"after": 0, "step": 0})
    system.until_ended(failed)
    system.until_ended(system.start("chain", {}, thread=failed["thread_id"]))
    answer = system.http.post(f"/threads/{failed['thread_id']}/runs/{failed['run_id']}/retry")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:perdure:problem:thread-moved-on")


def test_a_node_that_hangs_is_found_until_it_goes_on(system: Any, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    run = system.start("hangs", {"mended": str(mended)})
    thread_id = run["thread_id"]
    stuck = until_blocking(lambda: stuck_of(system, thread_id), "the thread is marked as stuck")
    assert (stuck["code"], stuck["node"]) == ("overdue", "Login")
    assert "node Login has not ended since" in stuck["reason"]
    until_blocking(lambda: found_stuck(system, thread_id, node="Login"), "the search finds the stuck thread")
    mended.touch()
    system.until_ended(run)
    until_blocking(lambda: stuck_of(system, thread_id) is None, "the mark is gone")
    assert_told(system, thread_id, "overdue")
    until_blocking(lambda: not found_stuck(system, thread_id, node="Login"), "the search finds it no longer")


def test_a_run_that_nobody_takes_is_stuck_until_somebody_does(system: Any) -> None:
    worker = system.services["agent_step"]
    worker.terminate()
    run = system.start("chain", {})
    stuck = until_blocking(lambda: stuck_of(system, run["thread_id"]), "the thread is marked as stuck")
    assert stuck["code"] == "unclaimed"
    assert "no living worker serves graph 'chain'" in stuck["reason"]
    worker.start()
    (ended,) = system.until_ended(run)
    assert ended["status"] == "success"
    until_blocking(lambda: stuck_of(system, run["thread_id"]) is None, "the mark is gone")
    assert_told(system, run["thread_id"], "unclaimed")


def test_a_run_that_failed_after_its_wait_is_retried_with_what_woke_it(system: Any, tmp_path: Path) -> None:
    stone = tmp_path / "stone"
    stone.touch()
    run = system.start("stumbling", {"file": str(stone)})
    system.until_ended(run)
    path = f"/threads/{run['thread_id']}/signals/reply"
    system.http.post(path, json={"payload": "only once"}).raise_for_status()

    def retried(failed: Any) -> Any:
        until_blocking(
            lambda: system.db.threads.find_one({"_id": run["thread_id"], "ended_run_id": failed["_id"]}),
            "the thread knows of the failed run's end",
        )
        answer = system.http.post(f"/threads/{run['thread_id']}/runs/{failed['_id']}/retry")
        assert answer.status_code == 202, answer.text
        return system.until_ended(answer.json())[0]

    first = until_blocking(
        lambda: system.db.runs.find_one({"thread_id": run["thread_id"], "status": "error"}),
        "the run that was woken has failed",
    )
    second = retried(first)
    stone.unlink()
    third = retried(second)
    assert (second["status"], third["status"], third["resumes"]) == ("error", "success", [first["_id"], second["_id"]])
    assert system.values(run["thread_id"])["log"] == [["received", "only once"]]
    assert system.db.signals.count_documents({"thread_id": run["thread_id"]}) == 1
    system.assert_linear([run["thread_id"]])
