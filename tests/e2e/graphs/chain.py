"""``chain``: ``n`` supersteps (default 5), sync and async nodes in turn.

Input: ``n``, ``delay_s`` (each step takes that long). Result: ``step == n`` and ``log`` with one line a step.
"""

from __future__ import annotations

import asyncio
import operator
import os
import time
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    n: int
    delay_s: float
    step: int
    log: Annotated[list[str], operator.add]
    env: str
    """The variable that ``langgraph.json`` sets."""


def odd(state: State) -> dict[str, Any]:
    """A sync node."""
    time.sleep(state.get("delay_s", 0))
    return _done(state, "odd")


async def even(state: State) -> dict[str, Any]:
    """An async node."""
    await asyncio.sleep(state.get("delay_s", 0))
    return _done(state, "even")


def route(state: State) -> str:
    """The other node, until ``n`` steps are done."""
    done = state.get("step", 0)
    if done >= state.get("n", 5):
        return END
    return "even" if done % 2 else "odd"


def _done(state: State, node: str) -> dict[str, Any]:
    step = state.get("step", 0) + 1
    return {"step": step, "log": [f"{step} {node}"], "env": os.environ.get("GRAPHS_ENV", "")}


builder = StateGraph(State)
builder.add_node("odd", odd)
builder.add_node("even", even)
for source in (START, "odd", "even"):
    builder.add_conditional_edges(source, route, ["odd", "even", END])
graph = builder.compile()
