"""Runs that end with their thread (``on_completion``) and runs that end others (``multitask_strategy``), whoever is killed."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(300)

DELETE = {"on_completion": "delete"}


@pytest.fixture(scope="module")
def system(start_module_system: Any) -> Any:
    settings = {"PERDURE_COMPLETED_DELETE_S": "1"}
    return start_module_system(names=("gateway", "agent_step", "scheduler", "indexer"), settings=settings)


def threads_left(system: Any, runs: list[Any]) -> list[str]:
    """The threads of these runs of which anything is left."""
    ids = [run["thread_id"] for run in runs]
    left = {one["_id"] for one in system.db.threads.find({"_id": {"$in": ids}}, {"_id": 1})}
    left |= {one["thread_id"] for one in system.db.runs.find({"thread_id": {"$in": ids}}, {"thread_id": 1})}
    left |= {one["thread"] for one in system.db.notebook.find({"thread": {"$in": ids}}, {"thread": 1})}
    return sorted(left)


def test_whoever_waits_gets_the_values_before_the_thread_is_deleted(system: Any) -> None:
    body = {"assistant_id": "chain", "input": {"n": 2}, **DELETE}
    values = system.http.post("/runs/wait", json=body)
    assert values.status_code == 200
    assert values.json()["log"]
    thread_id = values.headers["Location"].split("/")[2]
    until_blocking(lambda: not threads_left(system, [{"thread_id": thread_id}]), "the thread is gone", 90)
    assert system.http.get(f"/threads/{thread_id}").status_code == 404


@pytest.mark.parametrize("victim", ["scheduler", "agent_step", "gateway"])
def test_kill_a_service_while_threads_end_and_are_deleted(system: Any, victim: str) -> None:
    kept = system.start("chain", {"n": 2})
    runs = [system.start("chain", {"n": 20, "delay_s": 0.05}, **DELETE) for _ in range(20)]
    until_blocking(
        lambda: (
            system.db.threads.count_documents({"_id": {"$in": [run["thread_id"] for run in runs]}}) == 20
            and system.db.notebook.count_documents({"thread": {"$in": [run["thread_id"] for run in runs]}}) > 20
        ),
        "the runs are under way",
    )
    system.services[victim].kill()
    system.services[victim].start()
    until_blocking(
        lambda: system.db.threads.find_one(
            {"_id": {"$in": [run["thread_id"] for run in runs]}, "archive.state": "removing"}
        ),
        "the first of them is on its way out",
        90,
    )
    system.services[victim].kill()
    system.services[victim].start()
    until_blocking(
        lambda: not threads_left(system, runs), "all threads are gone", 150, explain=lambda: threads_left(system, runs)
    )
    assert system.until_ended(kept)[0]["status"] == "success"
    assert threads_left(system, [kept]) == [kept["thread_id"]], "what is not to be deleted stays"


def test_a_thread_that_waits_for_an_answer_has_not_ended(system: Any) -> None:
    run = system.start("ask", {}, **DELETE)
    for answer in ("one", "two"):
        (question,) = until_blocking(
            lambda: system.http.get("/approvals", params={"thread_id": run["thread_id"]}).json()["approvals"],
            "the question is open",
        )
        system.http.post(
            f"/approvals/{question['approval_id']}", json={"answer": answer, "by": "ada"}
        ).raise_for_status()
        until_blocking(
            lambda one=question: system.http.get(f"/approvals/{one['approval_id']}").json().get("status") != "open",
            "the answer has arrived",
        )
    until_blocking(lambda: not threads_left(system, [run]), "the thread is gone once it has ended", 90)


@pytest.mark.parametrize("victim", ["agent_step", "gateway"])
@pytest.mark.parametrize(("strategy", "log"), [("interrupt", True), ("rollback", False)])
def test_kill_a_service_while_a_run_ends_another(system: Any, strategy: str, log: bool, victim: str) -> None:
    first = system.start("chain", {"n": 3})
    system.until_ended(first)
    before = system.values(first["thread_id"])["log"]
    active = system.start("slow", {"seconds": 600}, thread=first["thread_id"])
    until_blocking(lambda: system.run(active)["status"] == "running", "the run is under way")
    last = system.start("slow", {"seconds": 0}, thread=first["thread_id"], multitask_strategy=strategy)
    system.services[victim].kill()
    system.services[victim].start()
    (ended,) = system.until_ended(last, timeout_s=90)
    assert ended["status"] == "success"
    stopped = system.db.runs.find_one({"_id": active["run_id"]})
    assert (stopped["status"], stopped.get("deleted", False)) == ("cancelled", strategy == "rollback")
    assert system.values(first["thread_id"])["log"] == [*before, "waits"]
    seen = system.http.get(f"/threads/{first['thread_id']}/runs/{active['run_id']}")
    assert (seen.status_code == 200) is log
    history = system.http.get(f"/threads/{first['thread_id']}/history", params={"limit": 100}).json()
    assert ({state["metadata"].get("run_id") for state in history} >= {active["run_id"]}) is log
    assert system.db.runs.count_documents({"thread_id": first["thread_id"], "settled": False}) == 0
