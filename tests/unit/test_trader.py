"""The trader's analysis: pure numbers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_FILE = Path(__file__).resolve().parents[2] / "examples" / "trader" / "analysis.py"
_spec = importlib.util.spec_from_file_location("trader_analysis", _FILE)
assert _spec is not None
assert _spec.loader is not None
analysis = importlib.util.module_from_spec(_spec)
sys.modules["trader_analysis"] = analysis
_spec.loader.exec_module(analysis)


def test_a_rising_series_is_bought_with_all_of_the_budget() -> None:
    found = analysis.analyse([100 * 1.01**n for n in range(50)])
    assert found.drift == pytest.approx(0.00995, abs=1e-5)
    assert found.fraction == 1.0
    assert found.momentum > 0


def test_a_falling_series_is_not_bought() -> None:
    found = analysis.analyse([100 * 0.99**n for n in range(50)])
    assert found.fraction == 0.0
    assert analysis.order("ACME", 10, 1200, found.fraction)["quantity"] == 0


def test_a_nervous_series_is_bought_with_a_part() -> None:
    closes = [100.0]
    for n in range(200):
        closes.append(closes[-1] * (1.2 if n % 2 else 0.835))
    assert 0 < analysis.analyse(closes).fraction < 1


def test_an_order_at_a_price() -> None:
    order = analysis.order("ACME", 10, 82_000, 1.0)
    assert order == {"side": "buy", "symbol": "ACME", "quantity": 8200, "limit": 10.1}
    assert analysis.amount(order) == 82_820
