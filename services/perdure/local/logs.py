"""Reading logs that grow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_POLL_S = 0.2


def lines_holding(log: Path, text: str) -> Iterator[str]:
    """The lines of a log that hold ``text``, oldest first; what was put aside when the log grew too long comes first."""
    wanted = text.encode()
    for part in (log.with_suffix(".1.log"), log):
        if part.exists():
            with part.open("rb") as lines:
                yield from (line.decode(errors="replace").rstrip("\n") for line in lines if wanted in line)


def follow_log(log: Path, is_running: Callable[[], bool]) -> Iterator[str]:
    """The lines written to ``log`` from now on, until the process has ended and all is read."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch(exist_ok=True)
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        rest = b""
        while True:
            ended = not is_running()
            *lines, rest = (rest + file.read()).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
            if ended:
                break
            time.sleep(_POLL_S)
        if rest:
            yield rest.decode(errors="replace")
