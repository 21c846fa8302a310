"""Webhooks as the LangGraph Agent Server posts them: the run with its values, its error, and each end once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks import Webhook
from tests.support.polling import until_blocking
from tests.support.web import RecordingServer, recording_server

pytestmark = pytest.mark.timeout(240)

LANGGRAPH = {"webhook_format": "langgraph"}


@pytest.fixture(scope="module")
def hooks() -> Iterator[RecordingServer]:
    with recording_server() as server:
        yield server


@pytest.fixture(scope="module")
def system(start_module_system: Any) -> Any:
    return start_module_system(settings={"PERDURE_NOTIFIER_ALLOWED_TARGETS": '["127.0.0.0/8"]'})


def told(hooks: RecordingServer, path: str, count: int) -> list[Any]:
    """The bodies that came to a path, once there are so many."""

    def look() -> list[Any]:
        return [json.loads(request.body) for request in hooks.requests if request.path == path]

    return until_blocking(look, f"{count} webhooks", holds=lambda found: len(found) >= count)


def test_the_end_of_a_run(system: Any, hooks: RecordingServer) -> None:
    run = system.start("chain", {"n": 2}, webhook=hooks.url("/success"), metadata={"team": "red"}, **LANGGRAPH)
    (body,) = told(hooks, "/success", 1)
    assert {name: body[name] for name in ("run_id", "thread_id", "assistant_id", "status", "multitask_strategy")} == {
        "run_id": run["run_id"], "thread_id": run["thread_id"], "assistant_id": run["assistant_id"], "status": "success",
        "multitask_strategy": "enqueue",
    }  # fmt: skip
    assert body["values"] == system.values(run["thread_id"])
    assert body["kwargs"]["input"] == {"n": 2}
    assert body["metadata"]["team"] == "red"
    assert body["run_started_at"] <= body["run_ended_at"] <= body["webhook_sent_at"]
    assert "error" not in body


def test_a_run_that_fails(system: Any, hooks: RecordingServer) -> None:
    run = system.start("fails", {}, webhook=hooks.url("/error"), **LANGGRAPH)
    (body,) = told(hooks, "/error", 1)
    error = system.run(run)["error"]
    assert (body["status"], body["error"]) == ("error", {"error": error["type"], "message": error["message"]})


def test_a_run_that_asks_is_told_once_and_its_end_again(system: Any, hooks: RecordingServer) -> None:
    run = system.start("ask", {}, webhook=hooks.url("/asked"), **LANGGRAPH)
    assert [one["status"] for one in told(hooks, "/asked", 1)] == ["interrupted"]
    for number, answer in enumerate(("one", "two"), 1):
        (question,) = system.http.get("/approvals", params={"thread_id": run["thread_id"]}).json()["approvals"]
        system.http.post(
            f"/approvals/{question['approval_id']}", json={"answer": answer, "by": "ada"}
        ).raise_for_status()
        bodies = told(hooks, "/asked", number + 1)
    assert [one["status"] for one in bodies] == ["interrupted", "interrupted", "success"]
    assert bodies[-1]["values"]["answers"] == ["one", "two"]
    assert len({one["run_id"] for one in bodies}) == 3


def test_a_run_that_stops_at_a_break_point(system: Any, hooks: RecordingServer) -> None:
    stops = {"interrupt_after": ["odd"], "webhook": hooks.url("/paused")}
    run = system.start("chain", {"n": 2}, **stops, **LANGGRAPH)
    (body,) = told(hooks, "/paused", 1)
    assert (body["run_id"], body["status"]) == (run["run_id"], "interrupted")
    assert body["values"] == system.values(run["thread_id"])
    goes_on = system.start("chain", None, run["thread_id"], webhook=hooks.url("/paused"), **LANGGRAPH)
    assert [one["status"] for one in told(hooks, "/paused", 2)] == ["interrupted", "success"]
    standard = system.start("chain", {"n": 2}, interrupt_before=["even"], webhook=hooks.url("/standard"))
    (notice,) = told(hooks, "/standard", 1)
    assert (notice["type"], notice["data"]["run_id"]) == ("run.paused", standard["run_id"])
    assert (notice["data"]["status"], notice["data"]["nodes"]) == ("interrupted", ["even"])
    assert goes_on["run_id"] != run["run_id"]


def test_a_subscription_in_this_format(system: Any, hooks: RecordingServer) -> None:
    run = system.start("slow", {"seconds": 2})
    body = {
        "scope": "thread", "scope_id": run["thread_id"], "kinds": ["completed", "approval_wanted"], "channel": "webhook",
        "target": hooks.url("/subscribed"), "format": "langgraph",
    }  # fmt: skip
    made = system.http.post("/subscriptions", json=body).raise_for_status().json()
    assert made["format"] == "langgraph"
    (told_body,) = told(hooks, "/subscribed", 1)
    assert (told_body["run_id"], told_body["values"]) == (run["run_id"], {"log": ["waits"]} | told_body["values"])
    (request,) = [one for one in hooks.requests if one.path == "/subscribed"]
    assert Webhook(made["secret"]).verify(request.body, request.headers)["run_id"] == run["run_id"]
    for wrong in ({"kinds": ["stuck"]}, {"digest_s": 60}, {"channel": "email", "target": "a@example.com"}):
        refused = system.http.post("/subscriptions", json=body | wrong)
        assert [one["pointer"] for one in refused.json()["errors"]] == ["/format"], wrong
    patched = system.http.patch(f"/subscriptions/{made['subscription_id']}", json={"kinds": ["stuck"]})
    assert patched.status_code == 422
    back = system.http.patch(
        f"/subscriptions/{made['subscription_id']}", json={"format": "standard", "kinds": ["stuck"]}
    )
    assert back.json()["format"] == "standard"
