"""Pure decisions of the scheduler: what a sweep does with an unsettled run (ADR 2)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class Action(StrEnum):
    """What to do with one unsettled run."""

    NOTHING = "nothing"
    PUBLISH_START = "publish_start"
    """Its start command may never have been published."""
    RECOVER = "recover"
    """Its owner is dead: give it back and publish its start."""
    PUBLISH_EVENTS = "publish_events"
    """It ended and its events may not all be published."""


def decide(
    run: Mapping[str, Any],
    *,
    now: datetime,
    alive: Set[str],
    busy_threads: Set[str],
    publish_grace: timedelta,
    settle_grace: timedelta,
) -> Action:
    """What to do with an unsettled run.

    Args:
        run: Its document.
        now: By the database's clock.
        alive: Worker incarnations whose lease holds.
        busy_threads: Threads that have a running run: their pending runs are enqueued, not forgotten.
        publish_grace: How long a pending run may wait, since its last publication, before it is published again.
        settle_grace: How long an ended run may stay unsettled.

    """
    status = run["status"]
    if status == "running":
        return Action.NOTHING if run.get("owner") in alive else Action.RECOVER
    touched = run.get("swept_at") or run["updated_at"]
    if status == "pending":
        due = run["thread_id"] not in busy_threads and now - touched >= publish_grace
        return Action.PUBLISH_START if due else Action.NOTHING
    return Action.PUBLISH_EVENTS if now - touched >= settle_grace else Action.NOTHING
