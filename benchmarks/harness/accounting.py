"""CPU, memory and disk of process trees."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import psutil


def tree(roots: Iterable[int]) -> dict[int, psutil.Process]:
    """The processes of these trees that live, each once. The driver's own tree is the driver alone."""
    found: dict[int, psutil.Process] = {}
    for pid in roots:
        try:
            process = psutil.Process(pid)
            below = [] if pid == os.getpid() else process.children(recursive=True)
        except psutil.NoSuchProcess:
            continue
        found |= {one.pid: one for one in [process, *below]}
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system seconds of these trees, with children that have ended."""
    total = 0.0
    for process in tree(roots).values():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        if process.pid != os.getpid():
            total += times.children_user + times.children_system
    return total


def busy_seconds() -> float:
    """Seconds that the machine's cores were not idle."""
    times = psutil.cpu_times()
    other = sum(getattr(times, name, 0.0) for name in ("irq", "softirq"))
    return float(times.user + times.nice + times.system + other)


def memory_bytes(roots: Iterable[int]) -> int:
    """Memory that belongs to these trees alone (unique set size)."""
    total = 0
    for process in tree(roots).values():
        try:
            total += process.memory_full_info().uss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def folder_bytes(folder: Path) -> int:
    """Bytes on disk below a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_blocks * 512
            except OSError:  # a server may remove its files at any time
                continue
    return total
