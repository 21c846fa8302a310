"""Whether a verdict or an approval lets an effect run.

Contract: of what a node passes only the id counts; what was decided is read from the run that woke the thread
(``perdure.registry.waits.Waits.woken``), which nobody can write from outside. Fails closed: whatever is not clearly a permission
for this very action, in this thread, now, is refused.

An answer approves when it is ``true`` or an object with ``"approved": true``. A verdict permits when its outcome is ``proceed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias

from pydantic import ValidationError

from perdure.registry.waits import Woken
from perdure.schemas.validation import Verdict, VerdictOutcome
from perdure.schemas.waits import OutcomeKind, WaitOutcome
from perdure.sdk.effect_errors import EffectMisused, GuardExpired, GuardMismatch, GuardMissing, GuardRefused
from perdure.sdk.waits import Answered

GuardKind: TypeAlias = Literal["verdict", "approval"]


class HasVerdictId(Protocol):
    """What ``final_validation`` returns."""

    @property
    def verdict_id(self) -> str | None:
        """The id of the verdict."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What an effect was given; ``id`` is ``None`` when that was nothing."""

    kind: GuardKind
    id: str | None


def guard_of(kind: GuardKind, given: object) -> Guard:
    """What a node passes as a guard: an id, an :class:`Answered`, a result of ``final_validation``, or nothing.

    Raises:
        EffectMisused: it is something else.

    """
    if isinstance(given, Answered):
        given = given.approval_id if kind == "approval" else None
    elif given is not None and not isinstance(given, str):
        name = f"{kind}_id"
        if not hasattr(given, name):
            raise EffectMisused(f"{kind}= takes an id or what has a {name}; a {type(given).__name__} has none")
        given = getattr(given, name)
    if given is not None and not isinstance(given, str):
        raise EffectMisused(f"the id of a {kind} is a text, not a {type(given).__name__}")
    return Guard(kind, given or None)


def permit(
    guard: Guard, woken: Woken | None, *, where: str, thread_id: str, digest: str, now: datetime
) -> datetime | None:
    """Until when a guard lets an effect run; ``None``: without limit.

    Args:
        guard: What was given.
        woken: How the wait with its id ended.
        where: How to name the effect.
        thread_id: Its thread.
        digest: Of its action.
        now: By the database's clock.

    Raises:
        GuardError: it does not.

    """
    kind, wait = guard.kind, guard.id
    if wait is None:
        raise GuardMissing(f"{where} needs a {kind} and was given none; {_REMEDY[kind]}")
    if not wait.startswith(f"{thread_id}:"):
        raise GuardMismatch(f"{where} was given {kind} {wait}, which belongs to another thread; {_REMEDY[kind]}", wait)
    if woken is None or woken.run.get("wait_id") != wait or woken.run["thread_id"] != thread_id:
        raise GuardMissing(f"{where} was given {kind} {wait}, which nobody has decided; {_REMEDY[kind]}", wait)
    outcome = woken.outcome
    expires = _expiry(kind, wait, outcome, where, digest)
    if expires is not None and now >= expires:
        raise GuardExpired(f"{where}: {kind} {wait} expired at {expires.isoformat()}; {_REMEDY[kind]}", wait)
    return expires


def approves(answer: Any) -> bool:
    """Whether an answer is an approval."""
    return answer is True or (isinstance(answer, Mapping) and answer.get("approved") is True)


_REMEDY: dict[GuardKind, str] = {
    "verdict": "run final_validation for this action and pass what it returns",
    "approval": "ask_human(..., action=...) for this action and pass what it returns",
}


def _expiry(kind: GuardKind, wait: str, outcome: WaitOutcome, where: str, digest: str) -> datetime | None:
    """The end of a permission's time, when it is a permission for this action at all."""
    expected = OutcomeKind.VERDICT if kind == "verdict" else OutcomeKind.ANSWER
    if outcome.kind is not expected:
        raise GuardMismatch(f"{where}: {wait} is no {kind}, its wait ended with: {outcome.kind}", wait)
    digests, expiries = [outcome.action_digest], [outcome.expires_at]
    if kind == "verdict":
        try:
            verdict = Verdict.model_validate(outcome.payload)
        except ValidationError as error:
            raise GuardRefused(f"{where}: verdict {wait} cannot be read: {error}", wait) from error
        if verdict.outcome is not VerdictOutcome.PROCEED:
            reasons = "; ".join(f"{finding.name}: {finding.reason}" for finding in verdict.findings)[:2_000]
            raise GuardRefused(f"{where}: verdict {wait} is {verdict.outcome}, not proceed ({reasons})", wait)
        digests.append(verdict.action_digest)
        expiries.append(verdict.expires_at)
    elif not approves(outcome.payload):
        raise GuardRefused(f"{where}: answer {wait} by {outcome.by or 'somebody'} does not approve", wait)
    if any(found != digest for found in digests):
        raise GuardMismatch(
            f"{where}: {kind} {wait} is for action {digests[0] or '(none)'}, this is action {digest}; {_REMEDY[kind]}",
            wait,
        )
    return min((one for one in expiries if one is not None), default=None)
