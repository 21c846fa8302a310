"""The one clock for everything that is stored, published or shown.

Contract: what :func:`now` returns is what MongoDB gives back when it is stored. A moment that is computed or parsed is cut by
:func:`perdure.schemas.moments.in_milliseconds` where it is made. Ruff (TID251) refuses ``datetime.now`` everywhere else.

Outside: durations, which are measured with ``time.monotonic`` or ``time.perf_counter``, and the database's own clock
(``perdure.chassis.mongo.server_time``).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from perdure.schemas.moments import in_milliseconds


def now() -> datetime:
    """The wall clock's time, in UTC, in whole milliseconds."""
    return in_milliseconds(datetime.now(UTC))  # noqa: TID251 - the one place that reads it


def after(seconds: float) -> datetime:
    """The moment ``seconds`` from now, in UTC, in whole milliseconds."""
    return in_milliseconds(now() + timedelta(seconds=seconds))
