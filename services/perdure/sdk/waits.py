"""Waits for nodes: the agent sleeps, nothing of it stays in memory, and the node goes on with a typed outcome.

::

    reply = wait_for_event("reply", timeout=timedelta(hours=48))
    if isinstance(reply, TimedOut):
        return {"log": ["nobody answered"]}

Contract: each call is one LangGraph ``interrupt()``. The rules of interrupts hold: when the thread wakes, the node runs again
**from its first line**, so what stands before a wait happens again (guard it with ``perdure.sdk.effect``), and a node must reach
its waits in the same order each time. A time-out is an outcome, not an exception. Times are counted from the moment the wait is
stored first; a sibling branch that wakes earlier does not start the count again.

The functions work in ordinary and in ``async`` nodes alike; none of them blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from langgraph.types import interrupt

from perdure.chassis import json
from perdure.chassis.clock import now
from perdure.registry.answers import require_schema
from perdure.schemas.moments import in_milliseconds
from perdure.schemas.waits import (
    WAIT_LIMIT,
    OutcomeKind,
    Question,
    Wait,
    WaitKind,
    WaitOutcome,
    digest,
    outcome_of,
)
from perdure.sdk.errors import WaitError

LONGEST = timedelta(days=366 * 10)


@dataclass(frozen=True, slots=True)
class Slept:
    """A timer's time came."""

    due_at: datetime
    woken_at: datetime


