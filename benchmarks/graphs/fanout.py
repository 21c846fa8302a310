"""``fanout``: ``width`` branches at once, each of which adds one message of about 200 bytes; a last step joins them."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from payload import message


class State(TypedDict, total=False):
    messages: Annotated[list[dict[str, Any]], operator.add]
    width: int
    joined: int


async def splits(_: State) -> dict[str, Any]:
    """Says nothing; what follows is the fan-out."""
    return {"joined": 0}


def branches(state: State) -> list[Send]:
    """One task a branch."""
    return [Send("branch", {"number": number}) for number in range(state["width"])]


async def branch(task: dict[str, int]) -> dict[str, Any]:
    """A branch's work."""
    return {"messages": [message(task["number"])]}


async def joins(state: State) -> dict[str, Any]:
    """Counts them."""
    return {"joined": len(state["messages"])}


builder = StateGraph(State)
for name, node in (("splits", splits), ("branch", branch), ("joins", joins)):
    builder.add_node(name, node)
builder.add_edge(START, "splits")
builder.add_conditional_edges("splits", branches, ["branch"])
builder.add_edge("branch", "joins")
builder.add_edge("joins", END)
graph = builder.compile()
