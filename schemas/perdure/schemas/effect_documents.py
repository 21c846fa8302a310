"""The stored shape of effects, in the collection ``effects`` (ADR 9).

Contract: BSON documents as typed dictionaries. Outside: what may be done with an effect (``perdure.sdk.effect_rules``).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, TypedDict


class EffectState(StrEnum):
    """What is known of an effect."""

    INTENT = "intent"
    """An attempt was begun; without a receipt it is under way, or unknown."""
    NOT_DONE = "not_done"
    """It certainly has not happened; it may be tried again."""
    DONE = "done"


class AttemptDocument(TypedDict, total=False):
    """One attempt at an effect."""

    number: int
    """1, 2, ..."""
    token: str
    run_id: str
    epoch: int
    """Of the run, when it was begun."""
    place: dict[str, Any] | None
    """The process (``perdure.sdk.place``)."""
    started_at: datetime
    deadline: datetime
    """By the database's clock: it does not begin to act later, and nobody follows it earlier."""
    ended_at: datetime
    """When its owner said that it is over; absent while it runs, and when its owner died."""
    outcome: str
    """``done``, ``not_done`` or ``unknown``."""
    error: str
    told_by: str
    """Of ``not_done``: who knew."""


class EffectDocument(TypedDict, total=False):
    """One guarded or plain effect of a thread (ADR 9); ``_id`` is its idempotency key, ``<thread id>:<key>``."""

    _id: str
    tenant: str
    thread_id: str
    key: str
    action_digest: str | None
    guards: list[str]
    """The verdicts and approvals (ids of waits) that it has used up; absent without any. Unique over all effects."""
    state: str
    version: int
    """Raised by every change: each is a compare-and-set."""
    attempts: list[AttemptDocument]
    """The last 50, oldest first."""
    asked: list[dict[str, Any]]
    """``ns``, ``attempt``: about which attempts a person was asked, from which task of the graph."""
    receipt: bytes
    receipt_type: str
    """As LangGraph's serializer names it; ``unstorable``: ``receipt`` says why there is none."""
    receipt_token: str | None
    """Of the attempt that returned it; null when somebody else knew."""
    receipt_by: str
    done_at: datetime
    more_receipts: list[dict[str, Any]]
    """Receipts after the first: ``token``, ``type``, ``receipt``, ``at``, ``same``. One that is not the same: it happened twice."""
    created_at: datetime
    updated_at: datetime
