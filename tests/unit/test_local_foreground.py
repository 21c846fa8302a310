"""Signals end the work of a command, however many come and whenever."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

COMMAND = """
import os, sys, threading
from perdure.local.foreground import leave, run_until, stop_at_signals
stop = stop_at_signals()
def work():
    print("works", flush=True)
    threading.Event().wait()
done = run_until(stop, work, lambda: print("undone", flush=True))
leave(0 if done else 130)
"""


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGHUP], [signal.SIGTERM] * 50])
def test_signals_end_the_work(numbers: list[signal.Signals]) -> None:
    with subprocess.Popen([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout
            assert child.stdout.readline() == "works\n"
            for number in numbers:
                child.send_signal(number)
            assert child.wait(30) == 130
            assert child.stdout.read() == ("" if signal.SIGHUP in numbers else "undone\n")
        finally:
            child.kill()
