"""Graphs that wait with ``perdure.sdk`` and say in ``log`` what their waits gave.

* ``sleeper``: sleeps ``wait_s`` between two supersteps.
* ``reply``: waits for the signal ``reply`` without end.
* ``series``: waits for the signal ``item``, ``count`` times, each in a superstep of its own.
* ``race``: the signal ``reply`` or ``wait_s``, whichever comes first.
* ``asks``: asks a person.
* ``patient``: waits for a signal that nobody sends.
"""

from __future__ import annotations

import operator
from datetime import timedelta
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph

from perdure.sdk import Answered, Event, Received, ask_human, sleep_for, wait_any, wait_for_event


class State(TypedDict, total=False):
    count: int
    wait_s: float
    log: Annotated[list[str], operator.add]


def before(state: State) -> dict[str, Any]:
    return {"log": ["before"]}


def after(state: State) -> dict[str, Any]:
    return {"log": ["after"]}


def sleep(state: State) -> dict[str, Any]:
    slept = sleep_for(timedelta(seconds=state["wait_s"]))
    return {"log": ["slept" if slept.woken_at >= slept.due_at else f"woken before {slept.due_at}"]}


def _said(result: Any) -> str:
    return f"{result.name} {result.payload['n']}" if isinstance(result, Received) else "timed out"


def listen(state: State) -> dict[str, Any]:
    return {"log": [_said(wait_for_event("reply"))]}


def collect(state: State) -> dict[str, Any]:
    return {"log": [_said(wait_for_event("item"))]}


def more(state: State) -> str:
    return "collect" if len(state["log"]) < state["count"] + 1 else "after"


def either(state: State) -> dict[str, Any]:
    return {"log": [_said(wait_any(Event("reply"), timeout=timedelta(seconds=state["wait_s"])))]}


def ask(state: State) -> dict[str, Any]:
    answer = ask_human("How many?", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    return {"log": [f"answer {answer.value['n']}" if isinstance(answer, Answered) else "expired"]}


def for_ever(state: State) -> dict[str, Any]:
    return {"log": [_said(wait_for_event("never"))]}


def _around(name: str, node: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("before", before)
    builder.add_node(name, node)
    builder.add_node("after", after)
    builder.add_edge(START, "before")
    builder.add_edge("before", name)
    builder.add_edge(name, "after")
    builder.add_edge("after", END)
    return builder.compile()


sleeper, reply, race = _around("sleep", sleep), _around("listen", listen), _around("either", either)
asks, patient = _around("ask", ask), _around("for_ever", for_ever)

_series = StateGraph(State)
_series.add_node("before", before)
_series.add_node("collect", collect)
_series.add_node("after", after)
_series.add_edge(START, "before")
_series.add_edge("before", "collect")
_series.add_conditional_edges("collect", more, ["collect", "after"])
_series.add_edge("after", END)
series = _series.compile()
