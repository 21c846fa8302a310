"""Stored marks about states: what came of a state update (in its run), and when a thread is to be removed (in the thread)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypedDict


class StateUpdateMark(TypedDict, total=False):
    """How a state update ended: one of the two."""

    checkpoint: dict[str, Any]
    """The newest checkpoint that it made: ``checkpoint_ns``, ``checkpoint_id``, ``checkpoint_map``."""
    refused: dict[str, Any]
    """Why it changed nothing: :class:`perdure.schemas.events.ErrorInfo` as JSON."""


class TtlMark(TypedDict, total=False):
    """A thread's time to live."""

    strategy: str
    """``delete``, or ``keep_latest``."""
    minutes: float
    expires_at: datetime
    due_at: datetime
    """When the scheduler looks at it: later than ``expires_at`` while the thread could not be removed, absent once it is done."""
