"""When a schedule fires: cron expressions in a time zone, and what is due, as pure functions (ADR 7).

Contract: expressions have five fields, or six with seconds first; ``cronsim`` reads them as Debian's cron does, daylight saving
included. All times given and returned are aware, those returned in UTC with whole seconds.

::

    ValueError
    └── BadSchedule     names what is wrong: ``cron`` or ``timezone``
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
COUNTED_AT_ONCE = 5_000
"""Missed fire times that one decision counts; the next decision goes on."""


class Overlap(StrEnum):
    """What happens at a fire time when the run before is not finished: active, or asleep at a wait."""

    SKIP = "skip"
    QUEUE = "queue"
    """It waits its turn on the thread. Only with a thread."""
    CANCEL_OTHER = "cancel_other"
    ROLLBACK_OTHER = "rollback_other"
    """As ``CANCEL_OTHER``, and what the run before wrote is undone."""
    ALLOW = "allow"
    """Both go on, each on its thread. Only without a thread."""


class BadSchedule(ValueError):
    """An expression or a time zone that nobody can follow."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


def times(cron: str, timezone: str, after: datetime) -> Iterator[datetime]:
    """Every fire time later than ``after``, ascending.

    Raises:
        BadSchedule: the expression or the time zone is not valid.

    """
    zone = _zone(timezone)
    try:
        found = CronSim(ALIASES.get(cron.strip().lower(), cron), after.astimezone(zone))
    except CronSimError as error:
        raise BadSchedule("cron", f"{cron!r} is no cron expression: {error}. {_HINT}") from error
    # In the hour that daylight saving repeats, cronsim may name a time of its first pass during the second.
    return (moment for local in found if (moment := local.astimezone(UTC)) > after)


def next_after(cron: str, timezone: str, after: datetime, end_at: datetime | None = None) -> datetime | None:
    """The first fire time later than ``after``; ``None`` when there is none, or it is past ``end_at``."""
    found = next(times(cron, timezone, after), None)
    return found if found is not None and (end_at is None or found <= end_at) else None


def between(cron: str, timezone: str, first: datetime, last: datetime, limit: int) -> list[datetime]:
    """The fire times from ``first`` to ``last``, both included; at most ``limit + 1`` of them, so that too many can be told."""
    found: list[datetime] = []
    for moment in times(cron, timezone, first - timedelta(seconds=1)):
        if moment > last or len(found) > limit:
            break
        if moment >= first:
            found.append(moment)
    return found


def check(cron: str, timezone: str, after: datetime) -> None:
    """Refuse what would never fire.

    Raises:
        BadSchedule: names ``cron`` or ``timezone`` and what is wrong.

    """
    if next(times(cron, timezone, after), None) is None:
        raise BadSchedule("cron", f"{cron!r} never fires: there is no such date")


@dataclass(frozen=True, slots=True)
class Due:
    """What to do with a schedule whose ``next_at`` has come."""

    at: datetime | None
    """The fire time that comes next, in the past or in the future; ``None``: it is over."""
    missed: int
    """How many fire times before it were missed by more than the catch-up window."""


def due(
    cron: str, timezone: str, next_at: datetime, *, now: datetime, catch_up: timedelta, end_at: datetime | None
) -> Due:
    """Leave out the fire times that were missed for too long; at most ``COUNTED_AT_ONCE`` of them are looked at."""
    oldest, missed = now - catch_up, 0
    at: datetime | None = next_at
    following = times(cron, timezone, next_at)
    while at is not None and at < oldest and missed < COUNTED_AT_ONCE:
        missed += 1
        at = next(following, None)
        if at is not None and end_at is not None and at > end_at:
            at = None
    return Due(at, missed)


_HINT = (
    "Five fields (minute, hour, day of month, month, day of week), or six with seconds first, or @hourly, @daily, @weekly, "
    "@monthly, @yearly. Example: '0 9 * * MON-FRI'"
)


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadSchedule("timezone", f"{name!r} is no time zone. Examples: 'UTC', 'Europe/Berlin'") from error
