"""``chat``: a loop of supersteps, each of which adds one message of 1 KiB, until the history has ``until`` messages."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from payload import MESSAGE_BYTES, message


class State(TypedDict, total=False):
    messages: Annotated[list[dict[str, Any]], operator.add]
    until: int


async def says(state: State) -> dict[str, Any]:
    """One more message."""
    return {"messages": [message(len(state["messages"]), MESSAGE_BYTES)]}


def goes_on(state: State) -> str:
    """Another message, or the end."""
    return "says" if len(state["messages"]) < state["until"] else END


builder = StateGraph(State)
builder.add_node("says", says)
builder.add_edge(START, "says")
builder.add_conditional_edges("says", goes_on, ["says", END])
graph = builder.compile()
