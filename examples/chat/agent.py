"""A clerk to chat with, who may sleep for days between two sentences, and asks before it deletes anything.

It understands three kinds of sentences: ``remind me in 3 days to call Ann`` (also seconds, minutes, hours), ``delete the draft``,
and everything else. A reminder hibernates: nothing of the agent is in any process until its time comes. A deletion waits for a
person, in the form that agent inboxes and chat UIs show with buttons.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Literal

from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt
from model import Clerk

from perdure.sdk import sleep_for

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 7 * 86_400}
REMIND = re.compile(r"remind me in (\d+) (second|minute|hour|day|week)s? (?:to |of )?(.+)", re.IGNORECASE)
DELETE = re.compile(r"delete (.+)", re.IGNORECASE)
HELP = (
    "You said: {said} I am a clerk, not a genius. Try “remind me in 10 seconds to call Ann”, and close this page "
    "meanwhile; or “delete the old drafts”, and see that I ask first."
)


def asked(state: MessagesState) -> str:
    """What the person said last."""
    return next(str(one.text) for one in reversed(state["messages"]) if isinstance(one, HumanMessage))


async def say(text: str) -> dict[str, Any]:
    """One message of the clerk."""
    return {"messages": [await Clerk().ainvoke([HumanMessage(text)])]}


def listen(state: MessagesState) -> Literal["promise", "ask", "talk"]:
    """Choose what to do."""
    said = asked(state)
    return "promise" if REMIND.search(said) else "ask" if DELETE.search(said) else "talk"


async def talk(state: MessagesState) -> dict[str, Any]:
    """Answer at once."""
    return await say(HELP.format(said=asked(state)))


async def promise(state: MessagesState) -> dict[str, Any]:
    """Say that the reminder will come."""
    number, unit, what = reminder(state)
    return await say(f"In {number} {unit}{'s' if number != 1 else ''} I will remind you: {what}")


async def remind(state: MessagesState) -> dict[str, Any]:
    """Sleep, then remind."""
    number, unit, what = reminder(state)
    sleep_for(timedelta(seconds=number * SECONDS[unit]))
    return await say(f"It is time: {what}")


async def ask(state: MessagesState) -> dict[str, Any]:
    """Ask before deleting."""
    match = DELETE.search(asked(state))
    what = match[1] if match else "everything"
    answer = interrupt(
        {
            "action_request": {"action": "delete", "args": {"what": what}},
            "config": {"allow_accept": True, "allow_edit": True, "allow_respond": True, "allow_ignore": True},
            "description": f"May I delete {what}? It cannot be undone.",
        }
    )
    first = answer[0] if isinstance(answer, list) else answer
    kind, args = (first.get("type"), first.get("args")) if isinstance(first, dict) else ("response", first)
    if kind in {"accept", "edit"}:
        what = ((args or {}).get("args") or {}).get("what", what) if isinstance(args, dict) else what
        return await say(f"Deleted: {what}. (Not really; this is an example.)")
    return await say(f"I leave {what} alone." if kind == "ignore" else f"I did not delete {what}. You said: {args}")


def reminder(state: MessagesState) -> tuple[int, str, str]:
    """Number, unit and text of the reminder that was asked for."""
    match = REMIND.search(asked(state))
    if match is None:
        raise ValueError("no reminder was asked for")
    return int(match[1]), match[2].lower(), match[3].rstrip(".")


builder = StateGraph(MessagesState)
builder.add_node("talk", talk)
builder.add_node("promise", promise)
builder.add_node("remind", remind)
builder.add_node("ask", ask)
builder.add_conditional_edges(START, listen)
builder.add_edge("promise", "remind")
for last in ("talk", "remind", "ask"):
    builder.add_edge(last, END)
graph = builder.compile()