@dataclass(frozen=True, slots=True)
class Received:
    """A signal came."""

    name: str
    payload: Any
    signal_id: str
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Nothing that was waited for came in time."""

    due_at: datetime


@dataclass(frozen=True, slots=True)
class Answered:
    """A person answered."""

    value: Any
    by: str | None
    """As the caller named them; ``None`` where the thread was resumed by a plain ``command.resume``."""
    at: datetime | None
    approval_id: str | None = None
    """What ``effect(approval=...)`` takes; ``None`` for a plain answer, which approves nothing."""
    action_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """Nobody answered in time, not even those whom the question was escalated to."""

    due_at: datetime


WaitResult: TypeAlias = Slept | Received | TimedOut | Answered | Expired


@dataclass(frozen=True, slots=True)
class Timer:
    """Part of :func:`wait_any`: a moment."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """Part of :func:`wait_any`: a signal with this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Part of :func:`wait_any`: a question to a person; arguments as for :func:`ask_human`."""

    question: str
    schema: dict[str, Any] | None = None
    details: dict[str, Any] | None = None
    action: Any = None
    assigned_to: str | None = None


def sleep_until(moment: datetime) -> Slept:
    """Sleep until ``moment`` (with a time zone); one that has passed wakes the agent at once.

    Raises:
        WaitError: ``moment`` has no time zone, or is more than ten years away.

    """
    outcome = _wait(Wait(kind=WaitKind.TIMER, due_at=_moment(moment)))
    if not isinstance(outcome, WaitOutcome):
        return Slept(due_at=moment, woken_at=now())
    return Slept(due_at=outcome.due_at or moment, woken_at=outcome.at)


def sleep_for(duration: timedelta) -> Slept:
    """Sleep for ``duration``, at most ten years."""
    return sleep_until(_after(duration))


def wait_for_event(name: str, timeout: timedelta | None = None) -> Received | TimedOut:
    """Wait for a signal (``POST /threads/{id}/signals/{name}``); one that was sent before is received at once.

    Args:
        name: 1 to 128 of ``A-Z a-z 0-9 . _ : -``.
        timeout: How long at most; for ever without.

    """
    result = _result(_wait(_make(kind=WaitKind.EVENT, events=(name,), due_at=_after(timeout) if timeout else None)))
    if isinstance(result, Answered):  # a plain command.resume: what it gave is the payload
        return Received(name=name, payload=result.value, signal_id="", sent_at=now())
    return result if isinstance(result, Received) else TimedOut(_due(result))


def ask_human(
    question: str,
    schema: dict[str, Any] | None = None,
    *,
    expires: timedelta | None = None,
    escalate_to: list[str] | tuple[str, ...] = (),
    assigned_to: str | None = None,
    details: dict[str, Any] | None = None,
    action: Any = None,
) -> Answered | Expired:
    """Ask a person and sleep until somebody answers (``GET /approvals``, ``POST /approvals/{id}``).

    Args:
        question: What is asked.
        schema: JSON Schema that an answer must fit; one that does not is refused and the agent stays asleep.
        expires: How long each person has; without, the question stays open.
        escalate_to: Who is asked next, one after the other, each time ``expires`` has passed. Needs ``expires``.
        assigned_to: Who is asked first.
        details: What that person needs to know to decide.
        action: The exact act (JSON) that a yes allows: the answer is bound to its digest, and
            ``effect(approval=answer, action=...)`` runs for this very action only.

    """
    if escalate_to and expires is None:
        raise WaitError("escalate_to needs expires: without it the question never goes to the next person")
    asked = _question(Ask(question, schema, details, action, assigned_to), expires, tuple(escalate_to))
    result = _result(_wait(_make(kind=WaitKind.APPROVAL, question=asked, due_at=_after(expires) if expires else None)))
    return result if isinstance(result, Answered) else Expired(_due(result))


def wait_any(*parts: Timer | Event | Ask, timeout: timedelta | None = None) -> WaitResult:
    """Wait for whichever comes first: "the reply or 48 hours", "an answer, a cancellation or Friday".

    Args:
        parts: At most one :class:`Timer` and one :class:`Ask`, any number of :class:`Event`.
        timeout: The outcome is :class:`TimedOut` then; not together with a :class:`Timer`.

    """
    timers = [part for part in parts if isinstance(part, Timer)]
    asks = [part for part in parts if isinstance(part, Ask)]
    events = tuple(part.name for part in parts if isinstance(part, Event))
    if not parts or len(timers) > 1 or len(asks) > 1 or (timers and timeout):
        raise WaitError(
            "wait_any takes at most one Timer (or timeout) and one Ask, any number of Events, and at least one part"
        )
    due_at = _moment(timers[0].until) if timers else _after(timeout) if timeout else None
    kind = WaitKind.APPROVAL if asks else WaitKind.EVENT if events else WaitKind.TIMER
    asked = _question(asks[0], None, ()) if asks else None
    outcome = _wait(_make(kind=kind, due_at=due_at, events=events, question=asked))
    result = _result(outcome)
    if isinstance(result, TimedOut) and timers:
        return Slept(due_at=result.due_at, woken_at=outcome.at if isinstance(outcome, WaitOutcome) else result.due_at)
    return result


def _question(ask: Ask, expires: timedelta | None, escalate_to: tuple[str, ...]) -> Question:
    try:
        if ask.schema is not None:
            require_schema(ask.schema)
        return Question(
            question=ask.question,
            answer_schema=ask.schema,
            details=ask.details or {},
            action=ask.action,
            action_digest=digest(ask.action) if ask.action is not None else None,
            assigned_to=ask.assigned_to,
            escalate_to=escalate_to,
            expires_s=expires.total_seconds() if expires else None,
        )
    except (TypeError, ValueError) as error:
        raise WaitError(f"this question cannot be asked: {error}") from error


def _make(**fields: Any) -> Wait:
    try:
        return Wait(**fields)
    except ValueError as error:
        raise WaitError(f"this cannot be waited for: {error}") from error


def _wait(wait: Wait) -> Any:
    """Interrupt; what the wait ended with, or the plain value of a ``command.resume``."""
    value = wait.value()
    size = len(json.dumps(value))
    if size > WAIT_LIMIT:
        raise WaitError(
            f"a wait of {size} bytes as JSON is over the limit of {WAIT_LIMIT}: keep large values in the state"
        )
    given = interrupt(value)
    return outcome_of(given) or given


def _result(outcome: Any) -> WaitResult:
    if not isinstance(outcome, WaitOutcome):
        return Answered(value=outcome, by=None, at=None)
    if outcome.kind is OutcomeKind.SIGNAL:
        return Received(outcome.name or "", outcome.payload, outcome.signal_id or "", outcome.sent_at or outcome.at)
    if outcome.kind is OutcomeKind.ANSWER:
        return Answered(outcome.payload, outcome.by, outcome.at, outcome.wait_id, outcome.action_digest)
    return TimedOut(due_at=outcome.due_at or outcome.at)


def _due(result: WaitResult) -> datetime:
    return result.due_at if isinstance(result, TimedOut | Slept | Expired) else now()


def _moment(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise WaitError(
            f"{moment!r} has no time zone: which moment it is depends on the machine. Use datetime.now(UTC)"
        )
    if moment - now() > LONGEST:
        raise WaitError(f"{moment.isoformat()} is more than ten years away")
    return in_milliseconds(moment)


def _after(duration: timedelta) -> datetime:
    if duration > LONGEST:
        raise WaitError(f"{duration} is more than ten years")
    return in_milliseconds(now() + duration)
