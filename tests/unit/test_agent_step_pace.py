"""By when a superstep should have ended, and what is learned of its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from langgraph.types import RetryPolicy, TimeoutPolicy

from perdure.agent_step.pace import MARGIN_S, Allowance, Pace, limit_s
from perdure.agent_step.timings import bucket, quantile_s

ALLOWANCE = Allowance(default_s=900, floor_s=60, factor=5)


@dataclass
class Node:
    timeout: TimeoutPolicy | None = None
    retry_policy: Any = None


def pace(nodes: dict[str, Node], learned: dict[str, float] | None = None, step_timeout_s: float | None = None) -> Pace:
    return Pace(nodes, step_timeout_s, ALLOWANCE, (learned or {}).get, lambda *_: None)


def test_the_nodes_own_time_out_comes_first() -> None:
    one = pace({"a": Node(TimeoutPolicy(run_timeout=7))}, {"a": 1000.0})
    assert one.seconds(["a"]) == 7 + MARGIN_S


def test_retries_are_allowed_for() -> None:
    policy = RetryPolicy(initial_interval=1, backoff_factor=2, max_interval=3, max_attempts=4)
    node = Node(TimeoutPolicy(run_timeout=timedelta(seconds=10)), (policy,))
    assert limit_s(node) == 4 * 10 + (1 + 1) + (2 + 1) + (3 + 1) + MARGIN_S


def test_an_idle_time_out_limits_nothing() -> None:
    assert limit_s(Node(TimeoutPolicy(idle_timeout=3))) is None


@pytest.mark.parametrize(("learned", "seconds"), [(None, 900), (0.004, 60), (120.0, 600)])
def test_then_what_was_learned_then_the_default(learned: float | None, seconds: float) -> None:
    assert pace({"a": Node()}, {} if learned is None else {"a": learned}).seconds(["a"]) == seconds


def test_the_slowest_counts_and_the_graphs_limit_holds() -> None:
    nodes = {"a": Node(), "b": Node(TimeoutPolicy(run_timeout=5))}
    assert pace(nodes).seconds(["b", "a"]) == 900
    assert pace(nodes, step_timeout_s=30).seconds(["b", "a"]) == 30 + MARGIN_S
    assert pace(nodes).seconds([]) == 60


@pytest.mark.parametrize(("ms", "n"), [(0.0, 0), (0.2, 0), (1, 0), (1.5, 1), (2, 1), (3, 2), (1024, 10), (1024.5, 11)])
def test_buckets(ms: float, n: int) -> None:
    assert bucket(ms) == n
    assert ms <= 2**n


def test_what_99_of_100_took() -> None:
    assert quantile_s({"3": 19}) is None, "too few"
    assert quantile_s({"3": 99, "20": 1}) == 0.008
    assert quantile_s({"20": 2, "3": 98}) == 2**20 / 1000
