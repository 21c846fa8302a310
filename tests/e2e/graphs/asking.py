"""Graphs that wait for a person.

* ``ask``: one node asks twice (``{"question": "first"}``, ``{"question": "second"}``), then finishes with ``answers``.
* ``vanishing``: ``a``, ``b`` (waits), ``c``. With ``VANISHING_WITHOUT_B`` set at import there is no ``b``.
"""

from __future__ import annotations

import operator
import os
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    answers: list[Any]
    log: Annotated[list[str], operator.add]


def asks(state: State) -> dict[str, Any]:
    """Runs from its first line at each resume."""
    first = interrupt({"question": "first"})
    second = interrupt({"question": "second"})
    return {"answers": [first, second]}


async def finish(state: State) -> dict[str, Any]:
    return {"log": [f"answered {len(state['answers'])}"]}


def a(state: State) -> dict[str, Any]:
    return {"log": ["a"]}


def b(state: State) -> dict[str, Any]:
    """Waits."""
    return {"answers": [interrupt({"question": "go on?"})], "log": ["b"]}


def c(state: State) -> dict[str, Any]:
    return {"log": ["c"]}


def _vanishing(*, with_b: bool) -> CompiledStateGraph[Any]:
    builder = StateGraph(State)
    builder.add_node("a", a)
    builder.add_node("c", c)
    builder.add_edge(START, "a")
    if with_b:
        builder.add_node("b", b)
        builder.add_edge("a", "b")
        builder.add_edge("b", "c")
    else:
        builder.add_edge("a", "c")
    builder.add_edge("c", END)
    return builder.compile()


_ask = StateGraph(State)
_ask.add_node("asks", asks)
_ask.add_node("finish", finish)
_ask.add_edge(START, "asks")
_ask.add_edge("asks", "finish")
_ask.add_edge("finish", END)
ask = _ask.compile()
vanishing = _vanishing(with_b=not os.environ.get("VANISHING_WITHOUT_B"))
