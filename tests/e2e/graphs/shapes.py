"""``subgraph``: a subgraph as a node, one called from a sync node, ``Send`` to ``n`` tasks (default 3), ``Command``.

Result: ``log`` is ``["inner a", "inner b", "called", "jumped"]``; ``squares`` holds ``i * i`` for each ``i < n``;
``total`` is their sum.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]
    squares: Annotated[list[int], operator.add]
    total: int


class Inner(TypedDict, total=False):
    """The state of the subgraph that is a node; it shares ``log`` with its parent."""

    log: list[str]


class Called(TypedDict, total=False):
    """The state of the subgraph that a node calls; it shares nothing."""

    word: str


class Item(TypedDict):
    i: int


def inner_a(state: Inner) -> dict[str, Any]:
    return {"log": ["inner a"]}


async def inner_b(state: Inner) -> dict[str, Any]:
    return {"log": [*state["log"], "inner b"]}


_inner = StateGraph(Inner)
_inner.add_node("inner_a", inner_a)
_inner.add_node("inner_b", inner_b)
_inner.add_edge(START, "inner_a")
_inner.add_edge("inner_a", "inner_b")
_inner.add_edge("inner_b", END)

_called = StateGraph(Called)
_called.add_node("say", lambda _: {"word": "called"})
_called.add_edge(START, "say")
_called.add_edge("say", END)
called = _called.compile()


def call(state: State) -> dict[str, Any]:
    """A sync node that invokes a graph."""
    return {"log": [called.invoke({"word": ""})["word"]]}


def fan_out(state: State) -> list[Send]:
    """One task an item."""
    return [Send("square", Item(i=i)) for i in range(state.get("n", 3))] or [Send("collect", state)]


async def square(item: Item) -> dict[str, Any]:
    return {"squares": [item["i"] ** 2]}


def collect(state: State) -> Command[Literal["jumped"]]:
    """Goes on by command, not by an edge."""
    return Command(goto="jumped", update={"total": sum(state.get("squares", []))})


def jumped(state: State) -> dict[str, Any]:
    return {"log": ["jumped"]}


builder = StateGraph(State)
builder.add_node("inner", _inner.compile())
builder.add_node("call", call)
builder.add_node("square", square)
builder.add_node("collect", collect)
builder.add_node("jumped", jumped)
builder.add_edge(START, "inner")
builder.add_edge("inner", "call")
builder.add_conditional_edges("call", fan_out, ["square", "collect"])
builder.add_edge("square", "collect")
builder.add_edge("jumped", END)
graph = builder.compile()
