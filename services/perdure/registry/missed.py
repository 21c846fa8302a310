"""Fire times that nobody was there for, and that are made up one after another (ADR 19). Pure.

Contract: a schedule keeps what is left to make up as periods, oldest first: the next missed fire time (``at``) and the moment up to
which fire times were missed (``until``). Fire times outside the periods were decided at their time and are never looked at again.

Outside: storing the periods and starting the runs (``perdure.registry.schedules``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from perdure.registry import cron
from perdure.registry.cron import Due, Overlap
from perdure.schemas.schedule_documents import MissedPeriod

PUNCTUAL: Final = timedelta(seconds=2)
"""A fire time that is looked at later than this was missed: nobody was there at its time."""
PERIODS: Final = 100
"""Periods that one schedule keeps, at most; fire times missed beyond them are decided like those that come due now."""
ONE_AFTER_ANOTHER: Final = frozenset({Overlap.SKIP, Overlap.CANCEL_OTHER, Overlap.ROLLBACK_OTHER})
"""Policies under which a missed time waits for the run before. Under the others runs may stand side by side or queue already."""


def is_missed(at: datetime, now: datetime) -> bool:
    """Whether nobody was there when a fire time came."""
    return now - at > PUNCTUAL


def is_put_aside(schedule: Mapping[str, Any]) -> bool:
    """Whether a missed fire time waits for the run before instead of being decided at once."""
    return Overlap(schedule["overlap"]) in ONE_AFTER_ANOTHER and len(schedule.get("catch_up") or ()) < PERIODS


def put_aside(schedule: Mapping[str, Any], until: datetime) -> list[MissedPeriod]:
    """The periods of a schedule, with its fire times from ``next_at`` to ``until`` added."""
    return [*(schedule.get("catch_up") or ()), {"at": schedule["next_at"], "until": until}]


def due(schedule: Mapping[str, Any], at: datetime, now: datetime, end_at: datetime | None) -> Due:
    """What comes next of a schedule's fire times from ``at`` to ``end_at``, and how many are older than its catch-up window."""
    window = timedelta(seconds=schedule["catch_up_s"])
    return cron.due(schedule["cron"], schedule["timezone"], at, now=now, catch_up=window, end_at=end_at)


def going_on_at(periods: Sequence[MissedPeriod], at: datetime | None) -> list[MissedPeriod]:
    """The periods when ``at`` is the next fire time of the first; ``None``: the first is over."""
    return [*periods[1:]] if at is None else [{"at": at, "until": periods[0]["until"]}, *periods[1:]]


def after(schedule: Mapping[str, Any], at: datetime) -> list[MissedPeriod]:
    """The periods when the fire time ``at`` of the first is made up."""
    periods: Sequence[MissedPeriod] = schedule["catch_up"]
    return going_on_at(periods, cron.next_after(schedule["cron"], schedule["timezone"], at, periods[0]["until"]))


def left(schedule: Mapping[str, Any]) -> int:
    """How many fire times are left to make up; counts ``cron.COUNTED_AT_ONCE`` of a period at most."""
    between = (
        cron.between(schedule["cron"], schedule["timezone"], one["at"], one["until"], cron.COUNTED_AT_ONCE - 1)
        for one in schedule.get("catch_up") or ()
    )
    return sum(map(len, between))
