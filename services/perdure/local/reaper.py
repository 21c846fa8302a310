"""Stops an ephemeral stack when the process that owns it is gone, however it went (kill -9 included).

``python -m perdure.local.reaper FOLDER`` reads its standard input, a pipe that the owner holds open, to the end, and
then stops every process that ``FOLDER/stack.json`` names and removes the data.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from perdure.local.process import stop
from perdure.local.state import StateFile

_STOP_TIMEOUT_S = 10.0


def start_reaper(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process that waits for this one to end."""
    command = [sys.executable, "-m", "perdure.local.reaper", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def end_reaper(reaper: subprocess.Popen[bytes]) -> None:
    """Let it do what is left to do, and wait for it."""
    if reaper.stdin:
        reaper.stdin.close()
    reaper.wait()


def remove(folder: Path, *, kill: bool) -> None:
    """Stop all processes of an ephemeral stack and delete all that it stored."""
    records = list(StateFile(folder).read().records.values())
    stop([record.identity for record in records], _STOP_TIMEOUT_S, kill=kill)
    for path in {folder, *(record.data for record in records if record.data)}:
        if path.exists():
            shutil.rmtree(path)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    remove(Path(sys.argv[1]), kill=True)
