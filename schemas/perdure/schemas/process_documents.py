"""The stored shape of processes that register themselves, in the collections ``workers`` and ``schedulers``.

Contract: BSON documents as typed dictionaries.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict


class WorkerDocument(TypedDict, total=False):
    """One incarnation of an agent-step process; ``_id`` is the incarnation id."""

    _id: str
    host: str
    pid: int
    state: str
    """``alive``, ``dead`` (lease expired) or ``gone`` (left in order)."""
    expires_at: datetime
    """By the database's clock."""
    started_at: datetime
    graphs: list[str]
    slots: int
    """Runs that it executes at once at most."""
    updates: bool
    """Whether it makes state updates (ADR 33); absent where it would execute nodes in their place, as an earlier version."""


class SchedulerDocument(TypedDict, total=False):
    """One scheduler instance; ``_id`` names it (ADR 7)."""

    _id: str
    expires_at: datetime
    """By the database's clock."""
