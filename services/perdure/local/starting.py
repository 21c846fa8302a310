"""What must hold before ``perdure up`` or ``perdure dev`` starts anything: found before a server starts, not after.

Contract: each function raises a :class:`LocalError` that says what to do, and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import psutil

from perdure.local.environments import differing, warning
from perdure.local.errors import LocalError
from perdure.local.resources import require_port
from perdure.local.services import GATEWAY_PORT, Services
from perdure.local.stack import Stack
from perdure.local.state import Record

_GATEWAY: Final = "gateway"
_PORT: Final = "PERDURE_GATEWAY_PORT"


def require_idle(stack: Stack) -> None:
    """Check that no services run in the stack's data folder yet: ``perdure dev`` would end them with itself.

    :raises LocalError: some do.
    """
    running = [name for name, record in stack.running().items() if record.kind == "service"]
    if running or stack.supervisor():
        what = ", ".join(running) or "its supervisor"
        raise LocalError(f"a stack already runs in {stack.folder} ({what}). Run `perdure down` first.")


def require_no_dev(stack: Stack) -> None:
    """Check that no ``perdure dev`` runs the stack.

    :raises LocalError: one does.
    """
    supervisor = stack.supervisor()
    if supervisor and supervisor.command == "dev" and supervisor.pid != os.getpid():
        raise LocalError(
            f"`perdure dev` (pid {supervisor.pid}) runs the stack in {stack.folder} and starts again what ends there. "
            "Press Ctrl-C there, or run `perdure down`, first."
        )


def require_gateway_port(stack: Stack) -> None:
    """Check that the gateway's port is free, unless the gateway of this stack has it or a free one is taken.

    :raises PortInUseError: another process listens on it.
    """
    given = os.environ.get(_PORT) or str(GATEWAY_PORT)
    if not given.isdecimal():
        raise LocalError(f"{_PORT} is {given!r}; it must be a port number, or 0 for a free one.")
    port = int(given)
    record = stack.state.read().records.get(_GATEWAY)
    if port and not stack.ephemeral and not (record and record.running):
        require_port(_GATEWAY, port, _PORT)


def environment_warning(running: Mapping[str, Record], services: Services) -> str | None:
    """What to say where running services have another environment than ``services`` would be started with; None if none has."""
    differences: dict[str, list[str]] = {}
    for label, record in running.items():
        if label in services.processes and (process := record.identity.process()):
            try:
                differences[label] = differing(process.environ(), services[label].environment())
            except psutil.Error:
                continue
    return warning(differences)
