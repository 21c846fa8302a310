"""``perdure demo`` as a newcomer runs it: it ends well and leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(420)


@contextmanager
def running_demo(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A demo whose temporary files are below ``tmp_path``, with its output in a file."""
    folder, output = tmp_path / "tmp", tmp_path / "output"
    folder.mkdir()
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(place.stat().st_mode | 0o011)  # OpenSearch may run as another user
    env = {**os.environ, "TMPDIR": str(folder), "COLUMNS": "160"}
    for name in ("PERDURE_KAFKA_BOOTSTRAP_SERVERS", "PERDURE_MONGODB_URI", "PERDURE_OPENSEARCH_URL"):
        env.pop(name, None)
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "perdure.cli", "demo"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
        )
    try:
        yield process, output
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def left_over(folder: Path) -> list[str]:
    """Processes whose environment names the demo's temporary folder."""
    found = []
    for process in psutil.process_iter(["pid", "name"]):
        try:
            if process.pid != os.getpid() and process.environ().get("TMPDIR") == str(folder):
                found.append(f"{process.pid} {' '.join(process.cmdline())[:100]}")
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def wait_until_gone(folder: Path) -> None:
    until_blocking(lambda: left_over(folder), "no process of the demo is left", holds=lambda left: not left)


def test_the_demo_ends_well(tmp_path: Path) -> None:
    with running_demo(tmp_path) as (process, output):
        code = process.wait(timeout=400)
        text = output.read_text()
        assert code == 0, text[-6000:]
        assert text.rstrip().endswith("demo: ok")
        for part in ("202 Accepted", "kill -9", "each step once", "Nothing missing", "Code audit", "GET /search"):
            assert part in text
    wait_until_gone(tmp_path / "tmp")


def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    with running_demo(tmp_path) as (process, output):

        def said() -> str:
            text = output.read_text()
            assert process.poll() is None, text[-6000:]
            return text

        marks = ("agent_step: done", "Start over HTTP")
        until_blocking(said, "the services are up", 120, holds=lambda text: any(mark in text for mark in marks))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) != 0
        assert "Stopped all servers" in output.read_text()
    wait_until_gone(tmp_path / "tmp")
