"""How far a batch is: counts, rate, time left, and whether too many items failed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from math import floor
from typing import Any, Final

from perdure.schemas.batch_documents import ENDED_ITEMS, OPEN_ITEMS, ItemStatus, Sample

SAMPLE_EVERY: Final = timedelta(seconds=5)
SAMPLES: Final = 60
"""So many are kept: five minutes."""


def counted(found: Mapping[str, int]) -> dict[str, int]:
    """Counts with every status."""
    return {status.value: int(found.get(status.value, 0)) for status in ItemStatus}


def ended_of(counts: Mapping[str, int]) -> int:
    """Items that have ended."""
    return sum(counts.get(status.value, 0) for status in ENDED_ITEMS)


def open_of(counts: Mapping[str, int]) -> int:
    """Items that have not."""
    return sum(counts.get(status.value, 0) for status in OPEN_ITEMS)


def sampled(samples: Sequence[Sample], counts: Mapping[str, int], now: datetime) -> list[Sample]:
    """The samples with one of now, where it is time for one."""
    if samples and now - samples[-1]["at"] < SAMPLE_EVERY:
        return list(samples)
    return [*samples, Sample(at=now, ended=ended_of(counts))][-SAMPLES:]


def rate_per_s(samples: Sequence[Sample], counts: Mapping[str, int], now: datetime) -> float | None:
    """Items that ended by second since the oldest sample; ``None`` when that is less than a second ago."""
    if not samples:
        return None
    oldest = samples[0]
    seconds = (now - oldest["at"]).total_seconds()
    return max(0.0, (ended_of(counts) - oldest["ended"]) / seconds) if seconds >= 1 else None


def eta_s(rate: float | None, counts: Mapping[str, int]) -> float | None:
    """Seconds until everything has ended at this rate; ``None`` when nothing ends."""
    left = open_of(counts)
    if left == 0:
        return 0.0
    return left / rate if rate else None


def allowed_failures(threshold: float, total: int) -> int:
    """How many failed items a threshold allows: a number of items, or a share of them when below 1."""
    return floor(threshold * total + 1e-9) if threshold < 1 else floor(threshold)


def over_threshold(batch: Mapping[str, Any], counts: Mapping[str, int]) -> bool:
    """Whether more items failed, since the last resume, than are allowed."""
    threshold = batch.get("failure_threshold")
    if threshold is None:
        return False
    failed = counts.get(ItemStatus.FAILED.value, 0) - int(batch.get("forgiven", 0))
    return failed > allowed_failures(threshold, int(batch["total"]))
