"""When a notice is sent, and when it is tried again. Pure.

Contract: every function is of its arguments; chance comes in as an argument. Times are aware, in UTC.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from zoneinfo import ZoneInfo

from perdure.schemas.notices import QuietHours

GROWTH: Final = 3.0
JITTER: Final = 0.25

Chance = Callable[[], float]
"""A number from 0 to 1, such as ``random.random``."""


def backoff_s(failures: int, first_s: float, cap_s: float, chance: Chance) -> float:
    """Seconds until the next attempt, after so many failures (1, 2, ...): grows threefold, up to the cap, 25 % more or less.

    With the defaults: 5 s, 15 s, 45 s, 2 min, 7 min, 20 min, 1 h, 3 h, then every 6 h; about 19 attempts in three days.
    """
    exponent = min(failures - 1, 64)
    return min(cap_s, first_s * GROWTH**exponent) * (1 - JITTER + 2 * JITTER * chance())


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for; ``None`` if it cannot be read.

    RFC 9110, 10.2.3: a number of seconds, or a date.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) < 10 else math.inf
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def next_attempt(now: datetime, pause_s: float, asked_s: float | None, give_up_at: datetime) -> datetime | None:
    """When a delivery that failed is tried again; ``None``: its time is over.

    A receiver may ask for a longer pause, not for a shorter one, and not past the end: the last attempt is at ``give_up_at``.
    """
    if now >= give_up_at:
        return None
    left_s = (give_up_at - now).total_seconds()
    return now + timedelta(seconds=min(left_s, max(pause_s, asked_s or 0.0)))


def after_quiet(moment: datetime, quiet: QuietHours | None, kind: str) -> datetime:
    """The moment, or the end of the quiet hours that it falls into, unless the kind is urgent."""
    if quiet is None or kind in quiet["urgent"]:
        return moment
    zone = ZoneInfo(quiet["timezone"])
    local = moment.astimezone(zone)
    start, end, clock = _minutes(quiet["start"]), _minutes(quiet["end"]), local.hour * 60 + local.minute
    overnight = end <= start
    inside = (clock >= start or clock < end) if overnight else start <= clock < end
    if not inside:
        return moment
    day = local.date() + timedelta(days=1 if overnight and clock >= start else 0)
    # A local time that the clocks skip is taken as the one after the gap: zoneinfo converts it so.
    return datetime(day.year, day.month, day.day, end // 60, end % 60, tzinfo=zone).astimezone(UTC)


def window_of(moment: datetime, seconds: float) -> tuple[int, datetime]:
    """The digest window that a moment falls into: its number since 1970, and its end."""
    number = math.floor(moment.timestamp() / seconds)
    return number, datetime.fromtimestamp((number + 1) * seconds, UTC)


def expiring_at(asked_at: datetime, due_at: datetime, lead_s: float) -> datetime:
    """When a question is called expiring: ``lead_s`` before its end, but not before half of its time has passed."""
    half_s = (due_at - asked_at).total_seconds() / 2
    return due_at - timedelta(seconds=max(0.0, min(lead_s, half_s)))


def _minutes(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)
