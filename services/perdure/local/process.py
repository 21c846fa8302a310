"""Child processes that outlive or do not outlive us: spawn, recognise, signal, stop, wait.

Contract: a process is known by its pid *and* its creation time, so a stale record never leads to a signal to somebody
else's process. Every child is the leader of a session of its own: a Ctrl-C in the terminal does not reach it, and its
own children end with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from perdure.local.account import Account
from perdure.local.errors import LocalError, ServerFailedError

_CLOCK_SLACK_S: Final = 2.0
"""The creation time is computed from the boot time, which moves a little when the clock is set."""
_POLL_S: Final = 0.05
_KILL_TIMEOUT_S: Final = 10.0
_LOG_LIMIT: Final = 32 << 20
_SHOWN_LINES: Final = 15
_children: Final[dict[int, subprocess.Popen[bytes]]] = {}
"""Children of this very process: they must be waited for, or they stay as zombies."""
_reaped: Final[dict[int, int]] = {}
"""Exit codes, by pid, of children that no ``Popen`` of this process stands for."""
_REAP_S: Final = 1.0
"""How long an exit code may be missing after the end of its process: its last thread is still leaving the kernel."""
_hurry: Final = threading.Event()


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything needed to start one process."""

    name: str
    argv: Sequence[str]
    cwd: Path
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's environment."""
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for ever: pid and creation time in seconds since the epoch."""

    pid: int
    created: float

    def process(self) -> psutil.Process | None:
        """The process if it still runs, else None.

        A killed process with many threads is a zombie before the last thread has ended and closed its sockets: only
        then has it ended.
        """
        child = _children.get(self.pid)
        if child is not None and child.poll() is not None:
            return None
        try:
            found = psutil.Process(self.pid)
            if abs(found.create_time() - self.created) > _CLOCK_SLACK_S:
                return None
            if child is None and found.status() == psutil.STATUS_ZOMBIE and found.num_threads() <= 1:
                return None
        except psutil.NoSuchProcess:
            return None
        return found


def spawn(launch: Launch) -> Identity:
    """Start a process in a session of its own, its output appended to its log."""
    launch.log.parent.mkdir(parents=True, exist_ok=True)
    if launch.log.exists() and launch.log.stat().st_size > _LOG_LIMIT:
        launch.log.replace(launch.log.with_suffix(".1.log"))
    account = launch.account
    with launch.log.open("ab") as log:
        child = subprocess.Popen(
            list(launch.argv),
            cwd=launch.cwd,
            env={**os.environ, **launch.env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    _children[child.pid] = child
    return Identity(child.pid, psutil.Process(child.pid).create_time())


def wait_ready(identity: Identity, launch: Launch, is_ready: Callable[[], bool], timeout_s: float) -> None:
    """Poll until the process is ready.

    :raises ServerFailedError: it ended, or was not ready in time; it is stopped then.
    """
    deadline = time.monotonic() + timeout_s
    while not is_ready():
        if identity.process() is None:
            code = exit_code(identity)
            how = f" with {exit_text(code)}" if code is not None and code >= 0 else f" ({exit_text(code)})"
            raise ServerFailedError(launch.name, f"ended during start{how}", launch.log, last_lines(launch.log))
        if time.monotonic() > deadline:
            stop([identity], 5.0)
            raise ServerFailedError(
                launch.name, f"was not ready after {timeout_s:.0f} s", launch.log, last_lines(launch.log)
            )
        time.sleep(_POLL_S)


def exit_code(identity: Identity) -> int | None:
    """How a child of this process ended: its exit code, or minus the signal that killed it; None if that cannot be known."""
    child = _children.get(identity.pid)
    if child is not None:
        return child.poll()
    if identity.pid in _reaped:
        return _reaped[identity.pid]
    deadline, pid, status = time.monotonic() + _REAP_S, 0, 0
    try:  # a child from before this process executed another program (perdure.local.supervisor)
        while not pid and time.monotonic() < deadline:
            pid, status = os.waitpid(identity.pid, os.WNOHANG)
            time.sleep(0 if pid else _POLL_S)
    except ChildProcessError:
        return None
    if not pid:
        return None
    return _reaped.setdefault(pid, os.waitstatus_to_exitcode(status))


def remember_exit_codes(codes: Mapping[int, int]) -> None:
    """Exit codes by pid that this process's own program before an ``exec`` has learnt."""
    _reaped.update(codes)


def exit_text(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "how it ended is not known"
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    return f"killed by {name}" + (": kill -9, or the machine had no memory left" if code == -signal.SIGKILL else "")


def hurry() -> None:
    """Make every :func:`stop` of this process, running or to come, end with SIGKILL at once."""
    _hurry.set()


def stop(identities: Sequence[Identity], timeout_s: float, *, kill: bool = False) -> None:
    """End processes with all that they started: SIGTERM, and SIGKILL to those that remain after ``timeout_s``.

    :param kill: SIGKILL at once.
    :raises LocalError: a process survives SIGKILL (the kernel waits for a device).
    """
    running = [(identity, found) for identity in identities if (found := identity.process())]
    for identity, _ in running:
        send(identity, signal.SIGCONT)
        send(identity, signal.SIGKILL if kill else signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while any(identity.process() for identity, _ in running) and time.monotonic() < deadline and not _hurry.is_set():
        time.sleep(_POLL_S)
    for identity, _ in running:
        if identity.process():
            send(identity, signal.SIGKILL)
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while left := [identity.pid for identity, _ in running if identity.process()]:
        if time.monotonic() > deadline:
            raise LocalError(f"processes {left} do not end, even after SIGKILL; look at them with ps")
        time.sleep(_POLL_S)
    for identity in identities:
        child = _children.get(identity.pid)
        if child is not None and child.poll() is not None:
            _children.pop(identity.pid)


def send(identity: Identity, number: signal.Signals) -> bool:
    """Send a signal to the process and its group; False if it does not run any more."""
    found = identity.process()
    if found is None:
        return False
    try:
        os.killpg(identity.pid, number)
    except ProcessLookupError:
        return False
    return True


def last_lines(log: Path, count: int = _SHOWN_LINES) -> list[str]:
    """The end of a log, as text."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 64_000))
            lines = file.read().decode(errors="replace").splitlines()
            return lines[-count:] if count else []
    except FileNotFoundError:
        return []
