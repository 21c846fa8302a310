"""Burying a record: what the dead-letter record of a consumed record is. The same for librdkafka and for Faust."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.telemetry import logger
from perdure.schemas.deadletter import Reason, dead_headers
from perdure.schemas.envelope import Record

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Origin:
    """A consumed record as it was."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | str | None]]


async def bury(producer: Producer, origin: Origin, *, dead_topic: str, reason: str, detail: str, consumer: str) -> None:
    """Write the record to its dead-letter topic; returns once that is acknowledged.

    Raises:
        KafkaRefusedError: the brokers refuse it for good.

    """
    log.error(
        "kafka.dead_letter",
        topic=origin.topic,
        partition=origin.partition,
        offset=origin.offset,
        reason=reason,
        detail=detail,
    )
    headers = dead_headers(
        [(k, v if isinstance(v, bytes) else str(v or "").encode()) for k, v in origin.headers],
        reason=Reason(reason),
        detail=detail,
        topic=origin.topic,
        partition=origin.partition,
        offset=origin.offset,
        consumer=consumer,
        time=now(),
    )
    await producer.send(dead_topic, Record(origin.key or b"", origin.value or b"", headers))
