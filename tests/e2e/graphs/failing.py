"""Nodes that go wrong.

* ``fails``: ``after`` good steps (default 2), then ValueError. With ``repaired`` (a path) it goes on once that exists.
* ``flaky``: raises ConnectionError until the third attempt, under a RetryPolicy; each attempt adds a line to ``file``.
* ``unserialisable``: returns ``what``: ``lock``, ``socket`` or ``generator``, after one good step; ``sent``: a lock, from a node
  that is reached by a ``Send``.
"""

from __future__ import annotations

import operator
import socket
import threading
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy, Send
from record import append, count

ATTEMPTS = 3


class State(TypedDict, total=False):
    after: int
    repaired: str
    file: str
    what: str
    step: int
    log: Annotated[list[str], operator.add]
    value: Any


def good(state: State) -> dict[str, Any]:
    """One step."""
    step = state.get("step", 0) + 1
    return {"step": step, "log": [f"good {step}"]}


def broken(state: State) -> dict[str, Any]:
    """Raises ValueError unless repaired."""
    if state.get("repaired") and Path(state["repaired"]).exists():
        return {"log": ["repaired"]}
    raise ValueError(f"failed on purpose after {state['step']} steps")


def until_broken(state: State) -> str:
    """``good`` ``after`` times, then ``broken``."""
    return "good" if state.get("step", 0) < state.get("after", 2) else "broken"


def unreliable(state: State) -> dict[str, Any]:
    """Succeeds at the third attempt."""
    append(state["file"], "attempt")
    attempt = count(state["file"])
    if attempt < ATTEMPTS:
        raise ConnectionError(f"attempt {attempt} failed on purpose")
    return {"log": [f"attempt {attempt}"]}


def opaque(state: State) -> dict[str, Any]:
    """Returns something that no checkpoint can hold."""
    makers = {"lock": threading.Lock, "socket": socket.socket, "generator": lambda: (n for n in range(3))}
    return {"value": makers[state.get("what", "lock")]()}


def opaque_or_sent(state: State) -> Any:
    """Where ``unserialisable`` goes."""
    return [Send("each", {"what": "lock"})] if state.get("what") == "sent" else "opaque"


_fails = StateGraph(State)
_fails.add_node("good", good)
_fails.add_node("broken", broken)
_fails.add_conditional_edges(START, until_broken, ["good", "broken"])
_fails.add_conditional_edges("good", until_broken, ["good", "broken"])
_fails.add_edge("broken", END)
fails = _fails.compile()

_flaky = StateGraph(State)
_flaky.add_node("good", good)
_flaky.add_node("unreliable", unreliable, retry_policy=RetryPolicy(max_attempts=ATTEMPTS, initial_interval=0.05))
_flaky.add_edge(START, "good")
_flaky.add_edge("good", "unreliable")
_flaky.add_edge("unreliable", END)
flaky = _flaky.compile()

_unserialisable = StateGraph(State)
_unserialisable.add_node("good", good)
_unserialisable.add_node("opaque", opaque)
_unserialisable.add_edge(START, "good")
_unserialisable.add_node("each", opaque)
_unserialisable.add_conditional_edges("good", opaque_or_sent, ["opaque", "each"])
_unserialisable.add_edge("opaque", END)
unserialisable = _unserialisable.compile()
