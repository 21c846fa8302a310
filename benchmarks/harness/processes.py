"""Servers of peers as child processes: started, waited for, ended by the pid that was started."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

HOST = "127.0.0.1"
_START_S = 90.0
_STOP_S = 20.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


def free_low_port() -> int:
    """The same, below 32,768."""
    while True:
        with socket.socket() as one:
            try:
                one.bind((HOST, random.randrange(10_240, 32_768)))
            except OSError:
                continue
            return int(one.getsockname()[1])


class Child:
    """One server; its output goes to ``log``. It is in a process group of its own, which ends with it."""

    def __init__(
        self, command: list[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    async def until(self, ready: Callable[[], Awaitable[bool]]) -> None:
        """Wait until ``ready()``.

        Raises:
            RuntimeError: it ended, or was not ready in time; with the end of its log.

        """
        deadline = time.monotonic() + _START_S
        while not await ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                last = self.log.read_text(errors="replace")[-600:]
                raise RuntimeError(f"{self.log.stem} did not start: {last}")
            await asyncio.sleep(0.2)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it and what it started."""
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
