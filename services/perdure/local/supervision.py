"""Start again what has ended in a stack: with growing pauses, and with one line that says so.

Contract: a process is started again 1 s after its end, then 2, 4, ... 30 s; once it ran for a minute the count begins again. A
service that ends with exit code 2 before it was ever ready has a wrong configuration: it is not started again, and the reason is
shown. What was stopped on purpose (:attr:`Supervised.wanted` is false) or was started or removed by another process is left alone.
Every end and every start is recorded in ``stack.json`` for ``perdure status``.
Scope: :mod:`perdure.local.supervisor` is the process that does this for ``perdure up``; ``perdure dev`` does it itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from perdure.chassis import json
from perdure.chassis.clock import now
from perdure.local.errors import LocalError, StoppingError
from perdure.local.process import Identity, exit_code, exit_text, last_lines
from perdure.local.state import Record, StateFile

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
STEADY_S: Final = 60.0
WRONG_CONFIGURATION: Final = 2
_POLL_S: Final = 0.25
_LINES: Final = 15


class Supervised(Protocol):
    """A process that is watched: ``ServiceProcess``, ``ServerProcess``."""

    label: str
    wanted: bool
    ready_since: float | None

    @property
    def log(self) -> Path:
        """Where its output goes."""

    @property
    def identity(self) -> Identity | None:
        """The process that was started last."""

    @property
    def running(self) -> bool:
        """Whether it runs."""

    def start_again(self) -> None:
        """Start it unless it runs or is not wanted any more; raises LocalError."""

    def look(self) -> None:
        """Note whether it has become ready."""

    def follow(self, record: Record) -> None:
        """Another process has started it again."""


class Backoff:
    """How long to wait before one process is started again."""

    def __init__(self) -> None:
        self.times = 0
        """Ends in a row without a steady minute between them."""

    def next_pause_s(self, ran_s: float) -> float:
        """Seconds to wait after an end.

        :param ran_s: how long the process had run.
        """
        self.times = 1 if ran_s >= STEADY_S else self.times + 1
        return float(min(FIRST_PAUSE_S * 2 ** min(self.times - 1, 10), LONGEST_PAUSE_S))


class Supervisor:
    """Watches processes of one data folder, each in a thread of its own.

    :param say: gets the lines for people.
    :param advice: what a person does after a service's configuration is mended.
    """

    def __init__(self, state: StateFile, say: Callable[[str], None], stop: threading.Event, advice: str) -> None:
        self._state = state
        self._say = say
        self._stop = stop
        self._advice = advice
        self._threads: list[threading.Thread] = []

    def watch(self, process: Supervised) -> None:
        """Begin to watch a process."""
        thread = threading.Thread(target=self._keep, args=(process,), name=f"supervise-{process.label}", daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def watching(self) -> bool:
        """Whether anything is left to watch."""
        return any(thread.is_alive() for thread in self._threads)

    def _keep(self, process: Supervised) -> None:
        backoff = Backoff()
        while not self._stop.wait(_POLL_S):
            if process.running:
                process.look()
                continue
            if not process.wanted:
                continue
            try:
                if not self._ended(process, backoff):
                    return
            except StoppingError:
                return
            except LocalError as error:
                self._say(f"{process.label}: {error}")

    def _ended(self, process: Supervised, backoff: Backoff) -> bool:
        """Say how a process ended and start it again; returns whether it is still ours to watch."""
        identity = process.identity
        if identity is None or not self._ours(process, identity):
            return process.label in self._state.read().records
        code = exit_code(identity)
        how = exit_text(code)
        self._record(process, identity, last_exit=f"{how}, {now():%Y-%m-%d %H:%M:%S} UTC")
        known = code is not None and code >= 0
        ended = f"{process.label} (pid {identity.pid}) " + (f"ended with {how}" if known else f"ended ({how})")
        if code == WRONG_CONFIGURATION and process.ready_since is None:
            process.wanted = False
            self._say(f"{ended} and is not started again: {reason(process.log)}\n{self._advice}")
            return True
        pause_s = backoff.next_pause_s(time.time() - identity.created)
        again = "" if backoff.times == 1 else f" ({_ordinal(backoff.times)} time)"
        self._say(f"{ended}; starting it again in {pause_s:.0f} s{again}. Its log: {process.log}")
        if self._stop.wait(pause_s):
            return False
        if self._ours(process, identity):
            process.start_again()
            self._started(process, identity)
        return True

    def _ours(self, process: Supervised, identity: Identity) -> bool:
        """Whether a process that has ended is to be started again by us: nobody else has, and nobody stopped it."""
        record = self._state.read().records.get(process.label)
        if record is not None and record.identity != identity:
            process.follow(record)
        return record is not None and record.identity == identity and process.wanted

    def _started(self, process: Supervised, before: Identity) -> None:
        now = process.identity
        if now is None or now == before:
            return
        record = self._state.read().records.get(process.label)
        self._record(process, now, restarts=record.restarts + 1 if record else 1)
        self._say(f"{process.label} runs again (pid {now.pid})")

    def _record(self, process: Supervised, identity: Identity, **fields: object) -> None:
        def edit(records: dict[str, Record]) -> None:
            record = records.get(process.label)
            if record is not None and record.identity == identity:
                records[process.label] = record.model_copy(update=fields)

        self._state.change(edit)


def reason(log: Path) -> str:
    """Why a service ended, from the end of its log, as text: the last error that it logged, else its last lines."""
    lines = last_lines(log, _LINES)
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and (error := entry.get("error") or entry.get("exception")):
            return str(error)
    return "\n".join(["", *(f"    {line}" for line in lines)]) if lines else f"{log} is empty"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
