"""``effects``: ``n`` supersteps (default 5); every execution of a node appends ``<thread id> <step>`` to ``file``.

So a test counts executions: more lines than steps mean that a node ran again. Input also: ``delay_s`` of each step.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from record import append


class State(TypedDict, total=False):
    n: int
    delay_s: float
    file: str
    step: int


async def act(state: State, config: RunnableConfig) -> dict[str, Any]:
    """The effect first, then the delay: a worker killed in between has acted without a checkpoint."""
    step = state.get("step", 0) + 1
    append(state["file"], f"{config['configurable']['thread_id']} {step}")
    await asyncio.sleep(state.get("delay_s", 0))
    return {"step": step}


builder = StateGraph(State)
builder.add_node("act", act)
builder.add_edge(START, "act")
builder.add_conditional_edges("act", lambda state: "act" if state["step"] < state.get("n", 5) else END, ["act", END])
graph = builder.compile()
