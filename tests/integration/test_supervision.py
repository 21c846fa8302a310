"""``perdure up`` and ``perdure dev`` on real services: what dies is started again, and nothing outlives the one who started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from tests.support.polling import until_blocking
from tests.support.project import Project

from perdure.chassis.mongo import connect_blocking
from perdure.local.stack import ServerProcess, Stack
from perdure.local.supervision import Supervisor

DEADLINE_S = 240.0
pytestmark = pytest.mark.timeout(600)
AGENT = """
import os, pathlib
from typing import TypedDict
from langgraph.graph import END, START, StateGraph

class State(TypedDict, total=False):
    greeting: str

def greet(state):
    try:
        pathlib.Path("died").touch(exist_ok=False)
    except FileExistsError:
        return {"greeting": "hello"}
    os._exit(9)

builder = StateGraph(State)
builder.add_node("greet", greet)
builder.add_edge(START, "greet")
builder.add_edge("greet", END)
graph = builder.compile()
"""


@pytest.fixture
def project(stack: Stack, tmp_path: Path) -> Iterator[Project]:
    found = Project.create(tmp_path, stack, AGENT, DEADLINE_S, PERDURE_LEASE_TTL_S="3")
    yield found
    assert found("down").returncode == 0
    assert found.processes() == []


def test_up_starts_again_what_dies_and_down_ends_all(project: Project) -> None:
    assert (up := project("up", "--json")).returncode == 0, up.stderr
    ran = project("runs", "start", "greeter", "--wait", "--json", "--url", project.url)
    assert json.loads(ran.stdout)["status"] == "success", ran.stderr
    log = project.data / "logs" / "supervisor.log"
    assert "ended with exit code 9; starting it again in 1 s" in log.read_text()
    worker = project.status()["agent_step"]
    assert worker["restarts"] == 1
    assert str(worker["last_exit"]).startswith("exit code 9, ")

    pid = project.status()["validator"]["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    until_blocking(
        lambda: project.status()["validator"]["state"] == "ready", "the validator is ready again", DEADLINE_S
    )
    assert f"validator (pid {pid}) ended (killed by SIGKILL" in log.read_text()

    again = project("up", "--json", PERDURE_SMTP_HOST="mail.example.com", SOME_API_KEY="of this shell")
    assert again.returncode == 0, again.stderr
    assert "PERDURE_SMTP_HOST, SOME_API_KEY" in again.stderr
    assert "mail.example.com" not in again.stderr
    assert "of this shell" not in again.stderr

    supervisors = [process for process in project.processes() if "perdure.local.supervisor" in process.cmdline()]
    assert len(supervisors) == 1
    os.kill(supervisors[0].pid, signal.SIGKILL)
    until_blocking(
        lambda: not supervisors[0].is_running() or supervisors[0].status() == psutil.STATUS_ZOMBIE,
        "the supervisor is dead",
        DEADLINE_S,
    )
    assert "their supervisor is gone" in project("status").stderr
    assert project("up").returncode == 0
    assert "their supervisor is gone" not in project("status").stderr
    assert project("down").returncode == 0
    assert project.processes() == []


def test_dev_says_what_dies_keeps_the_old_worker_while_code_is_broken_and_ends_with_down(project: Project) -> None:
    dev = project.dev()
    try:
        until_blocking(lambda: project.said("Ctrl-C stops everything"), "the services are up", DEADLINE_S)
        ran = project("runs", "start", "greeter", "--wait", "--json", "--url", project.url)
        assert json.loads(ran.stdout)["status"] == "success", ran.stderr
        assert project.said("ended with exit code 9; starting it again in 1 s")
        assert project.said("agent_step runs again")
        assert httpx.get(f"{project.url}/graphs", timeout=10).json()[0]["workers"] == 1
        pid = project.status()["agent_step"]["pid"]
        (project.folder / "agent.py").write_text(AGENT.replace("os._exit(9)", "os._exit(9"))
        until_blocking(lambda: project.said("Waiting for the next change"), "the wrong code is noticed", DEADLINE_S)
        assert project.said("agent.py changed: ")
        assert project.said("SyntaxError: '(' was never closed")
        assert project.said("agent-step keeps running with the code from before")
        assert project.status()["agent_step"]["pid"] == pid
        (project.folder / "agent.py").write_text(AGENT)
        until_blocking(lambda: project.status()["agent_step"].get("pid") not in (pid, None), "a new worker", DEADLINE_S)
        assert "perdure dev" in project("up").stderr
        down = project("down")
        assert down.returncode == 0, down.stderr
        assert dev.wait(60) == 130
        assert project.processes() == []
    finally:
        dev.kill()
        dev.wait(10)


@pytest.mark.parametrize(
    ("numbers", "after"),
    [
        ([signal.SIGINT], "starting"),
        ([signal.SIGHUP], "starting"),
        ([signal.SIGTERM, signal.SIGTERM], "Ctrl-C stops everything"),
    ],
)
def test_signals_end_dev_with_everything_that_it_started(
    project: Project, numbers: list[signal.Signals], after: str
) -> None:
    dev = project.dev()
    try:
        until_blocking(lambda: project.said(after), f"{after!r} is said", DEADLINE_S)
        for number in numbers:
            dev.send_signal(number)
        assert dev.wait(60) == 130
        assert project.processes() == []
        assert not project.said("Traceback")
    finally:
        dev.kill()
        dev.wait(10)


def test_an_interrupted_up_leaves_nothing(project: Project) -> None:
    with (project.folder / "up.txt").open("wb") as output:
        up = subprocess.Popen(project.command("up"), env=project.environment, cwd=project.folder, stderr=output)
    try:
        until_blocking(lambda: len(project.processes()) > 1, "the stack starts", DEADLINE_S)
        up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 130
    finally:
        up.kill()
        up.wait(10)
    until_blocking(lambda: project.processes() == [], "no process of the stack is left")
    assert not (project.data / "stack.json").exists()


def test_a_server_that_is_killed_is_started_again_with_its_data(own_mongodb: Stack) -> None:
    lines: list[str] = []
    stop = threading.Event()
    record = own_mongodb.state.read().records["mongodb"]
    with connect_blocking(own_mongodb.environment()["PERDURE_MONGODB_URI"]) as client:
        client["kept"]["documents"].insert_one({"_id": 1})
        supervisor = Supervisor(own_mongodb.state, lines.append, stop, "")
        supervisor.watch(ServerProcess(own_mongodb, record))
        os.kill(record.pid, signal.SIGKILL)
        until_blocking(lambda: any("mongodb runs again" in line for line in lines), "the server runs again")
        assert client["kept"]["documents"].count_documents({}) == 1
    assert f"mongodb (pid {record.pid}) ended (killed by SIGKILL" in lines[0]
    stop.set()
    until_blocking(lambda: not supervisor.watching, "nothing is watched", 10)
