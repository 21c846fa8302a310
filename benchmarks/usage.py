"""Servers to measure, and what a run costs: CPU seconds by process, bytes on disk, a profile of one worker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from harness.accounting import memory_bytes

from perdure.local.display import Display
from perdure.local.reaper import end_reaper, remove, start_reaper
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack

TOP = 25
_RATE = 200
_SCAFFOLD = re.compile(r"frozen runpy|\(threading\.py\)|\(asyncio/runners\.py\)|^<module>|\(uvloop/|run_service")
"""Frames below everything, which say nothing."""
_PYSPY = Path(sys.executable).parent / "py-spy"


@contextmanager
def servers(display: Display, *, optimised: bool) -> Iterator[Stack]:
    """Empty servers on free ports; they and their data are gone at the end, also when this process is killed.

    Args:
        display: Where progress is shown.
        optimised: Whether Java's optimising compiler is on, as it is for a user's servers. An ephemeral stack goes
            without: compiling costs more CPU than a short run has.

    """
    if not optimised:
        with Stack(ephemeral=True, display=display) as stack:
            yield stack
        return
    folder = Path(tempfile.mkdtemp(prefix="perdure-bench-"))
    folder.chmod(0o711)  # OpenSearch may run as another user
    reaper = start_reaper(folder)
    try:
        stack = Stack(LocalSettings().with_free_ports().model_copy(update={"data_dir": folder}), display=display)
        stack.start()
        yield stack
    finally:
        remove(folder, kill=False)
        end_reaper(reaper)


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """CPU seconds (user and system, with all children) of each server and service of a stack, by name."""
    found: dict[str, float] = {}
    for name, record in stack.state.read().records.items():
        process = record.identity.process()
        if process is not None:
            found[name] = _tree_seconds(process)
    return found


def own_cpu_seconds() -> float:
    """CPU seconds of this process without its children."""
    times = os.times()
    return times.user + times.system


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """``after - before`` for each name of ``after``."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def _tree_seconds(process: psutil.Process) -> float:
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        if one is process:
            total += times.children_user + times.children_system
    return total


class Profile:
    """py-spy, attached to one process until :meth:`stop`; the result is a speedscope file.

    Only time with the interpreter lock held is counted: waiting is not, nor is C code that lets it go (zstd, sockets).
    """

    def __init__(self, pid: int, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._log = file.with_suffix(".log").open("wb")
        options = ["--rate", str(_RATE), "--function", "--gil", "--nonblocking", "--format", "speedscope"]
        self._process = subprocess.Popen(
            [str(_PYSPY), "record", "--pid", str(pid), *options, "--output", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop(self) -> list[str]:
        """End it and say which functions took the time: own time, and time with what they called.

        Raises:
            RuntimeError: py-spy wrote nothing; its own words are in the ``.log`` beside the file.

        """
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=60)
        self._log.close()
        if not self.file.exists():
            raise RuntimeError(f"py-spy wrote no profile; see {self.file.with_suffix('.log')}")
        return list(_top(json.loads(self.file.read_text())))


def _top(speedscope: dict[str, object]) -> Iterator[str]:
    shared, profiles = speedscope["shared"], speedscope["profiles"]
    assert isinstance(shared, dict)
    assert isinstance(profiles, list)
    files = [frame.get("file") or "?" for frame in shared["frames"]]
    names = [f"{frame['name']} ({_place(file)})" for frame, file in zip(shared["frames"], files, strict=True)]
    places = [_package(file) for file in files]
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    packages: Counter[str] = Counter()
    weight = 0.0
    for profile in profiles:
        for stack, seconds in zip(profile["samples"], profile["weights"], strict=True):
            if not stack:
                continue
            weight += seconds
            own[names[stack[-1]]] += seconds
            packages[places[stack[-1]]] += seconds
            for frame in set(stack):
                if not _SCAFFOLD.search(names[frame]):
                    total[names[frame]] += seconds
    for title, counter in (("own time by package", packages), ("own time", own), ("with what they called", total)):
        yield f"{title}:"
        yield from (f"  {seconds / weight:6.1%}  {name}" for name, seconds in counter.most_common(TOP))


def _place(file: str) -> str:
    """A file relative to the folder of packages that it is in."""
    return re.split(r"site-packages/|/services/|/schemas/(?=perdure)|/lib/python[\d.]+/", file)[-1]


def _package(file: str) -> str:
    """Ours by service, others by distribution, ``python`` for the standard library."""
    parts = Path(_place(file)).parts
    if parts[:1] == ("perdure",):
        return ".".join(parts[:2]).removesuffix(".py")
    return parts[0] if len(parts) > 1 and "site-packages" in file else "python"


def memory_mib(stack: Stack) -> dict[str, float]:
    """MiB of each server and service that are its own (unique set size, with all children), by name."""
    found: dict[str, float] = {}
    for name, record in stack.state.read().records.items():
        process = record.identity.process()
        if process is not None:
            found[name] = round(memory_bytes([process.pid]) / 2**20, 1)
    return found
