"""What a system under test must be able to do, so that all are measured by the same code.

Contract: one object is one start of the system with empty data. ``open`` returns when it serves; ``close`` ends every process that
it started, also after a failed ``open``. The calls of a workload verify the result and raise if it is wrong. A workload that is in
``reasons`` is never called.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, ClassVar

from harness.accounting import memory_bytes

OPEN = 200
"""Agents or starts open at a time, on every system."""


class System:
    """A system under test.

    Args:
        scratch: An empty folder for data and logs, removed by the caller.
        home: Where its setup script installed it.

    """

    title: ClassVar[str]
    reasons: ClassVar[dict[str, str]] = {}
    """Workloads (kinds, or ids of the plan) that it cannot do, and why."""
    in_process: ClassVar[bool] = True
    """Whether the agents run in the driver's process, whose CPU and memory then count as the system's."""
    persists: ClassVar[str]
    """What it writes for each step, in words."""
    stored_is: ClassVar[str]
    """What ``stored`` counts, in words."""
    stores: ClassVar[frozenset[str]] = frozenset()
    """Names in ``memory_mib`` of servers that keep data, whose caches grow with it."""

    def __init__(self, scratch: Path, home: Path) -> None:
        self.scratch = scratch
        self.home = home
        self.full_state = False
        """``chain``: whether a step's result is the whole state, where a system would else persist the new message only."""
        self.rooms = asyncio.Semaphore(OPEN)
        """Starts under way at a time, for workloads in which all agents live at once."""
        self.ack_s: list[float] = []
        """Start call until its durable acknowledgement, where the system has one; emptied by the harness."""
        self.back_s: list[float] = []
        """Call of ``resume`` until the agent's code ran again, where that is known; emptied by the harness."""

        self.searchable_s: list[float] = []
        """``chain``: a step's event until a search finds the step, of a sample, where there is a search; emptied by the harness."""

    async def open(self) -> None:
        """Start."""
        raise NotImplementedError

    async def close(self) -> None:
        """Stop all that was started."""
        raise NotImplementedError

    async def chain(self, key: str, state_bytes: int) -> None:
        """Five durable steps on a state of that size; returns when the agent's end was seen."""
        raise NotImplementedError

    async def short(self, key: str) -> None:
        """One durable step."""
        raise NotImplementedError

    async def park(self, key: str) -> None:
        """Start an agent of 1 KiB that does one step and waits for a signal; returns when the start is acknowledged."""
        raise NotImplementedError

    async def parked(self) -> int:
        """How many agents have ever come to their wait."""
        raise NotImplementedError

    async def resume(self, key: str) -> None:
        """Signal a parked agent; returns when its next step is durable and its end was seen."""
        raise NotImplementedError

    async def timer(self, key: str, due: float) -> float:
        """Start an agent that sleeps until ``due`` (epoch seconds); returns the seconds from then until its code ran again."""
        raise NotImplementedError

    async def talk(self, key: str, until: int) -> None:
        """Let one agent add messages of 1 KiB, one durable step each, until its history has ``until``."""
        raise NotImplementedError

    async def recall(self, key: str) -> int:
        """Load the last state of that agent from the store; returns the number of its messages."""
        raise NotImplementedError

    async def fan_out(self, key: str, width: int) -> None:
        """One agent with ``width`` parallel branches that are joined."""
        raise NotImplementedError

    def agent_server(self) -> str | None:
        """The URL of its Agent Server API, where it has one with streams."""
        return None

    async def settle(self) -> None:
        """Return when everything that finished agents cause has been done (indexing, for example)."""

    def processes(self) -> list[int]:
        """The roots of the process trees whose CPU and memory count, other than the driver's."""
        return []

    def memory_mib(self) -> dict[str, float]:
        """MiB that belong to its processes alone (unique set size), by name where it has several."""
        return {self.title: round(memory_bytes(self.all_processes()) / 2**20, 1)}

    async def stored(self) -> dict[str, int]:
        """Bytes in the store so far: ``data``, and ``journal`` where it is kept apart and can be read."""
        return {}

    def about(self) -> dict[str, Any]:
        """Versions and durability settings."""
        return {}

    def all_processes(self) -> list[int]:
        """With the driver if the agents run in it."""
        return [*self.processes(), *([os.getpid()] if self.in_process else [])]
