"""``chain``: five supersteps in a row, each of which appends one message of about 200 bytes to a chat-like list.

A run starts with one message that makes the state as big as wanted (``payload.first_message``). ``short`` is the same with one
step.
Every system that runs LangGraph graphs is measured with these very builders.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from payload import STEPS, message


class State(TypedDict):
    messages: Annotated[list[dict[str, Any]], operator.add]


def step(number: int) -> Callable[[State], Awaitable[dict[str, Any]]]:
    """A node that appends one message."""

    async def node(_: State) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"messages": [message(number)]}

    return node


def build(steps: int) -> StateGraph[State]:
    """So many steps in a row."""
    builder = StateGraph(State)
    names = [f"step_{number}" for number in range(steps)]
    for number, name in enumerate(names):
        builder.add_node(name, step(number))
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return builder


chain_builder = build(STEPS)
short_builder = build(1)
graph = chain_builder.compile()
short = short_builder.compile()
