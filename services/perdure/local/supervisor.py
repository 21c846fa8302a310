"""``python -m perdure.local.supervisor FOLDER``: the process that watches a stack which ``perdure up`` has started.

Contract: watches every process that ``FOLDER/stack.json`` names. What is needed to start a service again is read from the running
process, or, if the service has ended already, known from the command (:mod:`perdure.local.handover`). Ends when nothing is left
to watch, when another process takes its place in ``stack.json``, or at SIGTERM, and ends nothing then: ``perdure down`` ends the
supervisor first, and the rest itself. What happens is written to its standard output (``FOLDER/logs/supervisor.log``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final, Literal

import psutil

from perdure.chassis.clock import now
from perdure.local.detach import LOG, supervisor_command
from perdure.local.foreground import stop_at_signals
from perdure.local.handover import Handover
from perdure.local.services import ServiceProcess, Services
from perdure.local.settings import LocalSettings
from perdure.local.stack import ServerProcess, Stack
from perdure.local.state import Supervising
from perdure.local.supervision import Supervised, Supervisor

ADVICE: Final = "Mend what it says, then run `perdure up`: it starts what is missing."
_LOOK_EVERY_S: Final = 1.0


def this_process(command: Literal["up", "dev"]) -> Supervising:
    """The calling process as a supervisor."""
    process = psutil.Process()
    return Supervising(pid=process.pid, created=process.create_time(), command=command)


def spawn_supervisor(folder: Path) -> None:
    """Start a supervisor that was not the parent of what it watches: it cannot tell how those processes ended."""
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / LOG).open("ab") as log:
        subprocess.Popen(
            supervisor_command(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def watched(stack: Stack, services: Services | None = None) -> list[Supervised]:
    """The processes of a stack that run, and those that a command has started and that have ended since.

    :param services: what the command started or found running; without it only running processes are returned.
    """
    processes: list[Supervised] = []
    started = services.processes if services else {}
    servers = stack.local_servers() if services else []
    for name, record in stack.state.read().records.items():
        if record.kind == "server":
            if record.running or name in servers:
                processes.append(ServerProcess(stack, record))
        elif (adopted := ServiceProcess.adopt(record, stack.folder)) is not None:
            processes.append(adopted)
        elif name in started:
            started[name].take_over(record)
            processes.append(started[name])
    return processes


def main(folder: Path) -> None:
    """Watch until nothing is left to watch."""
    stop = stop_at_signals()
    stack = Stack(LocalSettings().model_copy(update={"data_dir": folder}))
    me = this_process("up")
    supervisor = Supervisor(stack.state, _log, stop, ADVICE)
    handover = Handover.take()
    processes = watched(stack, handover.services(folder) if handover else None)
    for name in stack.state.read().records.keys() - {process.label for process in processes}:
        _log(f"{name} had ended before: `perdure up` starts it")
    stack.state.supervise(me)
    _log(f"watching {', '.join(process.label for process in processes) or 'nothing'} (pid {os.getpid()})")
    for process in processes:
        supervisor.watch(process)
    while supervisor.watching and not stop.wait(_LOOK_EVERY_S):
        if stack.state.read().supervisor != me:
            break
    stop.set()
    _log("ends")


def _log(text: str) -> None:
    sys.stdout.write(f"{now():%Y-%m-%dT%H:%M:%SZ} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    threading.current_thread().name = "supervisor"
    main(Path(sys.argv[1]))
