"""From the end of a run to the waits of its thread: opened, closed, offered the signals that came before, put to the validator.

Contract: :meth:`Hibernation.project` is called when the end of the run is in the history and before the run's document says so, so
that a crash in between is recovered and all of it happens again; everything is idempotent (ADR 6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from perdure.agent_step.claims import Claimed
from perdure.agent_step.domain import Outcome
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.signatures import Signatures
from perdure.registry.signals import Signals
from perdure.registry.validations import publish_request
from perdure.registry.waits import Waits, outcome_in, wait_documents
from perdure.schemas.documents import WaitDocument
from perdure.schemas.waits import wait_id


class Hibernation:
    """The waits of the runs that end here."""

    def __init__(self, waits: Waits, signals: Signals, producer: Producer, source: str, signatures: Signatures) -> None:
        self._waits = waits
        self._signals = signals
        self._producer = producer
        self._source = source
        self._signatures = signatures

    def concerns(self, claimed: Claimed, outcome: Outcome) -> bool:
        """Whether the run began or ended at an interrupt, or may have: a thread's document may be that of its end already."""
        before = (claimed.thread or {}).get("interrupts") or ()
        return "wait_id" in claimed.run or claimed.run["epoch"] > 1 or bool(before) or bool(outcome.interrupts)

    async def project(self, claimed: Claimed, outcome: Outcome, moment: datetime) -> None:
        """Bring the thread's waits up to date with the end of a run."""
        run = claimed.run
        waits = wait_documents(run, outcome.interrupts, outcome.next, moment)
        if (streamed := claimed.payload.get("stream")) is not None:
            for wait in waits:
                wait["stream"] = streamed
        left = await self._left(claimed, {wait["_id"] for wait in waits})
        await asyncio.gather(self._waits.open(waits), self._mark_ended(claimed), self._waits.close(left, moment))
        if any(wait["events"] for wait in waits):
            await self._signals.offer(run["thread_id"])
        self._request_validations(waits)

    async def _left(self, claimed: Claimed, kept: set[str]) -> set[str]:
        """The waits that the thread had and went on without."""
        run = claimed.run
        if run["epoch"] > 1:  # whoever had the run before may have brought the thread's document up to date already
            before = await self._waits.open_on(run["thread_id"])
        else:
            interrupts = (claimed.thread or {}).get("interrupts") or ()
            before = {wait_id(run["thread_id"], one["id"]) for one in interrupts}
        return before - kept - {run.get("wait_id", "")}

    async def _mark_ended(self, claimed: Claimed) -> None:
        """The wait that this run woke the thread from, if any: whoever registered the run may have died before it said so."""
        wait = claimed.run.get("wait_id")
        if wait is None:
            return
        if (ended := outcome_in(claimed.payload)) is not None:
            await self._waits.mark(wait, ended, claimed.run["_id"])

    def _request_validations(self, waits: Sequence[WaitDocument]) -> None:
        for wait in waits:
            if wait.get("validation"):
                publish_request(self._producer, wait, self._source, self._signatures)
