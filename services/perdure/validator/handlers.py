"""What the validator does with each request: a task of its own, a verdict, and only then it is done.

Contract: :meth:`Validator.handle` returns when the verdicts of its batch are acknowledged by Kafka, or after
``validator_patience_s``. So a slow source holds up nobody else's verdict. What is still open then would be lost with this process:
the wait's document stays open, the scheduler asks again, and a verdict may be repeated (the first one wakes the thread; ADR 8).
A request that is repeated while it is being checked is not checked twice. One that cannot be checked (a mistake of ours) is
refused, alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from perdure.chassis.clock import now
from perdure.chassis.kafka.consumer import Refused
from perdure.chassis.kafka.isolation import describe
from perdure.chassis.kafka.producer import KafkaRefusedError, Producer
from perdure.chassis.signatures import Signatures
from perdure.chassis.telemetry import logger
from perdure.schemas.envelope import Decoded, encode
from perdure.schemas.topics import VERDICTS
from perdure.schemas.validation import Premise, PremisesValidated, ValidatePremises, Verdict
from perdure.validator import metrics
from perdure.validator.domain import Reading, conclude, find
from perdure.validator.reading import Reader
from perdure.validator.settings import ValidatorSettings

log = logger(__name__)

SOURCE: Final = "perdure/validator"
DELIVERY_S: Final = 2.0
"""How long before its wait ends by the clock a verdict is given at the latest, in seconds."""


class Validator:
    """Checks premises. Belongs to one event loop."""

    def __init__(self, settings: ValidatorSettings, reader: Reader, producer: Producer, signatures: Signatures) -> None:
        self._settings = settings
        self._reader = reader
        self._producer = producer
        self._signatures = signatures
        self._open: dict[str, asyncio.Task[None]] = {}

    def room(self) -> int:
        """How many more validations may be open."""
        return max(0, self._settings.validator_max_open - len(self._open))

    async def handle(self, batch: Sequence[Decoded]) -> None:
        """Start a batch; returns when it is done, or after our patience."""
        tasks = {self._started(one, one.message): one for one in batch if isinstance(one.message, ValidatePremises)}
        if not tasks:
            return
        done, _ = await asyncio.wait(tasks, timeout=self._settings.validator_patience_s)
        failed = [(tasks[task], error) for task in done if (error := failure_of(task)) is not None]
        if failed:
            why = "; ".join(sorted({describe(error) for _, error in failed}))
            raise Refused(why, *(request for request, _ in failed), others_done=True)

    async def drain(self, timeout_s: float) -> None:
        """Let open validations end for at most ``timeout_s`` seconds; the scheduler asks others about the rest."""
        if self._open:
            await asyncio.wait(self._open.values(), timeout=timeout_s)
        left = list(self._open.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _started(self, request: Decoded, message: ValidatePremises) -> asyncio.Task[None]:
        found = self._open.get(message.wait_id)
        if found is None:
            found = self._open[message.wait_id] = asyncio.create_task(self._answer(request, message))
            found.add_done_callback(partial(self._ended, message))
            metrics.OPEN.set(len(self._open))
        return found

    def _ended(self, message: ValidatePremises, task: asyncio.Task[None]) -> None:
        del self._open[message.wait_id]
        if (error := failure_of(task)) is not None:
            log.error("validation.failed", thread_id=message.thread_id, wait_id=message.wait_id, exc_info=error)
        metrics.OPEN.set(len(self._open))

    async def _answer(self, request: Decoded, message: ValidatePremises) -> None:
        moment = now()
        if message.due_at is not None and message.due_at <= moment:
            log.info("validation.too_late", thread_id=message.thread_id, wait_id=message.wait_id)
            return
        limit_s = self._settings.validator_deadline_s
        if message.due_at is not None:
            left_s = (message.due_at - moment).total_seconds()
            # A verdict that says what could not be read is worth more than the clock's: leave it time to arrive.
            limit_s = min(limit_s, max(left_s / 2, left_s - DELIVERY_S))
        verdict = await self.check(message, limit_s)
        record = encode(
            PremisesValidated(
                tenant=message.tenant,
                thread_id=message.thread_id,
                wait_id=message.wait_id,
                run_id=message.run_id,
                verdict=verdict,
            ),
            id=f"{message.wait_id}:verdict",
            source=SOURCE,
            correlation_id=request.envelope.correlation_id,
            causation_id=request.envelope.id,
            traceparent=request.envelope.traceparent,
            time=now(),
        )
        try:
            await self._producer.send(VERDICTS.name, self._signatures.signed(VERDICTS.name, record))
        except KafkaRefusedError as error:
            # The thread is not stuck: its wait ends by the clock, as unknown.
            metrics.REFUSED.inc()
            log.error("verdict.refused", thread_id=message.thread_id, wait_id=message.wait_id, error=str(error))
            return
        metrics.VERDICTS.labels(verdict.outcome.value).inc()
        log.info("verdict.given", thread_id=message.thread_id, wait_id=message.wait_id, outcome=verdict.outcome.value)

    async def check(self, message: ValidatePremises, limit_s: float) -> Verdict:
        """Read the sources of all premises at once and judge; what is not read after ``limit_s`` seconds is unknown.

        Premises that name the same source share one read: they are judged on one state of the world.
        """
        began = now()
        reads = {_source_key(premise): premise for premise in sorted(message.premises, key=_patience)}
        tasks = {key: asyncio.create_task(self._reader.read(premise)) for key, premise in reads.items()}
        try:
            await asyncio.wait(tasks.values(), timeout=limit_s)
            late = Reading(began, 1, problem=f"not read within the {limit_s:.3g} s that the whole validation has")
            readings = {key: task.result() if task.done() else late for key, task in tasks.items()}
        finally:
            for task in tasks.values():
                task.cancel()
        findings = [find(premise, readings[_source_key(premise)]) for premise in message.premises]
        return conclude(findings, message.action_digest, message.verdict_expires_s)


def failure_of(task: asyncio.Task[None]) -> BaseException | None:
    """What a task ended with, unless it ended well or was cancelled."""
    return None if task.cancelled() else task.exception()


def _source_key(premise: Premise) -> str:
    return premise.source.model_dump_json()


def _patience(premise: Premise) -> tuple[int, float]:
    """The one of several premises that tries most is the one that reads for all."""
    return premise.attempts, premise.timeout_s
