"""``ledger``: counts, asks, ends. Its reducer refuses the item ``refuse``, and waits for the file of an item ``wait:<path>``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

WAIT = "wait:"


def add_items(before: list[str], new: list[str]) -> list[str]:
    """Append; a file beside the one that is waited for says that the wait has begun."""
    for item in new:
        if item == "refuse":
            raise ValueError("the ledger takes no such item")
        if item.startswith(WAIT):
            gate = Path(item.removeprefix(WAIT))
            gate.with_suffix(".reached").touch()
            while not gate.exists():
                time.sleep(0.05)
    return [*before, *new]


class State(TypedDict, total=False):
    items: Annotated[list[str], add_items]
    note: str


def count(_: State) -> dict[str, Any]:
    return {"items": ["counted"]}


def ask(_: State) -> dict[str, Any]:
    return {"note": str(interrupt({"question": "enough?"}))}


def close(state: State) -> dict[str, Any]:
    return {"items": [f"closed after {len(state['items'])}"]}


def ledger_graph(saver: BaseCheckpointSaver[Any] | None = None) -> Any:
    builder = StateGraph(State)
    builder.add_node("count", count)
    builder.add_node("ask", ask)
    builder.add_node("close", close)
    builder.add_edge(START, "count")
    builder.add_edge("count", "ask")
    builder.add_edge("ask", "close")
    builder.add_edge("close", END)
    return builder.compile(checkpointer=saver)


ledger = ledger_graph()
