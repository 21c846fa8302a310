"""What agent-step does with each verdict: it ends the wait that asked for it.

Contract: a batch is done when the waking runs are durable. A verdict that comes twice wakes once, one for a wait that is over or
was never there is ignored, and one on another action than the wait's is refused; both are logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from perdure.chassis.telemetry import logger
from perdure.registry.waits import Waits
from perdure.schemas.documents import WaitDocument, WaitStatus
from perdure.schemas.envelope import Decoded
from perdure.schemas.validation import PremisesValidated
from perdure.schemas.waits import OutcomeKind, WaitOutcome

log = logger(__name__)


async def handle(waits: Waits, batch: Sequence[Decoded]) -> None:
    """Handle a batch of verdicts."""
    verdicts = [d.message for d in batch if isinstance(d.message, PremisesValidated)]
    # Of several on one wait and action one is enough: all of them are true. One on another action must not hide it.
    one_each = {(verdict.wait_id, verdict.verdict.action_digest): verdict for verdict in verdicts}
    await asyncio.gather(*(_deliver(waits, message) for message in one_each.values()))


async def _deliver(waits: Waits, message: PremisesValidated) -> None:
    wait = await waits.find(message.wait_id)
    if wait is None or (problem := _problem(wait, message)) is not None:
        reason = "there is no such wait" if wait is None else problem
        log.warning("verdict.ignored", thread_id=message.thread_id, wait_id=message.wait_id, reason=reason)
        return
    if wait["status"] != WaitStatus.OPEN.value:
        log.info("verdict.late", thread_id=message.thread_id, wait_id=message.wait_id, status=wait["status"])
        return
    verdict = message.verdict
    outcome = WaitOutcome(
        kind=OutcomeKind.VERDICT,
        wait_id=message.wait_id,
        at=datetime.now(UTC),
        payload=verdict.model_dump(mode="json"),
        action_digest=verdict.action_digest,
        expires_at=verdict.expires_at,
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
