"""The rules of starting again: pauses, reasons, environments; each process is real, no server is needed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.polling import until_blocking

from perdure.local import supervision
from perdure.local.environments import differing, warning
from perdure.local.errors import StoppingError
from perdure.local.process import Identity, Launch, exit_code, exit_text, spawn, stop
from perdure.local.state import Record, StateFile
from perdure.local.supervision import Backoff, Supervisor, reason


class Child:
    """A child process as a supervisor sees it."""

    def __init__(self, folder: Path, code: str) -> None:
        self.label = "child"
        self.log = folder / "logs" / "child.log"
        self.wanted = True
        self.ready_since: float | None = None
        self.identity: Identity | None = None
        self.state = StateFile(folder)
        self._launch = Launch("child", [sys.executable, "-c", code], folder, self.log)

    @property
    def running(self) -> bool:
        return self.identity is not None and self.identity.process() is not None

    def start_again(self) -> None:
        self.identity = self.state.launch(self._launch, self._record)

    def look(self) -> None:
        pass

    def follow(self, record: Record) -> None:
        self.identity = record.identity

    def _record(self, identity: Identity) -> Record:
        return Record(
            name="child",
            kind="service",
            pid=identity.pid,
            created=identity.created,
            address="",
            ports={},
            log=self.log,
        )


class Watched:
    """A child under a supervisor, and what the supervisor said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.stop = threading.Event()

    def start(self, code: str) -> Child:
        child = Child(self.folder, code)
        child.start_again()
        supervisor = Supervisor(child.state, self.lines.append, self.stop, "Mend it.")
        supervisor.watch(child)
        self.supervisor = supervisor
        self.child = child
        return child

    def said(self, part: str) -> bool:
        return any(part in line for line in self.lines)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_S", 0.05)
    made = Watched(tmp_path)
    yield made
    made.stop.set()
    until_blocking(lambda: not made.supervisor.watching, "nothing is watched")
    if made.child.identity:
        stop([made.child.identity], 1.0, kill=True)


def test_pauses_double_up_to_thirty_seconds_and_begin_again_after_a_steady_minute() -> None:
    backoff = Backoff()
    assert [backoff.next_pause_s(0.5) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert (backoff.next_pause_s(60.0), backoff.times) == (1, 1)
    assert backoff.next_pause_s(59.9) == 2


def test_a_process_that_ends_is_started_again_and_it_is_said_and_recorded(watched: Watched) -> None:
    child = watched.start("import os; os._exit(9)")
    until_blocking(lambda: watched.said("2nd time"), "the second start is said")
    first, second = (line for line in watched.lines if "ended with exit code 9; starting it again" in line)
    assert first.startswith("child (pid ")
    assert "(2nd time)" in second
    record = child.state.read().records["child"]
    assert record.restarts >= 1
    assert record.last_exit is not None
    assert record.last_exit.startswith("exit code 9, ")


def test_a_killed_process_is_said_to_be_killed(watched: Watched) -> None:
    child = watched.start("import time; time.sleep(600)")
    first = child.identity
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    until_blocking(lambda: watched.said("killed by SIGKILL"), "the death is said")
    until_blocking(lambda: watched.said("runs again"), "the start is said")
    assert child.running
    assert child.identity != first


def test_a_wrong_configuration_is_said_with_its_reason_and_not_tried_again(watched: Watched) -> None:
    child = watched.start("""import sys; print('{"event": "service.failed", "error": "no\\\\nsuch"}'); sys.exit(2)""")
    until_blocking(lambda: watched.lines, "something is said")
    assert "ended with exit code 2 and is not started again: no\nsuch\nMend it." in watched.lines[0]
    assert not child.wanted


def test_exit_code_two_of_a_process_that_was_ready_is_a_crash_like_others(watched: Watched) -> None:
    child = watched.start("import sys, time; time.sleep(0.2); sys.exit(2)")
    child.ready_since = time.monotonic()
    until_blocking(lambda: watched.said("starting it again"), "the new start is announced")


def test_what_was_stopped_on_purpose_or_removed_or_replaced_is_left_alone(watched: Watched) -> None:
    child = watched.start("import time; time.sleep(600)")
    assert child.identity is not None
    child.wanted = False
    stop([child.identity], 1.0, kill=True)
    other = Child(watched.folder, "import time; time.sleep(600)")
    other.start_again()
    child.wanted = True
    until_blocking(lambda: child.identity == other.identity, "the new process is taken over")
    child.state.change(lambda records: records.clear())
    assert other.identity is not None
    stop([other.identity], 1.0, kill=True)
    until_blocking(lambda: not watched.supervisor.watching, "nothing is watched")
    assert watched.lines == []


def test_nothing_is_started_in_a_folder_that_is_being_stopped(tmp_path: Path) -> None:
    child = Child(tmp_path, "pass")
    child.state.close()
    with pytest.raises(StoppingError, match="being stopped"):
        child.start_again()
    assert child.state.read().records == {}


def test_ends_in_words() -> None:
    assert exit_text(9) == "exit code 9"
    assert exit_text(-15) == "killed by SIGTERM"
    assert exit_text(-9).startswith("killed by SIGKILL: kill -9")
    assert exit_text(None) == "how it ended is not known"


def test_the_end_of_a_child_that_no_popen_stands_for(tmp_path: Path) -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "raise SystemExit(5)"], dict(os.environ))
    assert until_blocking(lambda: exit_code(Identity(pid, 0)), "the exit code") == 5
    assert exit_code(Identity(pid, 0)) == 5
    child = spawn(Launch("child", [sys.executable, "-c", "raise SystemExit(6)"], tmp_path, tmp_path / "log"))
    until_blocking(lambda: child.process() is None, "the child has ended")
    assert exit_code(child) == 6


def test_the_reason_is_the_last_error_that_was_logged_else_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"event": "a", "error": "old"}\n{"event": "b", "error": "new"}\n{"event": "c"}\n')
    assert reason(log) == "new"
    log.write_text("plain\nlines\n")
    assert reason(log) == "\n    plain\n    lines"


def test_differing_variables_are_named_and_their_values_are_not() -> None:
    old = {"PERDURE_SMTP_HOST": "old.example", "OPENAI_API_KEY": "sk-1", "PATH": "/bin", "PERDURE_HEALTH_PORT": "1"}
    new = {"PERDURE_LOG_LEVEL": "debug", "OPENAI_API_KEY": "sk-2", "PATH": "/usr/bin", "PERDURE_HEALTH_PORT": "2"}
    names = ["OPENAI_API_KEY", "PERDURE_LOG_LEVEL", "PERDURE_SMTP_HOST"]
    assert differing(old, new) == names
    text = warning({"notifier": names, "gateway": names, "indexer": []})
    assert text is not None
    assert "notifier, gateway: OPENAI_API_KEY, PERDURE_LOG_LEVEL, PERDURE_SMTP_HOST" in text
    assert "perdure down" in text
    assert not any(value in text for value in ("old.example", "sk-1", "sk-2", "debug"))
    assert warning({"gateway": []}) is None
