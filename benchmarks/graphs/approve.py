"""``approve``: one step, then a question; the thread hibernates until it is answered.

A second step notes the answer, and when (epoch seconds) its code ran again.
"""

from __future__ import annotations

import time
from typing import Any

from chain import State, step
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from payload import message


async def asks(_: State) -> dict[str, Any]:
    """Waits as long as it takes."""
    answer = interrupt({"approve": "?"})
    return {"messages": [message(1) | {"answer": answer, "at": time.time()}]}


builder = StateGraph(State)
builder.add_node("works", step(0))
builder.add_node("asks", asks)
builder.add_edge(START, "works")
builder.add_edge("works", "asks")
builder.add_edge("asks", END)
graph = builder.compile()
