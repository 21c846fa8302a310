"""``perdure up`` and ``perdure dev`` on real services: what dies is started again, and nothing outlives the one who started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from perdure.chassis.mongo import connect_blocking
from perdure.local.resources import STACK_VARIABLE, free_port
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


class Project:
    """A project's folder, ``perdure`` in it, and every process of its stack."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.url = f"http://127.0.0.1:{environment['PERDURE_GATEWAY_PORT']}"
        self.data = folder / "data"

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("perdure")), *arguments]

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment | variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def dev(self) -> subprocess.Popen[bytes]:
        with (self.folder / "dev.txt").open("wb") as output:
            return subprocess.Popen(
                self.command("dev"), env=self.environment, cwd=self.folder, stdout=output, stderr=output
            )

    def said(self, part: str) -> bool:
        return part in (self.folder / "dev.txt").read_text()

    def status(self) -> dict[str, dict[str, object]]:
        return {one["name"]: one for one in json.loads(self("status", "--json").stdout)}

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this stack, and every supervisor of it, zombies left out."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(STACK_VARIABLE) == str(self.data) or str(self.data) in process.cmdline()
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def until(condition: Callable[[], object], seconds: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def project(stack: Stack, tmp_path: Path) -> Iterator[Project]:
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "langgraph.json").write_text('{"graphs": {"greeter": "./agent.py:graph"}}')
    environment = {
        **os.environ,
        **stack.environment(),
        "PERDURE_GATEWAY_PORT": str(free_port()),
        "PERDURE_DATA_DIR": str(tmp_path / "data"),
        "PERDURE_LEASE_TTL_S": "3",
    }
    environment["PERDURE_MONGODB_URI"] = environment["PERDURE_MONGODB_URI"].rpartition("/")[0] + f"/{tmp_path.name}"
    found = Project(tmp_path, environment)
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
    until(lambda: project.status()["validator"]["state"] == "ready")
    assert f"validator (pid {pid}) ended (killed by SIGKILL" in log.read_text()

    again = project("up", "--json", PERDURE_SMTP_HOST="mail.example.com", SOME_API_KEY="of this shell")
    assert again.returncode == 0, again.stderr
    assert "PERDURE_SMTP_HOST, SOME_API_KEY" in again.stderr
    assert "mail.example.com" not in again.stderr
    assert "of this shell" not in again.stderr

    supervisors = [process for process in project.processes() if "perdure.local.supervisor" in process.cmdline()]
    assert len(supervisors) == 1
    os.kill(supervisors[0].pid, signal.SIGKILL)
    until(lambda: not supervisors[0].is_running() or supervisors[0].status() == psutil.STATUS_ZOMBIE)
    assert "their supervisor is gone" in project("status").stderr
    assert project("up").returncode == 0
    assert "their supervisor is gone" not in project("status").stderr
    assert project("down").returncode == 0
    assert project.processes() == []


def test_dev_says_what_dies_keeps_the_old_worker_while_code_is_broken_and_ends_with_down(project: Project) -> None:
    dev = project.dev()
    try:
        until(lambda: project.said("Ctrl-C stops everything"))
        ran = project("runs", "start", "greeter", "--wait", "--json", "--url", project.url)
        assert json.loads(ran.stdout)["status"] == "success", ran.stderr
        assert project.said("ended with exit code 9; starting it again in 1 s")
        assert project.said("agent_step runs again")
        assert httpx.get(f"{project.url}/graphs", timeout=10).json()[0]["workers"] == 1
        pid = project.status()["agent_step"]["pid"]
        (project.folder / "agent.py").write_text(AGENT.replace("os._exit(9)", "os._exit(9"))
        until(lambda: project.said("Waiting for the next change"))
        assert project.said("agent.py changed: ")
        assert project.said("SyntaxError: '(' was never closed")
        assert project.said("agent-step keeps running with the code from before")
        assert project.status()["agent_step"]["pid"] == pid
        (project.folder / "agent.py").write_text(AGENT)
        until(lambda: project.status()["agent_step"]["pid"] not in (pid, None))
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
        until(lambda: project.said(after))
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
        until(lambda: len(project.processes()) > 1)
        up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 130
    finally:
        up.kill()
        up.wait(10)
    until(lambda: project.processes() == [], 30)
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
        until(lambda: any("mongodb runs again" in line for line in lines), 60)
        assert client["kept"]["documents"].count_documents({}) == 1
    assert f"mongodb (pid {record.pid}) ended (killed by SIGKILL" in lines[0]
    stop.set()
    until(lambda: not supervisor.watching, 10)
