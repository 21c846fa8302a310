"""Nodes that log, in every way that a user may, and then fail.

* ``pricing``: a sync node and an async node log, the third raises ValueError.
* ``relapsing``: kills its worker at the first attempt and raises ValueError at the second; each adds a line to ``file``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Any, TypedDict

import structlog
from langgraph.graph import END, START, StateGraph
from record import append, count

log = logging.getLogger(__name__)


class State(TypedDict, total=False):
    file: str
    mark: str
    rows: int


def load(state: State) -> dict[str, Any]:
    """Logs with the standard library, from the thread that sync nodes run in."""
    log.info("loading the price list of %s", state["mark"])
    print("printed by a node")
    return {"rows": 3}


async def compare(state: State) -> dict[str, Any]:
    """Logs with structlog, and from a thread of its own."""
    structlog.get_logger().warning("few rows", rows=state["rows"], mark=state["mark"])
    await asyncio.to_thread(log.info, "compared aside for %s", state["mark"])
    return {}


def total(state: State) -> dict[str, Any]:
    """Raises."""
    columns = {"gross": state["rows"]}
    if "net" not in columns:
        raise ValueError("the price list is missing column 'net'")
    return {}


def relapse(state: State) -> dict[str, Any]:
    """Kills the worker, then raises."""
    append(state["file"], "attempt")
    if count(state["file"]) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("failed at the second attempt")


_pricing = StateGraph(State)
_pricing.add_node("load", load)
_pricing.add_node("compare", compare)
_pricing.add_node("total", total)
_pricing.add_edge(START, "load")
_pricing.add_edge("load", "compare")
_pricing.add_edge("compare", "total")
_pricing.add_edge("total", END)
pricing = _pricing.compile()

_relapsing = StateGraph(State)
_relapsing.add_node("relapse", relapse)
_relapsing.add_edge(START, "relapse")
_relapsing.add_edge("relapse", END)
relapsing = _relapsing.compile()
