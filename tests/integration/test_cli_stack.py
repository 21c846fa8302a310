"""``perdure up | status | logs | topics | down`` as a person types them, on the session's servers."""

from __future__ import annotations

import json
import re
import signal
import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.support.polling import until_blocking
from tests.support.project import Project

from perdure.local.stack import Stack
from perdure.schemas.index import STATES_WRITE

DEADLINE_S = 120.0
AGENT = """
from typing import TypedDict
from langgraph.graph import END, START, StateGraph

class State(TypedDict, total=False):
    greeting: str

builder = StateGraph(State)
builder.add_node("greet", lambda state: {"greeting": "hello"})
builder.add_edge(START, "greet")
builder.add_edge("greet", END)
graph = builder.compile()
"""


@pytest.fixture
def project(stack: Stack, tmp_path: Path) -> Iterator[Project]:
    """A project with one graph, on the session's servers; stopped at the end."""
    found = Project.create(tmp_path, stack, AGENT, DEADLINE_S)
    yield found
    assert found("down").returncode == 0


@pytest.fixture
def perdure(project: Project) -> Project:
    return project


def test_up_status_logs_down(perdure: Project) -> None:
    started = perdure("up", "--json")
    assert started.returncode == 0, started.stderr
    urls = json.loads(started.stdout)
    assert {"gateway", "console", "docs", "kafka", "mongodb", "opensearch"} == urls.keys()
    with urllib.request.urlopen(f"{urls['gateway']}/ready", timeout=5) as answer:
        assert json.load(answer)["ready"] is True

    again = perdure("up", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == urls
    assert "gateway: already running" in again.stderr

    ran = perdure("runs", "start", "greeter", "--wait", "--json", "--url", urls["gateway"])
    assert ran.returncode == 0, ran.stderr
    thread = json.loads(ran.stdout)["thread_id"]
    shown = perdure("state", thread, "--json", "--url", urls["gateway"])
    assert json.loads(shown.stdout)["values"] == {"greeting": "hello"}

    status = perdure("status", "--json")
    assert status.returncode == 0, status.stdout
    states = {one["name"]: one["state"] for one in json.loads(status.stdout)}
    assert {states[name] for name in ("kafka", "mongodb", "opensearch")} == {"external"}
    assert {states[name] for name in ("gateway", "agent_step", "indexer", "scheduler")} == {"ready"}

    log = perdure("logs", "gateway", "--lines", "500")
    assert "gateway.listening" in log.stdout
    assert '{"' not in log.stdout
    agent = [json.loads(line)["record"] for line in perdure("logs", "--thread", thread, "--json").stdout.splitlines()]
    assert [one["event"] for one in agent if one["service"] == "agent-step"] == ["run.started", "run.ended"]
    every = perdure("logs", "--json", "--lines", "5")
    assert {"gateway", "agent_step"} <= {json.loads(line)["source"] for line in every.stdout.splitlines()}

    stopped = perdure("down", "--json")
    assert set(json.loads(stopped.stdout)["stopped"]) >= {"gateway", "agent_step", "indexer", "scheduler"}
    away = perdure("threads", "create", "--url", urls["gateway"])
    assert away.returncode == 1
    assert "start it with `perdure up`" in away.stderr


def subject_of_session(url: str, link: str, subject: str) -> None:
    """Sign in by a link, as the form of its page does; the session acts as ``subject``, and reads what its key may."""
    with httpx.Client(headers={"Origin": url}) as browser:
        answer = browser.post(link)
        assert answer.status_code == 200, answer.text
        assert f"as {subject}" in answer.text
        (cookie,) = [one.split(";")[0] for one in answer.headers.get_list("set-cookie")]
        assert httpx.get(f"{url}/info", headers={"Cookie": cookie}).status_code == 200


@pytest.mark.timeout(400)
def test_up_secure_asks_everybody_and_makes_a_key_for_its_folder(perdure: Project) -> None:
    started = perdure("up", "--secure", "--json")
    assert started.returncode == 0, started.stderr
    url = json.loads(started.stdout)["gateway"]
    file = perdure.data / "api-key"
    assert str(file) in started.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert httpx.get(f"{url}/info").status_code == 401
    made = perdure("threads", "create", "--json", "--url", url)
    assert made.returncode == 0, made.stderr

    first = re.search(rf"{url}/auth/ticket/\S+", started.stderr)
    assert first, "a first session of the console"
    subject_of_session(url, first[0], "key:local")

    created = perdure("keys", "create", "ci", "--scope", "reader", "--expires", "90d", "--json")
    assert created.returncode == 0, created.stderr
    key = json.loads(created.stdout)
    assert "runs:read" in key["scopes"]
    thread = json.loads(made.stdout)["thread_id"]
    shown = perdure("threads", "show", thread, "--json", "--url", url, PERDURE_API_KEY=key["key"])
    assert shown.returncode == 0, shown.stderr
    refused = perdure("threads", "create", "--url", url, PERDURE_API_KEY=key["key"])
    assert refused.returncode == 1
    assert "key:ci lacks the scope threads:write" in refused.stderr
    made_link = perdure("keys", "ticket", key["key_id"], "--url", url, "--json")
    assert made_link.returncode == 0, made_link.stderr
    link = json.loads(made_link.stdout)["url"]
    subject_of_session(url, link, "key:ci")
    assert httpx.post(link, headers={"Origin": url}).status_code == 410, "a ticket opens one session"
    assert perdure("keys", "revoke", key["key_id"]).returncode == 0
    dead = perdure("keys", "ticket", key["key_id"], "--url", url)
    assert dead.returncode == 1
    assert "was revoked at" in dead.stderr
    assert "'runs:all' is no scope" in perdure("keys", "create", "x", "--scope", "runs:all").stderr


def test_topics(perdure: Project) -> None:
    assert perdure("topics", "apply", "--json").returncode == 0
    second = perdure("topics", "apply", "--json")
    assert json.loads(second.stdout) == {"dry_run": False, "changes": []}
    dry = perdure("topics", "apply", "--dry-run")
    assert dry.stdout.strip() == "no difference"
    listed = {row["topic"]: row for row in json.loads(perdure("topics", "list", "--json").stdout)}
    assert listed["perdure.commands"]["partitions"] == listed["perdure.commands"]["declared"] == 12
    assert listed["perdure.commands.dead"]["partitions"] == 1


def test_index_rebuild(perdure: Project) -> None:
    done = perdure("index", "rebuild", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"rebuilt": True}


def test_the_index_is_proved_and_mended(perdure: Project) -> None:
    perdure("index", "rebuild")
    clean = perdure("index", "verify", "--settled-s", "0", "--json")
    assert (clean.returncode, json.loads(clean.stdout)["differences"]) == (0, []), clean.stderr
    opensearch = perdure.environment["PERDURE_OPENSEARCH_URL"]
    ghost = {"tenant": "t", "thread_id": "ghost", "run_id": "none", "seq": 1, "occurred_at": "2026-01-01T00:00:00Z"}
    httpx.put(f"{opensearch}/{STATES_WRITE}/_doc/ghost:1", json=ghost).raise_for_status()
    (found,) = json.loads((differs := perdure("index", "verify", "--json")).stdout)["differences"]
    assert (differs.returncode, found["kind"], found["id"]) == (1, "surplus", "ghost:1")
    assert "ghost:1" in perdure("index", "verify", "--full").stdout
    assert perdure("index", "repair").returncode == 0
    again = perdure("index", "verify")
    assert (again.returncode, "Index and database agree." in again.stdout) == (0, True)
    status = json.loads(perdure("index", "status", "--json").stdout)
    assert status.keys() == {"waiting_events", "newest_at", "states", "threads", "bytes"}
    assert "waiting events" in perdure("index", "status").stdout


def test_a_broken_project_is_explained(perdure: Project, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("import no_such_module_anywhere\n")
    failed = perdure("up", "--json")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "no_such_module_anywhere is not installed in the environment of" in failed.stderr
    assert not (tmp_path / "data" / "stack.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_runs_until_it_is_stopped(project: Project, number: signal.Signals) -> None:
    dev = project.dev()

    def said() -> str:
        text = project.output()
        assert dev.poll() is None, text
        return text

    try:
        until_blocking(said, "the services are up", DEADLINE_S, holds=lambda text: "Ctrl-C stops everything" in text)
        ran = project("runs", "start", "greeter", "--wait", "--json", "--url", project.url)
        assert json.loads(ran.stdout)["status"] == "success", ran.stderr
    finally:
        dev.send_signal(number)
        assert dev.wait(60) == 130
    assert re.search(r"^gateway +\| ", project.output(), re.MULTILINE)
    line = r"^agent_step \| \d\d:\d\d:\d\d\.\d{3} info +run\.ended  status=success  duration_ms=\S+  steps=2  graph=greeter  "
    assert re.search(line, project.output(), re.MULTILINE), project.output()
    assert "kafka.assigned  partitions=perdure.commands:12\n" in project.output()
    assert '{"' not in project.output()
    files = project.folder / "data" / "logs"
    assert json.loads((files / "agent_step.log").read_text().splitlines()[0])["service"] == "agent-step"
    assert "Traceback" not in project.output()
    assert {one["kind"] for one in json.loads(project("status", "--json").stdout)} == {"server"}
