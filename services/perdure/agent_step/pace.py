"""The pace of a graph: by when a superstep should have ended, which ``expected_by`` of started runs and checkpoints says (ADR 10).

Contract: pure. A node's own time-out says it best (with its retries); else how long it took before; else a default. Of several
nodes that run together the slowest counts. It is a promise to those who watch, not a limit: nothing is stopped when it passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from perdure.chassis.clock import after

MARGIN_S = 10.0
"""Beyond a time-out: storing the result, and the pause of a busy worker."""


class Node(Protocol):
    """What is read of LangGraph's nodes."""

    @property
    def timeout(self) -> Any: ...
    @property
    def retry_policy(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much time supersteps are given, in seconds."""

    default_s: float
    """For a node of which nothing is known."""
    floor_s: float
    """At least."""
    factor: float
    """Times what 99 of 100 of the node's supersteps took."""


class Pace:
    """Of one graph.

    Args:
        nodes: The graph's nodes, by name.
        step_timeout_s: The graph's limit for every superstep, if it has one.
        allowance: The rules.
        learned_s: What 99 of 100 supersteps with a node took at most, in seconds; ``None`` while too few are known.
        saw: Is told what a superstep with a node took, in milliseconds.

    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        step_timeout_s: float | None,
        allowance: Allowance,
        learned_s: Callable[[str], float | None],
        saw: Callable[[str, float], None],
    ) -> None:
        limits = {name: limit_s(node) for name, node in nodes.items()}
        self._limits = {name: limit for name, limit in limits.items() if limit is not None}
        self._step_limit = step_timeout_s + MARGIN_S if step_timeout_s is not None else None
        self._allowance = allowance
        self._learned_s = learned_s
        self._saw = saw

    def saw(self, nodes: Iterable[str], duration_ms: float) -> None:
        """A superstep of these nodes took so long."""
        for node in nodes:
            self._saw(node, duration_ms)

    def by(self, nodes: Iterable[str]) -> datetime:
        """By when a superstep of these nodes that begins now should have ended; without nodes, what follows takes no time."""
        return after(self.seconds(nodes))

    def seconds(self, nodes: Iterable[str]) -> float:
        """As :meth:`by`, as seconds from now."""
        longest = max(map(self._node_s, nodes), default=self._allowance.floor_s)
        return longest if self._step_limit is None else min(longest, self._step_limit)

    def _node_s(self, node: str) -> float:
        limit = self._limits.get(node)
        if limit is not None:
            return limit
        learned = self._learned_s(node)
        if learned is None:
            return self._allowance.default_s
        return max(self._allowance.floor_s, learned * self._allowance.factor)


def limit_s(node: Node) -> float | None:
    """The longest time that a node's own time-out allows, with its retries and their pauses; ``None`` without one."""
    timeout = getattr(node.timeout, "run_timeout", None)
    if timeout is None:
        return None
    once = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)
    policies = node.retry_policy or ()
    attempts = max((policy.max_attempts for policy in policies), default=1)
    pauses = max((_pauses_s(policy) for policy in policies), default=0.0)
    return once * attempts + pauses + MARGIN_S


def _pauses_s(policy: Any) -> float:
    """The longest pauses between the attempts, with LangGraph's jitter of up to one second each."""
    waits = range(policy.max_attempts - 1)
    return sum((min(policy.max_interval, policy.initial_interval * policy.backoff_factor**n) + 1.0 for n in waits), 0.0)
