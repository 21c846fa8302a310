"""Publishing cancellations, fire and forget.

Contract: never raises and never waits. A command that does not reach Kafka is seen by the executor in the run's document
(``cancel_requested_at``). Starts are in ``perdure.registry.runs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.telemetry import logger
from perdure.schemas import topics
from perdure.schemas.commands import CancelRun
from perdure.schemas.envelope import Record, encode

log = logger(__name__)

SOURCE = "perdure/gateway"
LEFT_TO_SWEEP = Counter("perdure_gateway_commands_left_to_sweep_total", "Commands that the producer could not take.")


def cancel_record(run: Mapping[str, Any], traceparent: str) -> Record:
    """``CancelRun``; its id is ``<run_id>:cancel``."""
    message = CancelRun(tenant=run["tenant"], thread_id=run["thread_id"], run_id=run["_id"])
    return encode(
        message,
        id=f"{run['_id']}:cancel",
        source=SOURCE,
        correlation_id=run["_id"],
        traceparent=traceparent,
        time=now(),
    )


def publish(producer: Producer, record: Record) -> None:
    """Queue a command."""
    try:
        producer.produce(topics.COMMANDS.name, record)
    except BufferError:
        LEFT_TO_SWEEP.inc()
        log.warning("gateway.command_left_to_sweep", key=record.key.decode())
