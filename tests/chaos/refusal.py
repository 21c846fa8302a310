"""Making Kafka refuse every record of a topic for a while: ``max.message.bytes`` of the topic is set below any record's size.

The refusal is final for the producer (``MSG_SIZE_TOO_LARGE`` is not retryable), as it is for a record that is too large or that an
access control list forbids.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from perdure.schemas import topics

NOTHING_FITS = "60"
"""Bytes: the header of an empty record batch is larger."""
ANSWER_S = 10.0
PAUSE_S = 0.5
RESTORE_S = 120.0


def refuse(kafka: Mapping[str, Any], topic: str, lasts_s: float, ending: threading.Event) -> str:
    """Let the topic refuse every record for ``lasts_s`` seconds; it takes records again when this returns.

    Raises:
        KafkaException: the brokers did not answer for two minutes.

    """
    admin = AdminClient(dict(kafka))
    (declared,) = (one for one in topics.ALL if one.name == topic)
    _patiently(lambda: _set(admin, topic, NOTHING_FITS))
    try:
        ending.wait(lasts_s)
    finally:
        _patiently(lambda: _set(admin, topic, declared.config["max.message.bytes"]))
    return ""


def _set(admin: AdminClient, topic: str, value: str) -> None:
    entry = ConfigEntry("max.message.bytes", value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource], request_timeout=ANSWER_S).values():
        future.result(ANSWER_S * 2)


def _patiently(change: Callable[[], None]) -> None:
    deadline = time.monotonic() + RESTORE_S
    while True:
        try:
            return change()
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_S)
