"""An agent that screens a candidate, asks by e-mail when an interview suits, and sleeps up to two days for the reply.

Without one it reminds once and sleeps again; then it fixes the interview or gives up.

Input: ``candidate`` (``name``, ``email``), ``cv`` (text), ``job`` (see ``screening.Job``), ``slots`` (moments as text that are
offered) and optionally ``pass_score`` (default 60). How long an hour takes, in seconds, is the variable ``RECRUITER_HOUR_S``
(default 3600). ``SMTP_URL`` says where mail goes, ``RECRUITER_FROM`` from whom.

The reply comes as the signal ``reply``: ``{"slot": 2}``, or ``{"text": "no, thank you"}``. Where reply addresses are offered, an
answer to the mail is that signal; else whatever reads the mailbox sends it.

Each e-mail is an effect: a node that runs again (it waited, or its worker died) does not send it again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy
from mail import NOT_SENT, send
from screening import Job, Screening, screen

from perdure.sdk import TimedOut, effect, reply_address, wait_for_event

HOUR = timedelta(seconds=float(os.environ.get("RECRUITER_HOUR_S", "3600")))
PATIENCE = 48 * HOUR
SENDER = os.environ.get("RECRUITER_FROM", "recruiting@example.org")
PASS_SCORE = 60.0

Outcome = Literal["rejected", "interview", "declined", "gave up"]


class Candidate(TypedDict):
    """Whom it is about."""

    name: str
    email: str


class Application(TypedDict, total=False):
    """What a client sends."""

    candidate: Candidate
    cv: str
    job: Job
    slots: list[str]
    pass_score: float


class Case(Application, total=False):
    """The state."""

    screening: Screening
    reminders: int
    reply: dict[str, Any] | None
    interview: str
    outcome: Outcome


def read_cv(state: Case) -> dict[str, Any]:
    """Score the curriculum vitae. Raises ValueError for an application that lacks something."""
    missing = [name for name in ("candidate", "cv", "job", "slots") if not state.get(name)]
    if missing:
        raise ValueError(f"the application lacks {', '.join(missing)}")
    return {"screening": screen(state["cv"], state["job"]), "reminders": 0, "reply": None}


def after_screening(state: Case) -> Literal["ask", "reject"]:
    """Only those who fit are asked."""
    return "ask" if state["screening"]["score"] >= state.get("pass_score", PASS_SCORE) else "reject"


async def ask(state: Case) -> dict[str, Any]:
    """Offer the slots."""
    offered = "\n".join(f"{number}. {slot}" for number, slot in enumerate(state["slots"], 1))
    text = f"we would like to talk to you. Which of these suits you?\n\n{offered}\n\nJust answer with its number."
    await _mail(state, "ask", f"Interview: {_title(state)}", text)
    return {}


async def wait(state: Case) -> dict[str, Any]:  # noqa: ARG001 (a node gets the state)
    """Sleep until the reply comes, two days at most."""
    reply = wait_for_event("reply", timeout=PATIENCE)
    return {"reply": None if isinstance(reply, TimedOut) else _read(reply.payload)}


def after_wait(state: Case) -> Literal["schedule", "remind", "give_up", "decline"]:
    """What the reply, or its absence, leads to."""
    reply = state.get("reply")
    if reply is None:
        return "remind" if state["reminders"] == 0 else "give_up"
    return "schedule" if reply.get("slot") in range(1, len(state["slots"]) + 1) else "decline"


async def remind(state: Case) -> dict[str, Any]:
    """Ask once more."""
    text = "two days ago we asked when an interview suits you, and have not heard from you. Are you still interested?"
    await _mail(state, "remind", f"Reminder: {_title(state)}", text)
    return {"reminders": state["reminders"] + 1}


async def schedule(state: Case) -> dict[str, Any]:
    """Fix the interview."""
    reply = state["reply"] or {}
    slot = state["slots"][reply["slot"] - 1]
    await _mail(state, "confirm", f"Confirmed: {_title(state)}", f"we look forward to meeting you: {slot}.")
    return {"interview": slot, "outcome": "interview"}


async def reject(state: Case) -> dict[str, Any]:
    """Say no, kindly."""
    text = "thank you for applying. We decided to go on with others whose experience is closer to what we look for."
    await _mail(state, "reject", f"Your application: {_title(state)}", text)
    return {"outcome": "rejected"}


def decline(state: Case) -> dict[str, Any]:  # noqa: ARG001
    """The candidate does not want to, or none of the slots suits."""
    return {"outcome": "declined"}


def give_up(state: Case) -> dict[str, Any]:  # noqa: ARG001
    """Nobody answered."""
    return {"outcome": "gave up"}


async def _mail(state: Case, key: str, subject: str, text: str) -> None:
    candidate = state["candidate"]
    letter = {"to": candidate["email"], "subject": subject, "text": f"Dear {candidate['name']},\n\n{text}\n"}
    reply_to = await reply_address("reply", recipient=candidate["email"], expires=2 * PATIENCE)
    # An attempt of which nobody knows whether it worked is made again with the same Message-ID: better twice than never.
    await effect(
        key,
        lambda id_: send(id_, sender=SENDER, reply_to=reply_to, **letter),
        action=letter,
        on_unknown="retry",
        not_done=NOT_SENT,
    )


def _read(payload: Any) -> dict[str, Any]:
    """A reply as its slot (0: none) and text; a number in a short text is a slot."""
    if not isinstance(payload, Mapping):
        payload = {"slot": payload} if isinstance(payload, int) else {"text": str(payload)}
    text = str(payload.get("text", "")).strip()
    slot = payload.get("slot", int(text) if text.isdecimal() and len(text) < 3 else 0)
    return {"slot": slot if isinstance(slot, int) else 0, "text": text[:2000]}


def _title(state: Case) -> str:
    return state["job"].get("title", "the position")


retry = RetryPolicy(initial_interval=2.0, max_interval=60.0, max_attempts=10, retry_on=OSError)
builder = StateGraph(Case, input_schema=Application)
builder.add_node("read_cv", read_cv)
for name, node in (("ask", ask), ("remind", remind), ("schedule", schedule), ("reject", reject)):
    builder.add_node(name, node, retry_policy=retry)
builder.add_node("wait", wait)
builder.add_node("decline", decline)
builder.add_node("give_up", give_up)
builder.add_edge(START, "read_cv")
builder.add_conditional_edges("read_cv", after_screening)
builder.add_edge("ask", "wait")
builder.add_conditional_edges("wait", after_wait)
builder.add_edge("remind", "wait")
for last in ("schedule", "reject", "decline", "give_up"):
    builder.add_edge(last, END)
graph = builder.compile()
