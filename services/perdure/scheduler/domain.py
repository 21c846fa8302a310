"""Pure decisions of the scheduler: what a sweep does with an unsettled run (ADR 2), whose work it is, who is asked next (ADR 7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from perdure.registry.superseding import SUPERSEDING


class Action(StrEnum):
    """What to do with one unsettled run."""

    NOTHING = "nothing"
    PUBLISH_START = "publish_start"
    """Its start command may never have been published."""
    PUBLISH_EVENTS = "publish_events"
    """It ended and its events may not all be published."""


def decide(
    run: Mapping[str, Any],
    *,
    now: datetime,
    busy_threads: Set[str],
    publish_grace: timedelta,
    settle_grace: timedelta,
) -> Action:
    """What to do with an unsettled run that no worker owns.

    Args:
        run: The document of a pending or ended run; :meth:`perdure.scheduler.sweeps.Sweeper.recover` looks after running ones.
        now: By the database's clock.
        busy_threads: Threads that have a running run: their pending runs are enqueued, not forgotten; but a run that ends the
            others of its thread is published, and whoever reads its start sees to that.
        publish_grace: How long a pending run may wait, since its last publication, before it is published again.
        settle_grace: How long an ended run may stay unsettled.

    """
    if run["status"] == "pending":
        claimable = run["thread_id"] not in busy_threads or run.get("multitask_strategy") in SUPERSEDING
        due = claimable and _start_is_due(run, now, publish_grace)
        return Action.PUBLISH_START if due else Action.NOTHING
    return Action.PUBLISH_EVENTS if now - _touched(run) >= settle_grace else Action.NOTHING


def _touched(run: Mapping[str, Any]) -> datetime:
    """When something was last done about a run."""
    touched: datetime = run.get("swept_at") or run["updated_at"]
    return touched


def _start_is_due(run: Mapping[str, Any], now: datetime, grace: timedelta) -> bool:
    """After a crash, as soon as the back-off is over; else, and again, after ``grace``."""
    begins, swept = run.get("not_before"), run.get("swept_at")
    if begins is not None and (swept is None or swept < begins):
        return bool(begins <= now)
    return now - _touched(run) >= grace


def rank(key: str, instance: str, others: Iterable[str]) -> int:
    """How many of ``others`` come before ``instance`` for ``key``, by rendezvous hashing: 0 means that it is its own.

    When an instance comes or goes, only what it gains or loses changes hands.
    """
    own = _weight(key, instance)
    return sum(_weight(key, other) > own for other in others)


def _weight(key: str, instance: str) -> bytes:
    return blake2b(f"{instance}\0{key}".encode(), digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class Escalation:
    """A question goes to the next person."""

    assigned_to: str
    escalations: int
    due_at: datetime


def escalation_of(wait: Mapping[str, Any], now: datetime) -> Escalation | None:
    """Who is asked next when a wait's time is over; ``None`` when the clock ends it.

    The next person's time counts from the end of the one before; after an outage in which that is over as well, from now.

    Args:
        wait: Its document.
        now: By the database's clock.

    """
    question = wait.get("question") or {}
    people, done, expires_s = question.get("escalate_to") or (), wait.get("escalations", 0), question.get("expires_s")
    if done >= len(people) or not expires_s:
        return None
    allowed = timedelta(seconds=expires_s)
    due_at = wait["due_at"] + allowed
    return Escalation(people[done], done + 1, due_at if due_at > now else now + allowed)
