"""From past closing prices to an order: momentum, volatility, and how much of the budget to risk. Pure.

The share of the budget is the Kelly fraction of the measured drift and variance, halved, and at most all of it; a series without a
positive drift buys nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean, variance
from typing import Any

LIMIT_ABOVE_PRICE = 0.01
"""The order's limit is one per cent above the price that it was computed for."""
WINDOW = 20


@dataclass(frozen=True, slots=True)
class Findings:
    """What the series says."""

    drift: float
    """Mean logarithmic return of a period."""
    volatility: float
    """Standard deviation of it."""
    momentum: float
    """The last close over the mean of the last 20, minus 1."""
    fraction: float
    """Of the budget to invest, 0 to 1."""

    def as_dict(self) -> dict[str, float]:
        """As JSON, rounded."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


def analyse(closes: Sequence[float]) -> Findings:
    """Look at at least three positive closing prices, oldest first."""
    returns = [math.log(after / before) for before, after in pairwise(closes)]
    drift, spread = fmean(returns), variance(returns)
    momentum = closes[-1] / fmean(closes[-WINDOW:]) - 1
    kelly = drift / spread / 2 if spread > 0 else float(drift > 0)
    return Findings(drift, math.sqrt(spread), momentum, min(1.0, max(0.0, kelly)))


def order(symbol: str, price: float, budget: float, fraction: float) -> dict[str, Any]:
    """What to buy at this price."""
    return {
        "side": "buy",
        "symbol": symbol,
        "quantity": int(budget * fraction / price),
        "limit": round(price * (1 + LIMIT_ABOVE_PRICE), 4),
    }


def amount(wanted: dict[str, Any]) -> float:
    """What an order costs at most."""
    return round(wanted["quantity"] * wanted["limit"], 2)
