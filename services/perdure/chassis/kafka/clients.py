"""The one place that constructs clients of librdkafka, so that none is without the security of the connection.

Outside: what each client is for (``producer``, ``raw``, ``tail``, ``admin``).
"""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from perdure.chassis.kafka.settings import KafkaAddress, options_of
from perdure.chassis.telemetry import logger

log = logger(__name__)


class _Log:
    """Sends librdkafka's own log lines through ours."""

    def log(self, level: int, fmt: str, *args: object) -> None:
        log.log(level, "librdkafka", line=fmt % args if args else fmt)


def new_producer(kafka: KafkaAddress, client_id: str, options: dict[str, Any]) -> Producer:
    """A producer with these options of librdkafka's."""
    return Producer(options_of(kafka) | {"client.id": client_id} | options, logger=_Log())


def new_consumer(kafka: KafkaAddress, client_id: str, options: dict[str, Any]) -> Consumer:
    """A consumer with these options of librdkafka's."""
    return Consumer(options_of(kafka) | {"client.id": client_id} | options, logger=_Log())


def new_admin(kafka: KafkaAddress, client_id: str) -> AdminClient:
    """A client that reads and changes topics."""
    return AdminClient(options_of(kafka) | {"client.id": client_id}, logger=_Log())


def describe(error: KafkaException | KafkaError) -> str:
    """One line for people."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else error
    return inner.str() if isinstance(inner, KafkaError) else str(inner)
