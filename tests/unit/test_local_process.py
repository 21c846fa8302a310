"""Child processes: recognised by pid and creation time, stopped with all they started, never somebody else's."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest
from tests.support.polling import until_blocking

from perdure.local.account import unprivileged_account
from perdure.local.errors import PortInUseError, ServerFailedError, TooLittleSpaceError
from perdure.local.process import Identity, Launch, send, spawn, stop, wait_ready
from perdure.local.resources import free_port, require_disk, require_memory, require_port
from perdure.local.settings import LocalSettings
from perdure.local.state import Record, StateFile


def _launch(tmp_path: Path, code: str) -> Launch:
    return Launch("child", [sys.executable, "-u", "-c", code], tmp_path, tmp_path / "logs" / "child.log")


def test_a_child_is_stopped_with_what_it_started(tmp_path: Path) -> None:
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    launch = _launch(tmp_path, code)
    child = spawn(launch)
    until_blocking(lambda: launch.log.read_text().strip().isdigit(), "the pid of the grandchild")
    grandchild = int(launch.log.read_text())
    stop([child], 5.0)
    assert child.process() is None
    until_blocking(
        lambda: not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE,
        "the grandchild is gone",
    )


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    launch = _launch(
        tmp_path,
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)",
    )
    child = spawn(launch)
    until_blocking(lambda: "on" in launch.log.read_text(), "the child is on")
    stop([child], 0.2)
    assert child.process() is None


def test_a_paused_child_can_be_stopped(tmp_path: Path) -> None:
    child = spawn(_launch(tmp_path, "import time; time.sleep(600)"))
    assert send(child, signal.SIGSTOP)
    stop([child], 5.0)
    assert child.process() is None


def test_the_pid_of_another_process_is_left_alone(tmp_path: Path) -> None:
    child = spawn(_launch(tmp_path, "import time; time.sleep(600)"))
    stale = Identity(child.pid, child.created - 3600)
    assert stale.process() is None
    assert not send(stale, signal.SIGKILL)
    stop([stale], 1.0, kill=True)
    assert psutil.Process(child.pid).is_running()
    assert psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE
    os.killpg(child.pid, signal.SIGKILL)
    until_blocking(lambda: child.process() is None, "the child has ended")


def test_an_early_end_shows_code_and_last_lines(tmp_path: Path) -> None:
    record = '{"event": "service.failed", "level": "error", "error": "no such graph"}'
    launch = _launch(tmp_path, f"import sys; print('the disk is on fire'); print({record!r}); sys.exit(7)")
    child = spawn(launch)
    with pytest.raises(ServerFailedError, match="exit code 7") as caught:
        wait_ready(child, launch, lambda: False, 10.0)
    assert "the disk is on fire" in str(caught.value)
    assert "service.failed  error=no such graph" in str(caught.value)
    assert "{" not in str(caught.value)
    assert str(launch.log) in str(caught.value)


def test_one_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    launch = _launch(tmp_path, "import time; time.sleep(600)")
    child = spawn(launch)
    with pytest.raises(ServerFailedError, match="was not ready after 0 s"):
        wait_ready(child, launch, lambda: False, 0.2)
    assert child.process() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a child as another user")
def test_root_starts_a_child_as_nobody(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    launch = Launch("child", ["id", "-u"], Path("/"), tmp_path / "child.log", account=unprivileged_account())
    child = spawn(launch)
    until_blocking(lambda: child.process() is None, "the child has ended")
    assert launch.log.read_text().strip() == "65534"


def test_a_port_in_use_names_owner_and_variable() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(PortInUseError) as caught:
            require_port("kafka", port, "PERDURE_LOCAL_KAFKA_PORT")
    text = str(caught.value)
    assert f"port {port}" in text
    assert "PERDURE_LOCAL_KAFKA_PORT" in text
    assert f"pid {os.getpid()}" in text
    require_port("kafka", free_port(), "PERDURE_LOCAL_KAFKA_PORT")


def test_too_little_space_says_needed_and_available(tmp_path: Path) -> None:
    with pytest.raises(TooLittleSpaceError, match=r"disk: 1048576 MB needed, \d+ MB available.*PERDURE_DATA_DIR"):
        require_disk(tmp_path / "not" / "there" / "yet", 1 << 40, "PERDURE_DATA_DIR")
    with pytest.raises(TooLittleSpaceError, match=r"memory: 100000000 MB needed, \d+ MB available"):
        require_memory(100_000_000)


def test_the_state_file_survives_many_writers(tmp_path: Path) -> None:
    def record(name: str) -> Record:
        return Record(name=name, kind="service", pid=1, created=0, address="", ports={}, log=tmp_path / "log")

    for name in ("a", "b"):
        StateFile(tmp_path).put(record(name))
    assert set(StateFile(tmp_path).read().records) == {"a", "b"}
    assert not StateFile(tmp_path).read().records["a"].running
    StateFile(tmp_path).change(lambda records: records.clear())
    assert not (tmp_path / "stack.json").exists()


def test_ports_become_free_ones_unless_they_were_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_LOCAL_KAFKA_PORT", "4711")
    settings = LocalSettings().with_free_ports()
    assert settings.local_kafka_port == 4711
    assert settings.local_mongodb_port == 0
    assert settings.local_opensearch_port == 0
