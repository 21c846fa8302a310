"""Graphs that wait with ``perdure.sdk``. Each records in ``log`` what its waits gave.

* ``sleeper``: sleeps ``sleep_s``.
* ``listener``: waits for ``reply``, ``count`` times (default 1), each for ``timeout_s``.
* ``asker``: asks ``May I?`` with a schema, for ``expires_s``; escalates to ``chief`` when ``escalate`` is set.
* ``branches``: three parallel nodes: one sleeps ``sleep_s``, one waits for ``reply``, one asks.
* ``stumbling``: waits for ``reply``, then fails while the file ``file`` exists.
"""

from __future__ import annotations

import operator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph

from perdure.sdk import Answered, Ask, Event, Received, ask_human, sleep_for, wait_any, wait_for_event


class State(TypedDict, total=False):
    sleep_s: float
    timeout_s: float
    expires_s: float
    escalate: bool
    count: int
    file: str
    log: Annotated[list[Any], operator.add]


def _seconds(state: State, name: str) -> timedelta | None:
    value = state.get(name)
    return timedelta(seconds=value) if value is not None else None  # type: ignore[arg-type]


async def sleeps(state: State) -> dict[str, Any]:
    slept = sleep_for(timedelta(seconds=state["sleep_s"]))
    return {"log": [["slept", round((slept.woken_at - slept.due_at).total_seconds(), 3)]]}


def listens(state: State) -> dict[str, Any]:
    found: list[Any] = []
    for _ in range(state.get("count", 1)):
        reply = wait_for_event("reply", timeout=_seconds(state, "timeout_s"))
        found.append(["received", reply.payload] if isinstance(reply, Received) else ["timed out"])
    return {"log": found}


def asks(state: State) -> dict[str, Any]:
    answer = ask_human(
        "May I?",
        {"type": "object", "properties": {"approved": {"type": "boolean"}}, "required": ["approved"]},
        expires=_seconds(state, "expires_s"),
        assigned_to="clerk",
        escalate_to=("chief",) if state.get("escalate") else (),
        action={"do": "it"},
    )
    return {"log": [["answered", answer.value, answer.by] if isinstance(answer, Answered) else ["expired"]]}


def any_of(state: State) -> dict[str, Any]:
    result = wait_any(Event("reply"), Event("stop"), Ask("Go on?"), timeout=_seconds(state, "timeout_s"))
    return {"log": [[type(result).__name__, getattr(result, "name", None)]]}


def stumbles(state: State) -> dict[str, Any]:
    reply = wait_for_event("reply")
    if Path(state["file"]).exists():
        raise RuntimeError("stumbled over the file")
    return {"log": [["received", reply.payload] if isinstance(reply, Received) else ["timed out"]]}


def _one(node: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("waits", node)
    builder.add_edge(START, "waits")
    builder.add_edge("waits", END)
    return builder.compile()


sleeper, listener, asker, either, stumbling = _one(sleeps), _one(listens), _one(asks), _one(any_of), _one(stumbles)

_branches = StateGraph(State)
for _name, _node in (("sleeps", sleeps), ("listens", listens), ("asks", asks)):
    _branches.add_node(_name, _node)
    _branches.add_edge(START, _name)
    _branches.add_edge(_name, END)
branches = _branches.compile()
