"""Burying a record: what the dead-letter record of a consumed record is. The same for librdkafka and for Faust.

Contract: :meth:`LetterBox.bury` returns when the record is kept, or when everything that could keep it has refused. No dead record
stops its consumer: where the brokers refuse the record for the dead-letter topic (no such topic, no permission, too large), it is
kept in MongoDB as the scheduler would keep it, by ``keep``. A service without a database writes a letter without the record's
bytes in their place (its size and digest stand in the header ``perdure_dead_omitted``). When that is refused as well, the
loss is logged at ``critical`` with the place of the record, and counted: the record is still in its own topic for as long as that
keeps it (7 days).
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from prometheus_client import Counter

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import KafkaRefusedError, Producer
from perdure.chassis.telemetry import logger
from perdure.schemas.deadletter import OMITTED, Reason, dead_headers
from perdure.schemas.envelope import Record

log = logger(__name__)

NOT_IN_KAFKA: Final = Counter(
    "perdure_dead_letters_refused",
    "Dead records that Kafka refused, by where they are instead: mongodb, kafka_without_value or nowhere",
    ["topic", "kept"],
)


@dataclass(frozen=True, slots=True)
class Origin:
    """A consumed record as it was."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | str | None]]


Keep = Callable[[Origin], Awaitable[None]]
"""Stores a dead record, given as it would have been read from its dead-letter topic. Raises what the database raises for good."""


class LetterBox:
    """Where a consumer puts what it cannot handle.

    Args:
        producer: Writes to the dead-letter topics.
        consumer: Who consumes; part of each letter.
        keep: Stores a letter that Kafka refuses; ``None`` in a service without a database.

    """

    def __init__(self, producer: Producer, consumer: str, keep: Keep | None = None) -> None:
        self._producer = producer
        self._consumer = consumer
        self._keep = keep

    async def bury(self, origin: Origin, *, dead_topic: str, reason: str, detail: str) -> None:
        """Keep the record as a dead letter; returns once that is acknowledged, or refused everywhere."""
        log.error(
            "kafka.dead_letter",
            topic=origin.topic,
            partition=origin.partition,
            offset=origin.offset,
            reason=reason,
            detail=detail,
        )
        letter = self._letter(origin, reason, detail)
        try:
            await self._producer.send(dead_topic, letter)
        except KafkaRefusedError as error:
            log.error("kafka.dead_letter_refused", topic=origin.topic, dead_topic=dead_topic, error=str(error))
            kept = await self._keep_elsewhere(origin, letter, dead_topic)
            NOT_IN_KAFKA.labels(origin.topic, kept).inc()

    async def _keep_elsewhere(self, origin: Origin, letter: Record, dead_topic: str) -> str:
        if self._keep is not None:
            try:
                await self._keep(Origin(dead_topic, 0, 0, letter.key, letter.value, letter.headers))
            except Exception:  # what an outage raises was waited out: this letter cannot be stored as it is
                log.exception("kafka.dead_letter_not_stored", topic=origin.topic, offset=origin.offset)
            else:
                return "mongodb"
        try:
            await self._producer.send(dead_topic, without_value(letter))
        except KafkaRefusedError as error:
            log.critical(
                "kafka.dead_letter_lost",
                topic=origin.topic,
                partition=origin.partition,
                offset=origin.offset,
                size=len(letter.value),
                digest=hashlib.sha256(letter.value).hexdigest(),
                error=str(error),
                advice=f"the record is still in {origin.topic}; mend {dead_topic} (perdure topics apply, its permissions)",
            )
            return "nowhere"
        return "kafka_without_value"

    def _letter(self, origin: Origin, reason: str, detail: str) -> Record:
        headers = dead_headers(
            [(k, v if isinstance(v, bytes) else str(v or "").encode()) for k, v in origin.headers],
            reason=Reason(reason),
            detail=detail,
            topic=origin.topic,
            partition=origin.partition,
            offset=origin.offset,
            consumer=self._consumer,
            time=now(),
        )
        return Record(origin.key or b"", origin.value or b"", headers)


def without_value(letter: Record) -> Record:
    """A dead record without its bytes: their number and their SHA-256 are in a header before all others."""
    omitted = f"{len(letter.value)}:{hashlib.sha256(letter.value).hexdigest()}"
    return replace(letter, value=b"", headers=[(OMITTED, omitted.encode()), *letter.headers])
