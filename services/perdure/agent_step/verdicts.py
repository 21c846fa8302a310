"""What agent-step does with each verdict: it ends the wait that asked for it.

Contract: a batch is done when the waking runs are durable. A verdict that comes twice wakes once, one for a wait that is over or
was never there is ignored, and one on another action than the wait's is refused; both are logged. No verdict lasts longer than was
asked for, counted by the database's clock from when it came: the validator's may be ahead, and an old world pass for a fresh one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from perdure.chassis.telemetry import logger
from perdure.registry.waits import Waits
from perdure.schemas.documents import WaitDocument, WaitStatus
from perdure.schemas.envelope import Decoded
from perdure.schemas.validation import PremisesValidated
from perdure.schemas.waits import OutcomeKind, ValidationRequest, WaitOutcome

log = logger(__name__)

Clock = Callable[[], Awaitable[datetime]]


async def handle(waits: Waits, clock: Clock, batch: Sequence[Decoded]) -> None:
    """Handle a batch of verdicts; ``clock`` asks the database for the time."""
    verdicts = [d.message for d in batch if isinstance(d.message, PremisesValidated)]
    # Of several on one wait and action one is enough: all of them are true. One on another action must not hide it.
    one_each = {(verdict.wait_id, verdict.verdict.action_digest): verdict for verdict in verdicts}
    if one_each:
        now = await clock()
        await asyncio.gather(*(_deliver(waits, message, now) for message in one_each.values()))


async def _deliver(waits: Waits, message: PremisesValidated, now: datetime) -> None:
    wait = await waits.find(message.wait_id)
    if wait is None or (problem := _problem(wait, message)) is not None:
        reason = "there is no such wait" if wait is None else problem
        log.warning("verdict.ignored", thread_id=message.thread_id, wait_id=message.wait_id, reason=reason)
        return
    if wait["status"] != WaitStatus.OPEN.value:
        log.info("verdict.late", thread_id=message.thread_id, wait_id=message.wait_id, status=wait["status"])
        return
    verdict = message.verdict
    lasts = timedelta(seconds=ValidationRequest.model_validate(wait["validation"]).verdict_expires_s)
    outcome = WaitOutcome(
        kind=OutcomeKind.VERDICT,
        wait_id=message.wait_id,
        at=now,
        payload=verdict.model_dump(mode="json"),
        action_digest=verdict.action_digest,
        expires_at=min(verdict.expires_at, now + lasts),
    )
    await waits.wake(wait, outcome)


def _problem(wait: WaitDocument, message: PremisesValidated) -> str | None:
    """Why a verdict is not the answer to a wait."""
    asked = wait.get("validation")
    if not asked:
        return f"the wait is of kind {wait['kind']} and asked for no verdict"
    if (wait["tenant"], wait["thread_id"]) != (message.tenant, message.thread_id):
        return "the wait is another thread's"
    if asked["action_digest"] != message.verdict.action_digest:
        return "the verdict is on another action than the wait's"
    return None
