"""An agent that audits one legal text: read, split into sections, find clauses on each topic at once, check quotes, assess.

Input: ``path`` (on the machine of the worker) and ``sha256`` of the text that is there, or ``text``; optionally ``title`` and
``jurisdiction``, whose law the text should choose. No language model: the same text always gives the same clauses.

It sleeps before it splits, checks and assesses, ``CONTRACT_AUDIT_PAUSE_S`` seconds each time (default 0: it does not). With 100 an
audit takes five minutes and is in no process for nearly all of it.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, TypedDict

from assessment import Assessment, assess
from clauses import Clause, check, find
from langgraph.graph import END, START, StateGraph
from sections import Section, split
from texts import given, read_file
from topics import TOPICS

from perdure.sdk import sleep_for

PAUSE = timedelta(seconds=float(os.environ.get("CONTRACT_AUDIT_PAUSE_S", "0")))


class Order(TypedDict, total=False):
    """What a client may say."""

    path: str
    sha256: str
    title: str
    text: str
    jurisdiction: str


class Audit(Order, total=False):
    """The state."""

    sections: list[Section]
    clauses: Annotated[dict[str, list[Clause]], operator.or_]
    """By topic; each step that looks for one adds its own."""
    quotes_checked: int
    assessment: Assessment


def read(state: Audit) -> dict[str, Any]:
    """Take the text into the state, where no change of the file reaches it. Raises ValueError for a wrong order."""
    path, sha256, text, title = (state.get(name, "") for name in ("path", "sha256", "text", "title"))
    if bool(path) == bool(text) or bool(path) != bool(sha256):
        raise ValueError('input needs either "path", a file on the machine of the worker, and its "sha256", or "text"')
    return {**(read_file(path, sha256, title) if path else given(text, title))}


def divide(state: Audit) -> dict[str, Any]:
    """Find the sections."""
    _rest()
    return {"sections": split(state["text"])}


def look(topic: str, state: Audit) -> dict[str, Any]:
    """Find the clauses on one topic."""
    return {"clauses": {topic: find(topic, state["text"], state["sections"])}}


def check_quotes(state: Audit) -> dict[str, Any]:
    """Refuse to go on with a quote that is not in the text: raises ValueError."""
    _rest()
    found = [clause for clauses in state["clauses"].values() for clause in clauses]
    for clause in found:
        check(state["text"], clause)
    return {"quotes_checked": len(found)}


def weigh(state: Audit) -> dict[str, Any]:
    """Say what the clauses come to."""
    _rest()
    return {"assessment": assess(state["clauses"], state.get("jurisdiction", ""))}


def _rest() -> None:
    if PAUSE:
        sleep_for(PAUSE)


def _node(topic: str) -> tuple[str, Callable[[Audit], dict[str, Any]]]:
    return f"find_{topic.replace(' ', '_')}", partial(look, topic)


finders = dict(map(_node, TOPICS))
builder = StateGraph(Audit, input_schema=Order)
builder.add_node("read", read)
builder.add_node("split", divide)
for name, finder in finders.items():
    builder.add_node(name, finder)
    builder.add_edge("split", name)
builder.add_node("check_quotes", check_quotes)
builder.add_node("assess", weigh)
builder.add_edge(START, "read")
builder.add_edge("read", "split")
builder.add_edge([*finders], "check_quotes")
builder.add_edge("check_quotes", "assess")
builder.add_edge("assess", END)
graph = builder.compile()
