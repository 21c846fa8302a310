"""An agent that looks at something every hour for a week, and reports. In between it sleeps, and nothing of it is in memory.

Input: ``target`` (see ``checks.look``) and ``hours`` (default 168). How long an hour takes, in seconds, is the variable
``MONITOR_HOUR_S`` (default 3600).

A node that waits runs again from its first line when it wakes, so the check stands behind the sleep: it is made once an hour. A
worker that dies between a check and its checkpoint repeats that check, and no other.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, Literal, TypedDict

from checks import look
from langgraph.graph import END, START, StateGraph
from summary import ILL, WELL, Summary, render, summarise

from perdure.sdk import sleep_for

HOUR = timedelta(seconds=float(os.environ.get("MONITOR_HOUR_S", "3600")))
WEEK_HOURS = 7 * 24
KINDS = 20
"""Different reasons that the state keeps apart; the rest is counted as one."""


class Order(TypedDict, total=False):
    """What a client may say."""

    target: str
    hours: int


class Watch(Order, total=False):
    """The state: a character an hour, and the reasons."""

    strip: str
    reasons: dict[str, int]
    summary: Summary
    report: str


def begin(state: Watch) -> dict[str, Any]:
    """Refuse what cannot be watched, before a week has passed."""
    if not state.get("target"):
        raise ValueError('input needs "target", such as "https://example.org/" or "disk:/?10"')
    hours = state.get("hours", WEEK_HOURS)
    if not 1 <= hours <= 10 * WEEK_HOURS:
        raise ValueError(f"hours must be from 1 to {10 * WEEK_HOURS}, not {hours}")
    return {"hours": hours, "strip": "", "reasons": {}}


async def watch(state: Watch) -> dict[str, Any]:
    """Sleep for an hour, then look."""
    sleep_for(HOUR)
    wrong = await look(state["target"])
    if wrong is None:
        return {"strip": state["strip"] + WELL}
    reasons = dict(state["reasons"])
    kind = wrong if wrong in reasons or len(reasons) < KINDS else "something else"
    reasons[kind] = reasons.get(kind, 0) + 1
    return {"strip": state["strip"] + ILL, "reasons": reasons}


def after_check(state: Watch) -> Literal["watch", "write_report"]:
    """Go on until the week is over."""
    return "watch" if len(state["strip"]) < state["hours"] else "write_report"


def write_report(state: Watch) -> dict[str, Any]:
    """Write the report into the state."""
    text = render(state["target"], state["strip"], state["reasons"])
    return {"summary": summarise(state["strip"]), "report": text}


builder = StateGraph(Watch, input_schema=Order)
builder.add_node("begin", begin)
builder.add_node("watch", watch)
builder.add_node("write_report", write_report)
builder.add_edge(START, "begin")
builder.add_edge("begin", "watch")
builder.add_conditional_edges("watch", after_check)
builder.add_edge("write_report", END)
graph = builder.compile()
