"""Is there enough disk, memory, and a free port? Checked before a start, so that the message names the real cause."""

from __future__ import annotations

import random
import shutil
import socket
import time
from pathlib import Path
from typing import Final

import psutil

from perdure.local.errors import PortInUseError, TooLittleSpaceError

HOST: Final = "127.0.0.1"
STACK_VARIABLE: Final = "PERDURE_STACK_FOLDER"
"""In the environment of every process of a stack: its data folder, so that others can say whose a process is."""
FREE_PORTS = (20_000, 32_000)
"""Where `free_port` looks."""
_POLL_S: Final = 0.05
_given: set[int] = set()
"""Ports that were given by `free_port`: who got one may take seconds until it listens."""


def require_disk(folder: Path, needed: int, variable: str) -> None:
    """Check that the file system of ``folder`` (which need not exist yet) has ``needed`` bytes.

    :raises TooLittleSpaceError: it has less.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        advice = f"Free some space at {existing}, or choose another folder with {variable}."
        raise TooLittleSpaceError("disk", needed >> 20, free >> 20, advice)


def require_memory(needed_mb: int) -> None:
    """Check that so much memory is available.

    :raises TooLittleSpaceError: less is.
    """
    available = psutil.virtual_memory().available >> 20
    if available < needed_mb:
        raise TooLittleSpaceError(
            "memory",
            needed_mb,
            available,
            "Close something, make the heaps smaller (PERDURE_LOCAL_KAFKA_HEAP_MB, PERDURE_LOCAL_OPENSEARCH_HEAP_MB), "
            "or use servers elsewhere (PERDURE_OPENSEARCH_URL=...).",
        )


def free_port() -> int:
    """A port that nothing listens on right now.

    It is below the ranges from which systems take ports for outgoing connections: nobody gets it by chance while a
    server that owns it is being restarted. No port is given twice by one process, until most of them were.
    """
    if len(_given) > (FREE_PORTS[1] - FREE_PORTS[0]) // 2:
        _given.clear()
    while True:
        port = random.randrange(*FREE_PORTS)  # noqa: S311 (not a secret)
        if port not in _given and _can_bind(port):
            _given.add(port)
            return port


def require_port(name: str, port: int, variable: str, *, patience_s: float = 0.0) -> None:
    """Check that nothing listens on the port.

    :param patience_s: wait so long for it to become free (the process that had it is just ending).
    :raises PortInUseError: something does; the message names the process if this user may see it.
    """
    deadline = time.monotonic() + patience_s
    while not _can_bind(port):
        if time.monotonic() >= deadline:
            raise PortInUseError(name, port, variable, *port_owner(port))
        time.sleep(_POLL_S)


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def port_owner(port: int) -> tuple[str, Path | None]:
    """Which process listens on a port, in words, and the data folder of the Perdure stack that it belongs to, if any."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return "another process (this user may not see which)", None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            if connection.pid is None:
                return "a process of another user", None
            try:
                process = psutil.Process(connection.pid)
                return f"{process.name()} (pid {connection.pid})", _stack_of(process)
            except psutil.NoSuchProcess:
                continue
    return "another process", None


def _stack_of(process: psutil.Process) -> Path | None:
    try:
        folder = process.environ().get(STACK_VARIABLE)
    except psutil.AccessDenied:
        return None
    return Path(folder) if folder else None
