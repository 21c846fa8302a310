"""Records that make their handlers fail: some cannot be read, some can be read and not be handled.

The second kind is an event with a sequence number that no store can hold: the notifier's database and the search index refuse it.
Each record is acknowledged by Kafka; its place (``topic:partition:offset``) is the id of the dead letter that must come of it.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import KafkaException, Producer

from perdure.schemas.envelope import Record, encode
from perdure.schemas.events import RunSucceeded

NO_STORE_HOLDS = 2**70
UNREADABLE = ("perdure.commands", "perdure.events", "perdure.validations", "perdure.verdicts", "perdure.notifications")
FLUSH_S = 60.0


def poison(kafka: Mapping[str, Any], seed: int, places: list[str]) -> int:
    """Send one record of each sort, and add to ``places`` the ids of the dead letters that are expected; how many records.

    Raises:
        KafkaException: a record was not acknowledged within a minute.

    """
    errors: list[Any] = []

    def delivered(error: Any, message: Any) -> None:
        if error is not None:
            errors.append(error)
        else:
            places.append(f"{message.topic()}:{message.partition()}:{message.offset()}")

    producer = Producer({**kafka, "acks": "all", "enable.idempotence": True})
    records = list(_records(random.Random(seed)))
    for topic, record in records:
        producer.produce(topic, record.value, record.key, headers=record.headers, on_delivery=delivered)
    left = producer.flush(FLUSH_S)
    if left or errors:
        raise KafkaException(f"{left} records of poison were not acknowledged: {errors}")
    return len(records)


def _records(chance: random.Random) -> Iterator[tuple[str, Record]]:
    for topic in UNREADABLE:
        yield topic, Record(chance.randbytes(16), chance.randbytes(200), [("ce_id", b"poison")])
    thread = f"poison-{uuid.UUID(int=chance.getrandbits(128))}"
    event = RunSucceeded(
        tenant="default",
        thread_id=thread,
        run_id=f"{thread}-run",
        graph_id="chain",
        assistant_id="chain",
        seq=NO_STORE_HOLDS,
        epoch=1,
        occurred_at=datetime.now(UTC),
    )
    yield (
        "perdure.events",
        encode(event, id=event.event_id, source="chaos", correlation_id=event.run_id, time=event.occurred_at),
    )
