"""Agents that hibernate: woken by the clock, a signal or a person, exactly where they stopped, whoever dies meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(240)

APPROVED = {"answer": {"approved": True}, "by": "ada"}


def asleep(system: Any, *runs: Any, timeout_s: float = 60) -> None:
    """Until each run's thread waits."""
    ended = system.until_ended(*runs, timeout_s=timeout_s)
    assert {run["status"] for run in ended} <= {"interrupted"}, Counter(run["status"] for run in ended)


def finished(system: Any, *runs: Any, timeout_s: float = 60) -> list[list[Any]]:
    """The logs of the threads once each has come to its end."""
    threads = [run["thread_id"] for run in runs]

    def done() -> bool:
        last = {t["_id"]: t for t in system.db.threads.find({"_id": {"$in": threads}})}
        return all(not t["interrupts"] and not t["next"] for t in last.values()) and not system.db.runs.count_documents(
            {"thread_id": {"$in": threads}, "settled": False}
        )

    until_blocking(done, "all agents have ended", timeout_s)
    return [system.values(thread)["log"] for thread in threads]


def waits_of(system: Any, run: Any) -> list[Any]:
    return list(system.db.waits.find({"thread_id": run["thread_id"]}))


def signal(system: Any, run: Any, name: str, payload: Any) -> Any:
    answer = system.http.post(f"/threads/{run['thread_id']}/signals/{name}", json={"payload": payload})
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_the_clock_wakes(system: Any, opensearch_url: str) -> None:
    runs = [system.start("sleeper", {"sleep_s": 1.5}) for _ in range(20)]
    asleep(system, *runs)
    logs = finished(system, *runs)
    assert [log[0][0] for log in logs] == ["slept"] * 20
    assert max(log[0][1] for log in logs) < 1.0, "woken late"
    assert min(log[0][1] for log in logs) >= 0, "woken early"
    threads = [run["thread_id"] for run in runs]
    system.assert_linear(threads)
    system.assert_indexed(opensearch_url, threads)
    assert system.db.waits.count_documents({"thread_id": {"$in": threads}, "status": "answered"}) == 20
    assert system.db.runs.count_documents({"thread_id": {"$in": threads}}) == 40, "woken more than once"


def test_signals_before_and_after_their_waits(system: Any) -> None:
    run = system.start("listener", {"count": 3})
    asleep(system, run)
    signal(system, run, "other", "not waited for")
    for number in (1, 2, 3):
        signal(system, run, "reply", number)  # the second and third come before the node waits for them
    assert finished(system, run) == [[["received", 1], ["received", 2], ["received", 3]]]
    states = Counter(s["state"] for s in system.db.signals.find({"thread_id": run["thread_id"]}))
    assert states == {"taken": 3, "free": 1}
    system.assert_linear([run["thread_id"]])


def test_a_timeout_is_an_outcome(system: Any) -> None:
    run = system.start("listener", {"count": 2, "timeout_s": 1})
    asleep(system, run)
    assert finished(system, run) == [[["timed out"], ["timed out"]]]


@pytest.mark.parametrize(
    ("end", "expected"),
    [("reply", ["Received", "reply"]), ("answer", ["Answered", None]), ("clock", ["TimedOut", None])],
)
def test_whichever_comes_first(system: Any, end: str, expected: list[Any]) -> None:
    run = system.start("either", {"timeout_s": 1 if end == "clock" else 600})
    asleep(system, run)
    (wait,) = waits_of(system, run)
    if end == "reply":
        signal(system, run, "reply", None)
    elif end == "answer":
        answer = system.http.post(f"/approvals/{wait['_id']}", json={"answer": "yes", "by": "ada"})
        assert answer.status_code == 202, answer.text
    assert finished(system, run) == [[expected]]


def test_a_person_is_asked(system: Any) -> None:
    run = system.start("asker", {})
    asleep(system, run)
    (found,) = system.http.get("/approvals", params={"thread_id": run["thread_id"]}).json()["approvals"]
    assert (found["question"], found["assigned_to"], found["action"]) == ("May I?", "clerk", {"do": "it"})
    path = f"/approvals/{found['approval_id']}"
    wrong = system.http.post(path, json={"answer": {"approved": "maybe"}, "by": "eve"})
    assert wrong.status_code == 422
    assert "/answer/approved" in wrong.text
    assert waits_of(system, run)[0]["status"] == "open"
    assert system.http.post(path, json=APPROVED).status_code == 202
    twice = system.http.post(path, json={"answer": {"approved": False}, "by": "eve"})
    assert twice.status_code == 409
    assert "ada" in twice.text
    assert finished(system, run) == [[["answered", {"approved": True}, "ada"]]]
    assert system.http.get("/approvals", params={"thread_id": run["thread_id"]}).json()["approvals"] == []


def test_a_question_goes_to_the_next_person_and_expires(system: Any) -> None:
    run = system.start("asker", {"expires_s": 1, "escalate": True})
    asleep(system, run)
    chief = until_blocking(
        lambda: next((w for w in waits_of(system, run) if w["assigned_to"] == "chief"), None),
        "the question goes to the chief",
    )
    assert (chief["status"], chief["escalations"]) == ("open", 1)
    assert finished(system, run) == [[["expired"]]]


