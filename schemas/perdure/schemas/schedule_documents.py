"""The documents of the collection ``schedules`` (ADR 7).

Contract: BSON documents as typed dictionaries.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NotRequired, TypedDict


class FiringMark(TypedDict):
    """What was decided about one firing, before it is done (ADR 7)."""

    key: str
    """The idempotency key of its run."""
    cause: str
    """``perdure.registry.schedules.Cause``."""
    at: datetime
    """The fire time."""
    start: bool
    """False: it is skipped, the run before is not finished."""
    cancel: bool
    """Whether the run before is cancelled first."""
    rollback: NotRequired[bool]
    """Whether what that run wrote is undone; absent: no."""
    run_id: str
    thread_id: str


class MissedPeriod(TypedDict):
    """Fire times that nobody was there for, as far as they are not made up (ADR 19)."""

    at: datetime
    """The next of them."""
    until: datetime
    """The last moment of the period; fire times after it were decided at their time."""


class ScheduleDocument(TypedDict, total=False):
    """One schedule; ``_id`` is its id (ADR 7)."""

    _id: str
    tenant: str
    graph_id: str
    assistant_id: str
    thread_id: str | None
    """``None``: each run gets a new thread."""
    cron: str
    timezone: str
    """IANA name."""
    payload: bytes
    """Input, config, ... of the runs, as JSON, packed by ``perdure.chassis.payload``; always inline."""
    auth: dict[str, Any]
    """What the project's ``auth`` handlers put into the metadata; the threads of its runs have the same."""
    user: bytes
    """Who made the schedule, as ``perdure.schemas.auth_user`` packs it: its runs act for them."""
    metadata: dict[str, Any]
    overlap: str
    """``perdure.registry.cron.Overlap``."""
    ephemeral: bool
    """Whether the threads of its runs are deleted once these have ended; absent: no."""
    catch_up_s: float
    """A fire time that was missed by more seconds is not made up."""
    paused: bool
    end_at: datetime | None
    next_at: datetime
    """The next fire time; absent while paused and after the end."""
    firing: FiringMark
    """There between the decision about a fire time and what comes of it."""
    catch_up: list[MissedPeriod]
    """What is left to make up, oldest first; each of it waits until the run before has ended."""
    revision: int
    """Grows by one with every change, so that a change meets what it was decided on."""
    created_at: datetime
    updated_at: datetime
    last_fired_at: datetime
    last_run_id: str
    last_thread_id: str
    fired: int
    skipped: int
    """Fire times at which the run before was not finished."""
    missed: int
    """Fire times that were missed and not made up: by more than ``catch_up_s``, or a newer run took their place."""
