"""Nodes that never end well by themselves; both go on once the file ``mended`` exists.

* ``poison``: a good step, then one that kills its process, as a fault in native code would.
* ``hangs``: a good step, then one (``Login``) that waits.
"""

from __future__ import annotations

import asyncio
import operator
import os
import signal
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    mended: str
    log: Annotated[list[str], operator.add]


def good(state: State) -> dict[str, Any]:
    """One step."""
    return {"log": ["good"]}


def lethal(state: State) -> dict[str, Any]:
    """Kills the worker unless mended."""
    if not Path(state["mended"]).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return {"log": ["survived"]}


async def login(state: State) -> dict[str, Any]:
    """Waits until mended."""
    while not Path(state["mended"]).exists():
        await asyncio.sleep(0.05)
    return {"log": ["logged in"]}


def _two_steps(name: str, node: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("good", good)
    builder.add_node(name, node)
    builder.add_edge(START, "good")
    builder.add_edge("good", name)
    builder.add_edge(name, END)
    return builder.compile()


poison = _two_steps("lethal", lethal)
hangs = _two_steps("Login", login)