def test_a_branch_that_wakes_leaves_the_deadlines_of_its_siblings(system: Any) -> None:
    run = system.start("branches", {"sleep_s": 4, "expires_s": 600})
    asleep(system, run)
    before = {wait["kind"]: wait for wait in waits_of(system, run)}
    assert set(before) == {"timer", "event", "approval"}
    signal(system, run, "reply", "hello")
    until_blocking(
        lambda: waits_of(system, run) and [w for w in waits_of(system, run) if w["status"] == "answered"],
        "one wait is answered",
    )
    time.sleep(1)  # so that a count that starts again would be seen
    assert system.http.post(f"/approvals/{before['approval']['_id']}", json=APPROVED).status_code == 202
    (log,) = finished(system, run)
    assert sorted(entry[0] for entry in log) == ["answered", "received", "slept"]
    late = next(entry[1] for entry in log if entry[0] == "slept")
    assert 0 <= late < 1.0, "the sleep was counted again"
    after = {wait["kind"]: wait for wait in waits_of(system, run)}
    assert {k: w["_id"] for k, w in after.items()} == {k: w["_id"] for k, w in before.items()}
    system.assert_linear([run["thread_id"]])


def test_what_woke_a_node_that_then_failed_is_not_lost(system: Any, tmp_path: Path) -> None:
    file = tmp_path / "stone"
    file.touch()
    run = system.start("stumbling", {"file": str(file)})
    asleep(system, run)
    signal(system, run, "reply", "only once")
    failed = until_blocking(
        lambda: system.db.runs.find_one({"thread_id": run["thread_id"], "status": "error"}),
        "the run that was woken has failed",
    )
    assert "stumbled" in failed["error"]["message"]
    file.unlink()
    again = system.start("stumbling", None, thread=run["thread_id"])
    system.until_ended(again)
    assert finished(system, run) == [[["received", "only once"]]]
    assert system.db.signals.count_documents({"thread_id": run["thread_id"]}) == 1
    system.assert_linear([run["thread_id"]])


def test_a_plain_resume_answers_too(system: Any) -> None:
    run = system.start("asker", {})
    asleep(system, run)
    system.start("asker", None, thread=run["thread_id"], command={"resume": {"approved": False}})
    assert finished(system, run) == [[["answered", {"approved": False}, None]]]
    (wait,) = waits_of(system, run)
    assert wait["status"] == "closed"


def test_a_waking_run_whose_wait_is_over_changes_nothing(system: Any) -> None:
    """The thread went on with a new input while the clock was waking it."""
    run = system.start("sleeper", {"sleep_s": 600})
    asleep(system, run)
    (wait,) = waits_of(system, run)
    other = system.start("chain", {"n": 1}, thread=run["thread_id"])
    system.until_ended(other)
    assert waits_of(system, run)[0]["status"] == "closed"
    # As a scheduler that read the wait a moment ago would do:
    system.db.waits.update_one({"_id": wait["_id"]}, {"$set": {"status": "open", "due_at": datetime.now(UTC)}})
    woken = until_blocking(
        lambda: system.db.runs.find_one({"wait_id": wait["_id"], "settled": True}),
        "the run that was woken too late is settled",
    )
    assert woken["status"] == "cancelled"
    assert system.http.get(f"/threads/{run['thread_id']}").json()["status"] == "idle"
    system.assert_linear([run["thread_id"]])


@pytest.mark.parametrize("victim", ["agent_step", "scheduler", "gateway"])
def test_kill_a_service_while_a_hundred_fall_asleep_and_wake(system: Any, opensearch_url: str, victim: str) -> None:
    sleepers = [system.start("sleeper", {"sleep_s": 2}) for _ in range(50)]
    listeners = [system.start("listener", {"count": 2, "timeout_s": 60}) for _ in range(50)]
    threads = [run["thread_id"] for run in [*sleepers, *listeners]]
    until_blocking(lambda: system.db.waits.count_documents({"thread_id": {"$in": threads}}) >= 30, "thirty are asleep")
    system.services[victim].kill()
    system.services[victim].start()
    for run in listeners:
        signal(system, run, "reply", 1)
        signal(system, run, "reply", 2)
    logs = finished(system, *sleepers, *listeners, timeout_s=120)
    assert [log[0][0] for log in logs[:50]] == ["slept"] * 50
    assert logs[50:] == [[["received", 1], ["received", 2]]] * 50
    system.assert_linear(threads)
    system.assert_indexed(opensearch_url, threads, timeout_s=60)
    waking = Counter(
        r["wait_id"] for r in system.db.runs.find({"thread_id": {"$in": threads}, "wait_id": {"$exists": True}})
    )
    assert set(waking.values()) == {1}
    assert system.db.waits.count_documents({"thread_id": {"$in": threads}, "status": "open"}) == 0
