"""Following an agent through its waits: from the run that a client started to the agent's end, over HTTP alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.polling import until_blocking
from tests.support.web import RecordingServer, recording_server

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def hooks() -> Iterator[RecordingServer]:
    with recording_server() as server:
        yield server


def join(system: Any, run: Any, **query: Any) -> Any:
    return system.http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/join", params=query, timeout=90)


def until_interrupted(system: Any, run: Any) -> None:
    until_blocking(
        lambda: system.run(run)["status"] == "interrupted" and system.run(run)["continued_by"] is None,
        "the run is interrupted, and the last",
    )


def test_the_run_that_a_client_started_leads_to_the_end_of_the_agent(system: Any) -> None:
    started = system.start("listener", {"count": 2})
    assert started["first_run_id"] == started["last_run_id"] == started["run_id"]
    assert started["continued_by"] is None
    until_interrupted(system, started)
    for number in (1, 2):
        path = f"/threads/{started['thread_id']}/signals/reply"
        assert system.http.post(path, json={"payload": number}).status_code == 202
    answer = join(system, started, follow="thread")
    assert answer.status_code == 200, answer.text
    assert answer.json()["log"] == [["received", 1], ["received", 2]]
    first = system.run(started)
    assert (first["status"], first["last_run_status"]) == ("interrupted", "success")
    chain = [first]
    while (following := chain[-1]["continued_by"]) is not None:
        chain.append(system.run({"thread_id": started["thread_id"], "run_id": following}))
        assert len(chain) <= 3
    assert [run["status"] for run in chain] == ["interrupted", "interrupted", "success"]
    assert {run["first_run_id"] for run in chain} == {started["run_id"]}
    assert {run["last_run_id"] for run in chain} == {chain[-1]["run_id"]}
    assert answer.headers["location"].endswith(started["run_id"]), "the answer began while the agent worked"
    again = join(system, started, follow="thread")
    assert again.json() == answer.json()
    assert again.headers["location"].endswith(chain[-1]["run_id"])
    listed = system.http.get(f"/threads/{started['thread_id']}/runs").json()
    assert {run["run_id"]: run["continued_by"] for run in listed} == {r["run_id"]: r["continued_by"] for r in chain}


def test_join_without_follow_ends_with_the_run(system: Any) -> None:
    started = system.start("listener", {"count": 1})
    answer = join(system, started)
    assert (answer.status_code, answer.json()["__interrupt__"]) == (200, [])


def test_a_thread_that_still_waits_is_answered_202_with_its_newest_run(system: Any) -> None:
    started = system.start("listener", {"count": 2})
    until_interrupted(system, started)
    system.http.post(f"/threads/{started['thread_id']}/signals/reply", json={"payload": 1})
    until_blocking(
        lambda: system.run(started)["last_run_status"] == "interrupted" and system.run(started)["continued_by"],
        "the run that the signal woke is interrupted",
    )
    answer = join(system, started, follow="thread", timeout=0.5)
    assert answer.status_code == 202
    assert answer.json()["run_id"] == system.run(started)["continued_by"]
    assert answer.headers["location"].endswith(answer.json()["run_id"])
    wrong = join(system, started, follow="threads")
    assert wrong.status_code == 422
    assert "follow" in wrong.text


def test_a_client_that_resumes_continues_the_chain_and_a_retry_does(system: Any, tmp_path: Any) -> None:
    asked = system.start("asker", {})
    until_interrupted(system, asked)
    resumed = system.start("asker", None, thread=asked["thread_id"], command={"resume": {"approved": True}})
    assert resumed["first_run_id"] == asked["run_id"]
    system.until_ended(resumed)
    assert system.run(asked)["continued_by"] == resumed["run_id"]
    fresh = system.start("chain", {"n": 1}, thread=asked["thread_id"])
    assert fresh["first_run_id"] == fresh["run_id"], "a new input begins a chain of its own"

    file = tmp_path / "stone"
    file.touch()
    stumbled = system.start("stumbling", {"file": str(file)})
    until_interrupted(system, stumbled)
    system.http.post(f"/threads/{stumbled['thread_id']}/signals/reply", json={"payload": 1})
    failed = join(system, stumbled, follow="thread").json()
    assert "stumbled" in failed["__error__"]["message"]
    last = system.run(stumbled)["last_run_id"]
    file.unlink()
    again = system.http.post(f"/threads/{stumbled['thread_id']}/runs/{last}/retry").json()
    assert again["first_run_id"] == stumbled["run_id"]
    assert join(system, stumbled, follow="thread").json()["log"] == [["received", 1]]
    assert system.run(stumbled)["last_run_id"] == again["run_id"]


def test_only_questions_to_people_are_interrupts(system: Any) -> None:
    run = system.start("branches", {"sleep_s": 600})
    until_interrupted(system, run)
    thread = system.http.get(f"/threads/{run['thread_id']}").json()
    state = system.http.get(f"/threads/{run['thread_id']}/state").json()
    (shown,) = [one for interrupts in thread["interrupts"].values() for one in interrupts]
    assert shown["value"]["question"]["question"] == "May I?"
    assert state["interrupts"] == [shown]
    assert [one for task in state["tasks"] for one in task["interrupts"]] == [shown]
    assert join(system, run).json()["__interrupt__"] == [shown]
    waits = {wait["kind"]: wait for wait in thread["waits"]}
    assert set(waits) == {"timer", "event"}
    assert (waits["timer"]["node"], waits["event"]["events"]) == ("sleeps", ["reply"])
    assert waits["timer"]["due_at"] is not None
    assert state["waits"] == thread["waits"]
    stored = {wait["_id"] for wait in system.db.waits.find({"thread_id": run["thread_id"], "status": "open"})}
    assert {wait["wait_id"] for wait in thread["waits"]} < stored


def test_the_webhook_names_the_first_run_and_is_sent_after_a_client_resumed(
    system: Any, hooks: RecordingServer
) -> None:
    asked = system.start("asker", {}, webhook=hooks.url("/ended"))
    (wanted,) = until_blocking(
        lambda: [one for one in hooks.bodies() if one["type"] == "approval.wanted"], "the webhook of the question", 60
    )
    assert wanted["data"]["first_run_id"] == asked["run_id"]
    until_interrupted(system, asked)
    resumed = system.start("asker", None, thread=asked["thread_id"], command={"resume": {"approved": True}})
    (body,) = until_blocking(
        lambda: [one for one in hooks.bodies() if one["type"] == "run.completed"], "the webhook of the end", 60
    )
    assert body["data"]["run_id"] == resumed["run_id"]
    assert body["data"]["first_run_id"] == asked["run_id"]
