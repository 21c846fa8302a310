"""Waits: what a hibernating thread waits for, and what woke it.

Contract: :class:`Wait` is the value of a LangGraph ``interrupt()`` made by ``perdure.sdk``; :class:`WaitOutcome` is what the run
that wakes the thread resumes that interrupt with. Both travel as JSON and are marked, so that an ordinary interrupt of a user's
graph is never taken for one of ours.

Outside: storing them (``perdure.registry``), and the types that nodes see (``perdure.sdk``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.schemas.moments import AwareMoment
from perdure.schemas.validation import EXPIRY_LIMIT_S, PREMISES_LIMIT, Premise

WAIT_MARK: Final = "perdure_wait"
OUTCOME_MARK: Final = "perdure_outcome"
WAIT_LIMIT: Final = 48 * 1024
"""Bytes of JSON of one wait: interrupts above 64 KiB are replaced by a note in events and documents."""
SIGNAL_NAME_PATTERN: Final = r"^[A-Za-z0-9._:-]{1,128}$"


class WaitKind(StrEnum):
    """What a wait is in the first place; any of them may have a due time beside it."""

    TIMER = "timer"
    EVENT = "event"
    APPROVAL = "approval"
    VALIDATION = "validation"


class Question(BaseModel):
    """What a person is asked."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    question: str = Field(min_length=1, max_length=16_000)
    answer_schema: dict[str, Any] | None = None
    """JSON Schema (2020-12) that an answer must fit; any JSON value when absent."""
    details: dict[str, Any] = Field(default_factory=dict)
    """What the person needs to know to decide: shown, searchable, not interpreted."""
    action: Any = None
    """The exact act that an approval allows, as JSON; ``None`` when the answer allows nothing."""
    action_digest: str | None = None
    """:func:`digest` of ``action``."""
    assigned_to: str | None = None
    """Who is asked first; free text (a person, a group)."""
    escalate_to: tuple[str, ...] = ()
    """Who is asked next, one after the other, each time the question expires without an answer."""
    expires_s: float | None = Field(default=None, gt=0)
    """Seconds that each of them has."""


class ValidationRequest(BaseModel):
    """Premises to check now, for one exact action."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    premises: tuple[Premise, ...] = Field(min_length=1, max_length=PREMISES_LIMIT)
    action: Any = None
    action_digest: str
    verdict_expires_s: float = Field(default=60.0, gt=0, le=EXPIRY_LIMIT_S)
    """Seconds that a verdict may be used after the premises were read."""


class Wait(BaseModel):
    """The value of an interrupt: whichever of its parts happens first ends the wait."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    version: Literal[1] = Field(default=1, alias=WAIT_MARK)
    kind: WaitKind
    due_at: AwareMoment | None = None
    """When the clock ends the wait, in UTC."""
    events: tuple[str, ...] = ()
    """Names of signals that end it."""
    question: Question | None = None
    validation: ValidationRequest | None = None

    def value(self) -> dict[str, Any]:
        """As the JSON value of an interrupt."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True) | {WAIT_MARK: 1}


class OutcomeKind(StrEnum):
    """What ended a wait."""

    DUE = "due"
    """The clock: a timer's time came, a time-out passed, a question expired."""
    SIGNAL = "signal"
    ANSWER = "answer"
    VERDICT = "verdict"


class WaitOutcome(BaseModel):
    """What a wait ended with: the value that its interrupt is resumed with."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    version: Literal[1] = Field(default=1, alias=OUTCOME_MARK)
    kind: OutcomeKind
    wait_id: str
    at: AwareMoment
    """When it was decided, by the clock of whoever decided it."""
    due_at: AwareMoment | None = None
    """Of ``due``: the time that had been asked for."""
    name: str | None = None
    """Of ``signal``: its name."""
    signal_id: str | None = None
    payload: Any = None
    """Of ``signal``: what was sent. Of ``answer``: the answer. Of ``verdict``: the verdict (``perdure.schemas.validation``)."""
    sent_at: AwareMoment | None = None
    """Of ``signal``: when it was accepted."""
    by: str | None = None
    """Of ``answer``: who answered: the caller's subject, or the name in the request where nobody was asked who calls."""
    on_behalf_of: str | None = None
    """Of ``answer``: in whose name a known caller answered, as the caller said."""
    action_digest: str | None = None
    """Of ``answer`` and ``verdict``: the action that was asked about."""
    expires_at: AwareMoment | None = None
    """Of ``answer`` and ``verdict``: until when it may be used for an effect; ``None``: no limit."""

    def value(self) -> dict[str, Any]:
        """As the JSON value that an interrupt is resumed with."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True) | {OUTCOME_MARK: 1}


def wait_of(value: Any) -> Wait | None:
    """The wait that an interrupt's value describes; ``None`` for an interrupt that ``perdure.sdk`` did not make.

    A value that bears our mark and does not fit :class:`Wait` is such an interrupt, too: a graph may use any key, and a pause
    that nothing of ours can end is a question to people. The whole system judges interrupts by this function alone.
    """
    if not isinstance(value, Mapping) or WAIT_MARK not in value:
        return None
    try:
        return Wait.model_validate(value)
    except ValidationError:
        return None


def is_wait(value: Any) -> bool:
    """Whether an interrupt is a wait that ``perdure.sdk`` made."""
    return wait_of(value) is not None


def asks_people(value: Any) -> bool:
    """Whether an interrupt is a question to people: a plain ``interrupt()`` of a graph, or a wait of ours with a question.

    A sleep, a wait for an event and a validation end without anybody's answer.
    """
    wait = wait_of(value)
    return wait is None or wait.question is not None


def outcome_of(value: Any) -> WaitOutcome | None:
    """The outcome that an interrupt was resumed with; ``None`` for a plain answer."""
    return WaitOutcome.model_validate(value) if isinstance(value, Mapping) and OUTCOME_MARK in value else None


def wait_id(thread_id: str, interrupt_id: str) -> str:
    """The id of a wait. This format is stored and part of addresses; never change it."""
    return f"{thread_id}:{interrupt_id}"


def wake_key(wait: str) -> str:
    """The idempotency key of the run that wakes a wait: whoever registers it first ends the wait. Never change it."""
    return f"wake:{wait}"


def digest(action: Any) -> str:
    """Digest of an action: of its JSON with sorted keys and no white space (RFC 8785 where no number is a float; 64 hex digits).

    Floats are written in Python's shortest form that reads back as the same number.

    Raises:
        TypeError: the action is not JSON.
        ValueError: it holds NaN or an infinity.

    """
    canonical = json.dumps(action, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def is_due(due_at: datetime | None, now: datetime) -> bool:
    """Whether the clock ends a wait."""
    return due_at is not None and due_at <= now
