"""What the result of an attempt means for its delivery. Pure.

Contract: :func:`change_of` is what becomes of the delivery's document: delivered, dead with a reason, dropped with a reason, or
pending again with the next time. Nothing else is possible, so no notice is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from perdure.notifier.channels.result import Result
from perdure.notifier.results import Change
from perdure.notifier.settings import NotifierSettings
from perdure.notifier.timing import Chance, after_quiet, backoff_s, next_attempt
from perdure.registry.deliveries import ATTEMPTS_KEPT, ended, tellable
from perdure.schemas.notices import AttemptRecord, DeliveryState

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt and what came of it. ``latency_s`` in seconds."""

    result: Result
    began_at: datetime
    ended_at: datetime
    latency_s: float


def state_after(delivery: Mapping[str, Any], attempt: Attempt) -> DeliveryState:
    """The state that an attempt leaves its delivery in."""
    result = attempt.result
    if result.delivered:
        return DeliveryState.DELIVERED
    if result.dropped:
        return DeliveryState.DROPPED
    over = attempt.ended_at >= delivery["give_up_at"]
    return DeliveryState.DEAD if result.final or over else DeliveryState.PENDING


def change_of(delivery: Mapping[str, Any], attempt: Attempt, settings: NotifierSettings, chance: Chance) -> Change:
    """What an attempt changes in its delivery's document."""
    result, now = attempt.result, attempt.ended_at
    state = state_after(delivery, attempt)
    reason = reason_of(delivery, attempt, state)
    fields: Document = {"tried": delivery["tried"] + 1, "reason": reason}
    if state is DeliveryState.PENDING:
        failures = delivery["failures"] + 1
        pause_s = backoff_s(failures, settings.notifier_retry_first_s, settings.notifier_retry_cap_s, chance)
        again = next_attempt(now, pause_s, result.retry_after_s, delivery["give_up_at"]) or now
        fields |= {"failures": failures, "due_at": after_quiet(again, delivery.get("quiet"), delivery["kind"])}
    else:
        fields |= ended(state, now, tellable=tellable(delivery, state))
    record: AttemptRecord = {
        "number": delivery["tried"] + 1,
        "at": attempt.began_at,
        "latency_ms": round(attempt.latency_s * 1000, 1),
        "status": result.status,
        "outcome": "retry" if state is DeliveryState.PENDING else state.value,
        "reason": reason or "",
        "instance": settings.instance,
    }
    fields["attempts"] = [*delivery["attempts"], record][-ATTEMPTS_KEPT:]
    return Change(fields, ended=state is not DeliveryState.PENDING)


def reason_of(delivery: Mapping[str, Any], attempt: Attempt, state: DeliveryState) -> str | None:
    """Why it was not delivered, for people."""
    reason = attempt.result.reason
    if state is DeliveryState.DEAD and not attempt.result.final:
        days = delivery.get("patience_s", 0) / 86400
        return f"given up after {days:.3g} days and {delivery['tried'] + 1} attempts: {reason}"
    return reason


def let_go(delivery: Mapping[str, Any], now: datetime) -> Document:
    """The update of a delivery whose time is over while its endpoint was left alone."""
    last = delivery.get("reason") or "its endpoint was left alone because it failed again and again"
    days = delivery.get("patience_s", 0) / 86400
    reason = f"given up after {days:.3g} days and {delivery['tried']} attempts: {last}"
    ending = ended(DeliveryState.DEAD, now, tellable=tellable(delivery, DeliveryState.DEAD))
    return {"$set": ending | {"reason": reason}, "$unset": {"due_at": "", "claim": ""}}
