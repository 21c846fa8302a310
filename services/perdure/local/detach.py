"""``perdure up`` returns to the shell, and the processes that it started keep a parent that watches them.

Contract: :func:`detach` forks. The child starts everything, with the terminal of the command; the parent waits, hands signals on,
and exits with the child's status. When all runs, :meth:`Detached.become_supervisor` lets the parent go and executes
:mod:`perdure.local.supervisor` in place of the command: the same process id, so the services stay its children and it learns
how each one ends, in a third of the memory.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from perdure.local.foreground import SIGNALS, silence
from perdure.local.handover import Handover
from perdure.local.services import Services

LOG: Final = "supervisor.log"
_MANY: Final = 65_536


class Detached:
    """The child of :func:`detach`."""

    def __init__(self, writer: int) -> None:
        self._writer = writer

    def release(self) -> None:
        """Let the command's parent exit with status 0; output goes nowhere from now on."""
        sys.stdout.flush()
        sys.stderr.flush()
        silence()
        os.write(self._writer, b"\0")
        os.close(self._writer)

    def become_supervisor(self, folder: Path, services: Services) -> NoReturn:
        """Let the command's parent exit with status 0, and watch the stack of a data folder from now on.

        :param services: started by this command or running since before it.
        """
        environment = Handover.of(services).environment()
        self.release()
        (folder / "logs").mkdir(exist_ok=True)
        silence(str(folder / "logs" / LOG))
        os.closerange(3, _MANY)  # what the shell or its scripts had open is theirs
        os.execve(sys.executable, supervisor_command(folder), environment)  # noqa: S606


def supervisor_command(folder: Path) -> list[str]:
    """The command line of the supervisor of a data folder."""
    return [sys.executable, "-m", "perdure.local.supervisor", str(folder)]


def detach() -> Detached:
    """Fork; returns in the child only, which leads a session of its own. The parent exits with the child's status.

    To be called before any thread is started.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(writer)
        _wait(child, reader)
    os.setsid()
    os.close(reader)
    return Detached(writer)


def _wait(child: int, reader: int) -> NoReturn:
    def forward(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, forward)
    if os.read(reader, 1):
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)
