"""What ``perdure status`` shows about one process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict

from perdure.local.probes import probe_external, probe_http, ready_warnings
from perdure.local.servers import probe
from perdure.local.state import Record


class ProcessStatus(BaseModel):
    """One server or service."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Literal["server", "service"]
    state: Literal["ready", "not ready", "paused", "ended", "external"]
    address: str
    detail: str = ""
    """Why it is not ready, or what it warns of."""
    pid: int | None = None
    uptime_s: float | None = None
    cpu_s: float | None = None
    """User and system CPU seconds since its start."""
    memory_mb: int | None = None
    """Resident memory."""
    log: Path | None = None
    data: Path | None = None
    restarts: int = 0
    """How often its supervisor started it again."""
    last_exit: str | None = None
    """How it last ended by itself, and when."""


def describe(record: Record) -> ProcessStatus:
    """Look at a process and probe it."""
    found = ProcessStatus(
        name=record.name,
        kind=record.kind,
        state="ended",
        address=record.address,
        detail=f"pid {record.pid} ended",
        log=record.log,
        data=record.data,
        restarts=record.restarts,
        last_exit=record.last_exit,
    )
    process = record.identity.process()
    if process is None:
        return found
    try:
        cpu, memory, paused = process.cpu_times(), process.memory_info(), process.status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return found
    problem = None if paused else _problem(record)
    warnings = [] if paused or problem or record.name != "gateway" else ready_warnings(f"{record.address}/ready")
    return found.model_copy(
        update={
            "state": "paused" if paused else "not ready" if problem else "ready",
            "detail": problem or " ".join(warnings),
            "pid": record.pid,
            "uptime_s": round(time.time() - record.created, 1),
            "cpu_s": round(cpu.user + cpu.system, 2),
            "memory_mb": memory.rss >> 20,
        }
    )


def describe_external(name: str, address: str) -> ProcessStatus:
    """Probe a server that somebody else runs."""
    problem = probe_external(name, address)
    state: Literal["not ready", "external"] = "not ready" if problem else "external"
    return ProcessStatus(name=name, kind="server", state=state, address=address, detail=problem or "")


def _problem(record: Record) -> str | None:
    if record.kind == "server":
        return probe(record.name, record.ports["port"])
    return probe_http(f"{record.address}/ready")
