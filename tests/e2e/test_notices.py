"""The webhook of a run, through an agent that sleeps: told at its end, however many runs that took."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Hooks(ThreadingHTTPServer):
    """A web server that takes webhooks."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        super().__init__(("127.0.0.1", 0), _Hook)

    def of(self, path: str) -> list[dict[str, Any]]:
        return [body for where, body in self.got if where == path]


class _Hook(BaseHTTPRequestHandler):
    server: Hooks

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.got.append((self.path, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hooks() -> Iterator[Hooks]:
    server = Hooks()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_webhook_of_a_run_that_sleeps(system: Any, hooks: Hooks) -> None:
    url = f"http://127.0.0.1:{hooks.server_address[1]}/slept"
    run = system.start("sleeper", {"sleep_s": 1}, webhook=url)
    (told,) = system.until(lambda: hooks.of("/slept"), 60, lambda: hooks.got)
    assert told["type"] == "run.completed"
    assert told["data"]["thread_id"] == run["thread_id"]
    assert told["data"]["run_id"] != run["run_id"], "another run woke the thread and came to its end"
    listed = system.http.get("/deliveries", params={"thread_id": run["thread_id"]}).json()["items"]
    assert [one["subscription_id"] for one in listed] == [f"run:{run['run_id']}"]


def test_a_failure_and_a_completion_of_an_assistant(system: Any, hooks: Hooks) -> None:
    url = f"http://127.0.0.1:{hooks.server_address[1]}/all"
    body = {"scope": "assistant", "scope_id": "chain", "kinds": ["completed", "failed"], "channel": "webhook"}
    made = system.http.post("/subscriptions", json=body | {"target": url})
    assert made.status_code == 201, made.text
    runs = [system.start("chain", {}) for _ in range(5)]
    system.until_ended(*runs)
    system.until(lambda: len(hooks.of("/all")) >= 5, 60, lambda: hooks.got)
    assert {one["data"]["run_id"] for one in hooks.of("/all")} == {run["run_id"] for run in runs}
    assert len(hooks.of("/all")) == 5


def test_a_question_goes_to_the_next_person_and_each_is_told(system: Any, hooks: Hooks) -> None:
    url = f"http://127.0.0.1:{hooks.server_address[1]}/asked"
    kinds = ["approval_wanted", "approval_expiring"]
    body = {"scope": "assistant", "scope_id": "asker", "kinds": kinds, "channel": "webhook", "target": url}
    assert system.http.post("/subscriptions", json=body).status_code == 201
    run = system.start("asker", {"expires_s": 4, "escalate": True})
    system.until(lambda: len(hooks.of("/asked")) >= 4, 60, lambda: hooks.got)
    told = [(one["type"], one["data"]["assigned_to"]) for one in hooks.of("/asked")]
    assert sorted(told) == [
        ("approval.expiring", "chief"),
        ("approval.expiring", "clerk"),
        ("approval.wanted", "chief"),
        ("approval.wanted", "clerk"),
    ]
    assert {one["data"]["action_digest"] for one in hooks.of("/asked")} == {
        hooks.of("/asked")[0]["data"]["action_digest"]
    }
    (approval,) = {one["data"]["approval_id"] for one in hooks.of("/asked")}
    assert approval.startswith(run["thread_id"])
