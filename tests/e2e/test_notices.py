"""The webhook of a run, through an agent that sleeps: told at its end, however many runs that took."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.polling import until_blocking
from tests.support.web import RecordingServer, recording_server


@pytest.fixture(scope="module")
def hooks() -> Iterator[RecordingServer]:
    with recording_server() as server:
        yield server


def test_the_webhook_of_a_run_that_sleeps(system: Any, hooks: RecordingServer) -> None:
    url = hooks.url("/slept")
    run = system.start("sleeper", {"sleep_s": 1}, webhook=url)
    (told,) = until_blocking(lambda: hooks.bodies("/slept"), "the webhook of the end", explain=hooks.bodies)
    assert told["type"] == "run.completed"
    assert told["data"]["thread_id"] == run["thread_id"]
    assert told["data"]["run_id"] != run["run_id"], "another run woke the thread and came to its end"
    listed = system.http.get("/deliveries", params={"thread_id": run["thread_id"]}).json()["items"]
    assert [one["subscription_id"] for one in listed] == [f"run:{run['run_id']}"]


def test_a_failure_and_a_completion_of_an_assistant(system: Any, hooks: RecordingServer) -> None:
    url = hooks.url("/all")
    body = {"scope": "assistant", "scope_id": "chain", "kinds": ["completed", "failed"], "channel": "webhook"}
    made = system.http.post("/subscriptions", json=body | {"target": url})
    assert made.status_code == 201, made.text
    runs = [system.start("chain", {}) for _ in range(5)]
    system.until_ended(*runs)
    until_blocking(lambda: hooks.bodies("/all"), "five webhooks", holds=lambda told: len(told) >= 5)
    assert {one["data"]["run_id"] for one in hooks.bodies("/all")} == {run["run_id"] for run in runs}
    assert len(hooks.bodies("/all")) == 5


def test_a_question_goes_to_the_next_person_and_each_is_told(system: Any, hooks: RecordingServer) -> None:
    url = hooks.url("/asked")
    kinds = ["approval_wanted", "approval_expiring"]
    body = {"scope": "assistant", "scope_id": "asker", "kinds": kinds, "channel": "webhook", "target": url}
    assert system.http.post("/subscriptions", json=body).status_code == 201
    run = system.start("asker", {"expires_s": 4, "escalate": True})
    until_blocking(lambda: hooks.bodies("/asked"), "four webhooks", holds=lambda told: len(told) >= 4)
    told = [(one["type"], one["data"]["assigned_to"]) for one in hooks.bodies("/asked")]
    assert sorted(told) == [
        ("approval.expiring", "chief"),
        ("approval.expiring", "clerk"),
        ("approval.wanted", "chief"),
        ("approval.wanted", "clerk"),
    ]
    assert {one["data"]["action_digest"] for one in hooks.bodies("/asked")} == {
        hooks.bodies("/asked")[0]["data"]["action_digest"]
    }
    (approval,) = {one["data"]["approval_id"] for one in hooks.bodies("/asked")}
    assert approval.startswith(run["thread_id"])
