"""``once`` and ``once_blocking``: one effect with the key ``order``, in an async and in an ordinary node.

The act appends its idempotency key to ``file``; while ``<file>.hang`` exists it does not return after that, so that a test can kill
the worker between the act and its receipt. With ``reconcile`` the file is asked what happened. ``paid``: a person approves
``action`` first, and ``run`` (default: the same) is carried out. Each leaves ``receipt``.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from record import append

from perdure.sdk import Answered, Done, NotDone, ask_human, effect, effect_blocking


class State(TypedDict, total=False):
    file: str
    reconcile: bool
    action: Any
    run: Any
    approval_id: str | None
    receipt: Any


def _hangs(file: str) -> bool:
    return Path(f"{file}.hang").exists()


def _more(file: str, *, reconcile: bool | None) -> dict[str, Any]:
    def look(key: str) -> Done | NotDone:
        return Done(f"found {key}") if key in Path(file).read_text().splitlines() else NotDone()

    return {"timeout": timedelta(seconds=60), "reconcile": look if reconcile else None}


async def act(state: State) -> dict[str, Any]:
    """Act on the event loop."""

    async def order(key: str) -> str:
        append(state["file"], key)
        while _hangs(state["file"]):
            await asyncio.sleep(0.02)
        return f"did {key}"

    return {"receipt": await effect("order", order, **_more(state["file"], reconcile=state.get("reconcile")))}


def act_blocking(state: State) -> dict[str, Any]:
    """Act in the node's thread."""

    def order(key: str) -> str:
        append(state["file"], key)
        while _hangs(state["file"]):
            time.sleep(0.02)
        return f"did {key}"

    return {"receipt": effect_blocking("order", order, **_more(state["file"], reconcile=state.get("reconcile")))}


def ask(state: State) -> dict[str, Any]:
    """Have the action approved."""
    answer = ask_human("May I?", action=state["action"])
    return {"approval_id": answer.approval_id if isinstance(answer, Answered) else None}


async def pay(state: State) -> dict[str, Any]:
    """Carry out what is to be run, under the approval."""
    wanted = state.get("run", state["action"])
    receipt = await effect(
        "pay",
        lambda key: append(state["file"], f"{key} {wanted['pay']}"),
        action=wanted,
        approval=state["approval_id"],
    )
    return {"receipt": receipt}


def _of(node: Any) -> CompiledStateGraph[Any]:
    builder = StateGraph(State)
    builder.add_node("act", node)
    builder.add_edge(START, "act")
    builder.add_edge("act", END)
    return builder.compile()


once = _of(act)
once_blocking = _of(act_blocking)

_paid = StateGraph(State)
_paid.add_node("ask", ask)
_paid.add_node("pay", pay)
_paid.add_edge(START, "ask")
_paid.add_edge("ask", "pay")
_paid.add_edge("pay", END)
paid = _paid.compile()
