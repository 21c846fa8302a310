"""Reading logs that grow: what is there, and what comes, each line once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.2
_BLOCK: Final = 64_000
"""Bytes from the end of a log in which its last lines are looked for."""


class Log:
    """The log of one process, cut at the end of its last whole line when this object is made."""

    def __init__(self, path: Path, is_running: Callable[[], bool]) -> None:
        self._path = path
        self._is_running = is_running
        self._cut = _end_of_last_line(path)

    def last(self, count: int) -> list[str]:
        """The last lines before the cut, ``count`` at most, from the last 64 kB."""
        if not self._cut or not count:
            return []
        with self._path.open("rb") as file:
            file.seek(max(0, self._cut - _BLOCK))
            text = file.read(self._cut - file.tell()).decode(errors="replace")
        return text.splitlines()[-count:]

    def holding(self, text: str) -> Iterator[str]:
        """The lines before the cut that hold ``text``, oldest first; the part of the log that was rotated out comes first."""
        wanted = text.encode()
        for part, end in ((self._path.with_suffix(".1.log"), None), (self._path, self._cut)):
            if part.exists():
                with part.open("rb") as file:
                    read = 0
                    for line in file:
                        read += len(line)
                        if end is not None and read > end:
                            break
                        if wanted in line:
                            yield line.decode(errors="replace").rstrip("\n")

    def coming(self) -> Iterator[str]:
        """The lines after the cut, until the process has ended and all is read."""
        return follow_log(self._path, self._is_running, start=self._cut)


def _end_of_last_line(path: Path) -> int:
    """How many bytes of a log are whole lines; 0 if there is no log."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - _BLOCK)
            file.seek(start)
            return start + file.read(size - start).rfind(b"\n") + 1
    except FileNotFoundError:
        return 0


def follow_log(log: Path, is_running: Callable[[], bool], *, start: int | None = None) -> Iterator[str]:
    """The lines written to ``log`` from now on, until the process has ended and all is read.

    :param start: byte from which to read, instead of the present end.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch(exist_ok=True)
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if start is not None:
            file.seek(start)
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
