"""The command line against a running system: start, wait, look, answer, cancel, find."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

from perdure.cli.__main__ import main
from perdure.cli.provision import provision
from perdure.local.services import Services
from perdure.local.stack import Stack

GRAPHS = Path(__file__).resolve().parents[1] / "e2e" / "graphs"

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def gateway_url(stack: Stack) -> Iterator[str]:
    """All services with the graphs of the end-to-end tests and a database of their own."""
    uri = stack.environment()["PERDURE_MONGODB_URI"].rpartition("/")[0] + f"/cli_{uuid.uuid4().hex[:8]}"
    settings = {"PERDURE_MONGODB_URI": uri, "PERDURE_LANGGRAPH_CONFIG": str(GRAPHS / "langgraph.json")}
    provision(stack.environment() | settings)
    with Services.of(stack, env=settings, cwd=GRAPHS) as services:
        yield services.gateway_url


@pytest.fixture
def raw(
    gateway_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: (exit status, stdout, stderr)."""
    monkeypatch.setenv("PERDURE_URL", gateway_url)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perdure", *arguments])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def perdure(raw: Callable[..., tuple[int, str, str]]) -> Run:
    """Run a command with ``--json``; what it wrote to stdout, parsed."""

    def run(*arguments: str) -> Any:
        status, out, err = raw(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    return run


def until_found(perdure: Run, *arguments: str) -> list[dict[str, Any]]:
    return until_blocking(lambda: perdure("search", *arguments)["items"], f"states with {arguments}")


def until_listed(perdure: Run, thread: str) -> None:
    """The index of threads refreshes apart from that of states."""

    def listed() -> list[str]:
        return [one["thread_id"] for one in perdure("threads", "list", "--graph", "ask", "--limit", "200")]

    until_blocking(listed, f"thread {thread} is listed", holds=lambda threads: thread in threads)


def test_waiting_shows_what_came_of_the_run(perdure: Run, raw: Callable[..., tuple[int, str, str]]) -> None:
    asked = perdure("runs", "start", "ask", "--wait", "--timeout", "60")
    thread, run = asked["thread_id"], asked["run_id"]
    status, shown, _ = raw("resume", thread, "yes", "--wait", "--timeout", "60")
    assert (status, "second" in shown) == (0, True), "what it waits for"
    status, shown, _ = raw("resume", thread, "no", "--wait", "--timeout", "60")
    assert status == 0
    assert '"answers": [' in shown
    assert '"no"' in shown
    newest = perdure("runs", "show", thread)
    assert newest["status"] == "success"
    until_found(perdure, "--run", run)
    assert perdure("runs", "show", run)["run_id"] == run
    assert perdure("runs", "show", thread, run)["run_id"] == run
    status, _, err = raw("cancel", thread)
    assert status == 1
    assert newest["run_id"] in err, "the newest run has ended, and that is said of it"
    status, _, err = raw("runs", "show", "nobody-knows-it")
    assert status == 1
    assert "name THREAD RUN" in err


def test_cancel_takes_a_thread(perdure: Run) -> None:
    thread = perdure("runs", "start", "chain", "--input", '{"n": 50, "delay_s": 1}')["thread_id"]
    assert perdure("cancel", thread)["thread_id"] == thread


def test_a_run_waits_is_answered_and_ends(perdure: Run) -> None:
    run = perdure("runs", "start", "ask", "--input", "{}", "--wait", "--timeout", "60")
    thread = run["thread_id"]
    assert run["status"] == "interrupted"
    assert [i["value"] for i in run["interrupts"]] == [{"question": "first"}]
    assert perdure("threads", "show", thread)["status"] == "interrupted"
    again = perdure("resume", thread, "yes", "--wait", "--timeout", "60")
    assert [i["value"] for i in again["interrupts"]] == [{"question": "second"}]
    last = perdure("resume", thread, '{"amount": 5}', "--wait", "--timeout", "60")
    assert last["status"] == "success"
    state = perdure("state", thread)
    assert state["values"]["answers"] == ["yes", {"amount": 5}]
    assert state["next"] == []
    runs = perdure("runs", "list", thread)
    assert [r["run_id"] for r in runs] == [last["run_id"], again["run_id"], run["run_id"]]
    assert perdure("runs", "show", thread, run["run_id"])["run_id"] == run["run_id"]
    history = perdure("history", thread, "--limit", "100")
    assert history[0]["checkpoint"] == state["checkpoint"]
    past = history[-1]["checkpoint"]["checkpoint_id"]
    assert perdure("state", thread, "--checkpoint", past)["checkpoint"]["checkpoint_id"] == past
    found = until_found(perdure, "--thread", thread, "--node", "finish", "--since", "1h")
    assert {item["thread_id"] for item in found} == {thread}
    until_listed(perdure, thread)


def test_a_run_that_fails_is_exit_status_one(raw: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = raw("runs", "start", "fails", "--wait", "--timeout", "60", "--json")
    assert status == 1
    assert json.loads(out)["status"] == "error"


def test_a_run_is_cancelled(perdure: Run) -> None:
    run = perdure("runs", "start", "vanishing", "--wait", "--timeout", "60")
    assert run["status"] == "interrupted"
    active = perdure("runs", "start", "slow", "--input", '{"seconds": 30}', "--idempotency-key", uuid.uuid4().hex)
    perdure("cancel", active["thread_id"], active["run_id"])

    def status() -> str:
        return str(perdure("runs", "show", active["thread_id"], active["run_id"])["perdure_status"])

    ended = until_blocking(status, "the run ends", holds=lambda now: now not in ("pending", "running"))
    assert ended == "cancelled"


def test_the_same_key_starts_one_run(perdure: Run) -> None:
    key = uuid.uuid4().hex
    arguments = ("runs", "start", "ask", "--input", "{}", "--idempotency-key", key)
    assert perdure(*arguments)["run_id"] == perdure(*arguments)["run_id"]


def test_a_thread_is_made_and_used(perdure: Run) -> None:
    name = f"cli:{uuid.uuid4().hex}"
    made = perdure("threads", "create", "--thread", name, "--metadata", '{"team": "whales"}')
    assert (made["thread_id"], made["metadata"]["team"]) == (name, "whales")
    run = perdure("runs", "start", "ask", "--thread", name, "--wait", "--timeout", "60")
    assert (run["thread_id"], run["status"]) == (name, "interrupted")


def test_people_get_tables(raw: Callable[..., tuple[int, str, str]], perdure: Run) -> None:
    thread = perdure("runs", "start", "ask", "--wait")["thread_id"]
    status, out, _ = raw("threads", "show", thread)
    assert status == 0
    assert thread in out
    assert "interrupted" in out
    assert "\x1b" not in out
    status, out, _ = raw("history", thread)
    assert out.splitlines()[0].split() == ["checkpoint", "step", "source", "next", "created"]
    status, out, _ = raw("state", thread)
    assert "asks" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("runs", "start", "no-such-graph"), "no-such-graph"),
        (("threads", "show", "nobody"), "nobody"),
        (("runs", "start", "ask", "--thread", "nobody"), "nobody"),
        (("search", "--status", "tired"), "tired"),
        (("search", "a ndoe:Login"), "    a ndoe:Login\n      ^"),
        (("state", "nobody"), "nobody"),
    ],
)
def test_what_the_gateway_refuses_is_explained(
    raw: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], named: str
) -> None:
    status, out, err = raw(*arguments)
    assert (status, out) == (1, "")
    assert named in err
    assert "HTTP 4" in err


def test_an_answer_to_a_thread_without_runs_is_explained(
    raw: Callable[..., tuple[int, str, str]], perdure: Run
) -> None:
    thread = perdure("threads", "create")["thread_id"]
    status, _, err = raw("resume", thread, "yes")
    assert status == 1
    assert "has no run; start one" in err
