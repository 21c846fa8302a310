"""Percentiles, rounding, slopes."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile; ``None`` of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[round(percent / 100 * (len(ordered) - 1))]


def milliseconds(seconds: float | None) -> float | None:
    """Seconds in milliseconds, to a hundredth."""
    return None if seconds is None else round(seconds * 1000, 2)


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """By least squares, the change of y when x goes from its first to its last value, as a share of y's mean."""
    if len(xs) < 2:
        return 0.0
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    if not spread or not y_mean:
        return 0.0
    per_x = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
    return per_x * (xs[-1] - xs[0]) / y_mean
