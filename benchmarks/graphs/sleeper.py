"""``sleeper``: holds a note, sleeps until ``until`` (ISO 8601), and says how late it went on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from perdure.sdk import sleep_until


class State(TypedDict, total=False):
    until: str
    note: str
    late_s: float


async def sleeps(state: State) -> dict[str, Any]:
    """Hibernates."""
    until = datetime.fromisoformat(state["until"])
    sleep_until(until)
    return {"late_s": (datetime.now(UTC) - until).total_seconds()}


builder = StateGraph(State)
builder.add_node("sleeps", sleeps)
builder.add_edge(START, "sleeps")
builder.add_edge("sleeps", END)
graph = builder.compile()
