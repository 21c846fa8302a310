"""Nodes that take too long.

* ``times_out``: one good step, then a node whose own timeout (0.2 s) ends it.
* ``step_times_out``: the same, ended by the graph's ``step_timeout``.
* ``slow``: one node that takes ``seconds``; async, or with ``blocking`` a sync node that sleeps in its thread.
* ``hog``: one async node that computes for ``seconds`` in pure Python: it blocks the event loop and holds the GIL.

Each leaves ``log``.
"""

from __future__ import annotations

import asyncio
import operator
import time
from datetime import timedelta
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

LIMIT = timedelta(seconds=0.2)


class State(TypedDict, total=False):
    seconds: float
    blocking: bool
    log: Annotated[list[str], operator.add]


async def good(state: State) -> dict[str, Any]:
    """Takes no time."""
    return {"log": ["good"]}


async def endless(state: State) -> dict[str, Any]:
    """Takes ``seconds`` (default an hour)."""
    await asyncio.sleep(state.get("seconds", 3600))
    return {"log": ["endless"]}


async def waits(state: State) -> dict[str, Any]:
    """Leaves the event loop free."""
    await asyncio.sleep(state.get("seconds", 1))
    return {"log": ["waits"]}


def sleeps(state: State) -> dict[str, Any]:
    """Blocks its own thread."""
    time.sleep(state.get("seconds", 1))
    return {"log": ["sleeps"]}


async def computes(state: State) -> dict[str, Any]:
    """Blocks the event loop."""
    end = time.monotonic() + state.get("seconds", 1)
    rounds = 0
    while time.monotonic() < end:
        rounds += 1
    return {"log": ["computes"]}


def _after_good(timeout: timedelta | None) -> CompiledStateGraph[Any]:
    builder = StateGraph(State)
    builder.add_node("good", good)
    builder.add_node("endless", endless, timeout=timeout)
    builder.add_edge(START, "good")
    builder.add_edge("good", "endless")
    builder.add_edge("endless", END)
    return builder.compile()


times_out = _after_good(LIMIT)
step_times_out = _after_good(None)
step_times_out.step_timeout = LIMIT.total_seconds()

_slow = StateGraph(State)
_slow.add_node("waits", waits)
_slow.add_node("sleeps", sleeps)
_slow.add_conditional_edges(START, lambda state: "sleeps" if state.get("blocking") else "waits", ["waits", "sleeps"])
_slow.add_edge("waits", END)
_slow.add_edge("sleeps", END)
slow = _slow.compile()

_hog = StateGraph(State)
_hog.add_node("computes", computes)
_hog.add_edge(START, "computes")
_hog.add_edge("computes", END)
hog = _hog.compile()
