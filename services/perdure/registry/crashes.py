"""Counting the workers that a run lost: the same whoever gives the run back (ADR 10).

Contract: pure. The count is part of the compare-and-set that gives the run back, so each loss is counted once. Agent-step begins to
count anew when the run has made progress since, and parks it at the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

LOG_LENGTH: Final = 20
SUSPECT_FROM: Final = 2
"""From so many crashes on a run is a suspect, executed with few others of its kind, so that it cannot put its crashes on them."""
BACKOFF_CAP_S: Final = 300.0


def backoff(crashes: int, base_s: float) -> timedelta:
    """How long to wait before a run that crashed so many times is started again: not at all after the first."""
    if crashes < SUSPECT_FROM:
        return timedelta(0)
    return timedelta(seconds=min(BACKOFF_CAP_S, base_s * 2 ** min(crashes - SUSPECT_FROM, 30)))


def crash_change(
    run: Mapping[str, Any], now: datetime, base_s: float, error: str | None = None
) -> dict[str, dict[str, Any]]:
    """What an update that gives a run back adds (``$set``, ``$inc``, ``$push``)."""
    record: dict[str, Any] = {"at": now, "worker": run.get("owner")}
    if error is not None:
        record["error"] = error[:500]
    return {
        "$set": {"not_before": now + backoff(run.get("crashes", 0) + 1, base_s)},
        "$inc": {"crashes": 1},
        "$push": {"crash_log": {"$each": [record], "$slice": -LOG_LENGTH}},
    }


def is_suspect(run: Mapping[str, Any]) -> bool:
    """Whether a run has lost so many workers that it is executed alone among such runs."""
    return int(run.get("crashes", 0)) >= SUSPECT_FROM


def together(crashes: int, limit: int, most: int) -> int:
    """How many suspects a worker may execute at once beside one with so many crashes.

    A quarter, a sixteenth, ... of the ``most`` that it executes otherwise, and one alone before the crash that parks it: the last
    crash is charged to nobody else. Two that only shared a worker are hardly ever together again.
    """
    return 1 if crashes >= limit - 1 else max(1, most // 4 ** (crashes - 1))


def counted(run: Mapping[str, Any], head: str | None) -> int:
    """How many workers a run lost since it last made progress.

    When it has (``head`` is not where they were counted, ``crash_head``), all but the last count for nothing.
    """
    crashes = int(run.get("crashes", 0))
    return min(crashes, 1) if run.get("crash_head", head or "") != (head or "") else crashes
