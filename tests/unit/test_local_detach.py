"""The process that stays behind `perdure up`: the parent of what it watches, ended by `down`. The service here only answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.support.polling import until_blocking

from perdure.local.handover import VARIABLE
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack

DEADLINE_S = 60.0
SERVICE = """
import http.server, os, pathlib
print("serving with", os.environ["WORD"], flush=True)
if pathlib.Path("wrong").exists():
    print('{"event": "service.failed", "error": "no such graph"}', flush=True)
    raise SystemExit(2)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["PERDURE_HEALTH_PORT"])), Handler).serve_forever()
"""
COMMAND = """
import os, pathlib, signal, sys
from perdure.local.detach import detach
detached = detach()
from perdure.local.services import Services
folder = pathlib.Path(sys.argv[1])
services = Services({"WORD": "of the first start"}, folder, ["validator"])
services.start()
if "fail" in sys.argv:
    sys.exit("no")
print("started", flush=True)
if "kill" in sys.argv:
    os.kill(services["validator"].pid, signal.SIGKILL)
    while services["validator"].running:
        pass
detached.become_supervisor(folder, services)
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    package = tmp_path / "code" / "perdure" / "validator"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SERVICE)
    made = Stack(LocalSettings(data_dir=tmp_path / "data"))
    yield made
    made.stop()


def run(tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    path = str(tmp_path / "code") + os.pathsep + os.environ.get("PYTHONPATH", "")
    return subprocess.run(
        [sys.executable, "-c", COMMAND, str(tmp_path / "data"), *more],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_the_child_of_a_command_supervises_what_it_started(stack: Stack, tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (0, "started\n"), done.stderr
    log = stack.folder / "logs" / "supervisor.log"
    until_blocking(
        lambda: log.exists() and "watching validator" in log.read_text(), "the supervisor watches", DEADLINE_S
    )
    supervisor = stack.supervisor()
    assert supervisor is not None
    first = stack.state.read().records["validator"]
    assert psutil.Process(first.pid).ppid() == supervisor.pid
    os.kill(first.pid, signal.SIGKILL)
    until_blocking(
        lambda: stack.state.read().records["validator"].restarts == 1, "the service is started again", DEADLINE_S
    )
    second = stack.state.read().records["validator"]
    assert second.ports == first.ports
    assert str(second.last_exit).startswith("killed by SIGKILL: ")
    until_blocking(
        lambda: first.log.read_text().count("serving with of the first start") == 2,
        "the service serves again",
        DEADLINE_S,
    )

    (tmp_path / "wrong").touch()
    os.kill(second.pid, signal.SIGTERM)
    until_blocking(
        lambda: "ended with exit code 2 and is not started again: no such graph" in log.read_text(),
        "the supervisor gives the service up",
        DEADLINE_S,
    )
    assert (
        f"validator (pid {second.pid}) ended (killed by SIGTERM); starting it again in 2 s (2nd time)"
        in log.read_text()
    )

    stack.stop()
    assert not supervisor.identity.process()
    assert not stack.state.path.exists()


def test_a_service_that_ended_before_its_supervisor_looked_is_started_again(stack: Stack, tmp_path: Path) -> None:
    assert run(tmp_path, "kill").returncode == 0
    until_blocking(lambda: "validator" in stack.running(), "the service runs again")
    record = stack.state.read().records["validator"]
    assert (record.restarts, str(record.last_exit).split(":")[0]) == (1, "killed by SIGKILL")
    until_blocking(lambda: record.log.read_text().count("serving with of the first start") == 2, "it serves again")
    assert VARIABLE not in psutil.Process(record.pid).environ()


def test_down_leaves_no_process_although_they_are_supervised(stack: Stack, tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 0
    until_blocking(stack.supervisor, "the supervisor is there", DEADLINE_S)
    pid = stack.state.read().records["validator"].pid
    stack.stop()
    until_blocking(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE,
        "the service is gone",
        DEADLINE_S,
    )
    assert stack.state.read().records == {}


def test_a_command_that_fails_exits_as_its_child_does(stack: Stack, tmp_path: Path) -> None:
    failed = run(tmp_path, "fail")
    assert (failed.returncode, failed.stderr) == (1, "no\n")
