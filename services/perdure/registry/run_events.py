"""Publishing an event that must reach Kafka, also where Kafka refuses it as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.chassis.kafka.producer import KafkaRefusedError, Producer
from perdure.chassis.telemetry import logger
from perdure.schemas.events import Event
from perdure.schemas.outbox import lightened, record_of
from perdure.schemas.topics import EVENTS

log = logger(__name__)


async def publish_event(producer: Producer, run: Mapping[str, Any], event: Event, source: str) -> None:
    """Publish an event and wait for its acknowledgement; an event that Kafka refuses goes without its large parts.

    Raises:
        KafkaRefusedError: Kafka refuses the event also without its large parts, so that its size is not the reason.

    """
    try:
        await producer.send(EVENTS.name, record_of(run, event, source))
    except KafkaRefusedError as error:
        log.error("event.lightened", event_id=event.event_id, thread_id=event.thread_id, error=str(error))
        await producer.send(EVENTS.name, record_of(run, lightened(event), source))
