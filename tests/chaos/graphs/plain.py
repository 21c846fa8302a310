"""Graphs without waits. Every node adds to ``log``, so a superstep that counted twice or not at all shows in the final state.

* ``chain``: ``count`` supersteps, each ``work_s`` long: ``["0", "1", ...]``.
* ``fan``: ``count`` parallel tasks, then a join: ``["0", ..., "joined"]``.
* ``talk``: two supersteps a run; several runs one after the other on the same thread.
"""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send


class State(TypedDict, total=False):
    count: int
    work_s: float
    word: str
    log: Annotated[list[str], operator.add]


class Item(TypedDict):
    i: int
    work_s: float


async def step(state: State) -> dict[str, Any]:
    await asyncio.sleep(state.get("work_s", 0.0))
    return {"log": [str(len(state.get("log", [])))]}


def more(state: State) -> str:
    return "step" if len(state.get("log", [])) < state["count"] else END


_chain = StateGraph(State)
_chain.add_node("step", step)
_chain.add_edge(START, "step")
_chain.add_conditional_edges("step", more, ["step", END])
chain = _chain.compile()


def spread(state: State) -> list[Send]:
    return [Send("task", Item(i=i, work_s=state.get("work_s", 0.0))) for i in range(state["count"])]


async def task(item: Item) -> dict[str, Any]:
    await asyncio.sleep(item["work_s"])
    return {"log": [str(item["i"])]}


def join(state: State) -> dict[str, Any]:
    return {"log": ["joined"]}


_fan = StateGraph(State)
_fan.add_node("task", task)
_fan.add_node("join", join)
_fan.add_conditional_edges(START, spread, ["task"])
_fan.add_edge("task", "join")
_fan.add_edge("join", END)
fan = _fan.compile()


async def hear(state: State) -> dict[str, Any]:
    await asyncio.sleep(state.get("work_s", 0.0))
    return {"log": [f"heard {state['word']}"]}


def say(state: State) -> dict[str, Any]:
    return {"log": [f"said {state['word']}"]}


_talk = StateGraph(State)
_talk.add_node("hear", hear)
_talk.add_node("say", say)
_talk.add_edge(START, "hear")
_talk.add_edge("hear", "say")
_talk.add_edge("say", END)
talk = _talk.compile()
