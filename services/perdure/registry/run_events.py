"""Publishing an event that must reach Kafka, also where Kafka refuses it for its size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perdure.chassis.kafka.producer import KafkaRefusedError, Producer
from perdure.chassis.telemetry import logger
from perdure.schemas.events import Event
from perdure.schemas.outbox import lightened, record_of
from perdure.schemas.topics import EVENTS

log = logger(__name__)

LARGE_BYTES: Final = 64 * 1024
"""No topic refuses a smaller record for its size: the default limit is 1 MiB."""


async def publish_event(producer: Producer, run: Mapping[str, Any], event: Event, source: str) -> None:
    """Publish an event and wait for its acknowledgement; a large event that Kafka refuses goes without its large parts.

    Raises:
        KafkaRefusedError: Kafka refuses the event for another reason than its size. Whoever calls tries again later with the whole
            event: without its large parts the search index would have less than the store.

    """
    record = record_of(run, event, source)
    try:
        await producer.send(EVENTS.name, record)
    except KafkaRefusedError as error:
        if len(record.value) < LARGE_BYTES:
            raise
        log.error("event.lightened", event_id=event.event_id, thread_id=event.thread_id, error=str(error))
        await producer.send(EVENTS.name, record_of(run, lightened(event), source))
