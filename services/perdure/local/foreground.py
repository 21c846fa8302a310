"""Run something until it ends or a signal asks for its end, and never leave a process behind.

Contract: work that starts processes runs in a thread, so that no signal can interrupt it between the start of a process and its
record in ``stack.json``; the main thread only waits. The first SIGINT, SIGTERM or SIGHUP ends the work, every further one makes
the stopping kill at once. A closed terminal (SIGHUP) takes standard output and error with it: they go nowhere then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType
from typing import Final, NoReturn

import psutil

from perdure.local.process import hurry

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED: Final = 130
"""Exit status after a signal."""
_POLL_S: Final = 0.1


def stop_at_signals() -> threading.Event:
    """An event that the first signal sets. SIGHUP stays ignored where it was (nohup). Main thread only."""
    stop = threading.Event()
    # A handler may interrupt Event.set itself, whose lock it would wait for without end; this queue's put may be interrupted.
    signals: SimpleQueue[int] = SimpleQueue()

    def handle(number: int, _: FrameType | None) -> None:
        signals.put(number)

    def obey() -> None:
        while True:
            if signals.get() == signal.SIGHUP:
                silence()
            if stop.is_set():
                hurry()
            stop.set()

    threading.Thread(target=obey, name="signals", daemon=True).start()
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handle)
    return stop


def run_until(stop: threading.Event, work: Callable[[], None], undo: Callable[[], None]) -> bool:
    """Run ``work`` in a thread until it returns or ``stop`` is set; returns whether it came to its end.

    :param undo: called in the calling thread if the work failed or was stopped: ends what it has started.
    :raises BaseException: what the work raised, if it was not stopped.
    """
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded, name="work", daemon=True)
    thread.start()
    while thread.is_alive() and not stop.is_set():
        thread.join(_POLL_S)
    stopped = stop.is_set()
    if stopped or failures:
        undo()
    if failures and not stopped:
        raise failures[0]
    return not stopped


def leave(code: int) -> NoReturn:
    """End this process at once, and with it the children in its session (a compiler); a stack's have sessions of their own."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(child.pid) == os.getsid(0):
                child.kill()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def silence(target: str = os.devnull) -> None:
    """Point standard output and error to a file."""
    handle = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number in (1, 2):
        os.dup2(handle, number)
    os.close(handle)
