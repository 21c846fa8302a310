"""Where an attempt runs, so precisely that a later process on the same machine can tell that it is over for good.

Contract: :func:`is_gone` is true only with proof: same boot of the same kernel, same process namespace, and no process with that
id and start time. Anything else, other machines and systems without ``/proc`` among them, is "not known".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


@cache
def _kernel() -> dict[str, Any] | None:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "pids": (_PROC / "self/ns/pid").stat().st_ino}
    except OSError:
        return None


def here() -> dict[str, Any] | None:
    """The place of this process; ``None`` where it cannot be told."""
    kernel, pid = _kernel(), os.getpid()
    started = _started(pid)
    return {**kernel, "pid": pid, "started": started} if kernel and started is not None else None


def is_gone(place: Mapping[str, Any] | None) -> bool:
    """Whether the process at ``place`` is known not to exist any more."""
    kernel = _kernel()
    if not place or not kernel or any(place[name] != value for name, value in kernel.items()):
        return False
    started: int = place["started"]
    return _started(place["pid"]) != started


def _started(pid: int) -> int | None:
    """Clock ticks from the boot to the start of a process; ``None`` when there is none or it is a zombie."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])
