"""What is told of batches: stored in the batch's document with what it tells of, then published, then taken off (ADR 14).

Contract: an event is published at least once under one id, so whoever reads it sees it once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pymongo.errors import PyMongoError

from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.scheduler.sweeps import SOURCE
from perdure.schemas.batch_documents import BATCHES, BatchStatus
from perdure.schemas.batches import BatchEvent, BatchFinished, BatchThresholdReached
from perdure.schemas.envelope import encode
from perdure.schemas.topics import NOTIFICATIONS

log = logger(__name__)

TYPES: Final[dict[str, type[BatchEvent]]] = {one.TYPE: one for one in (BatchFinished, BatchThresholdReached)}


def finished(batch: Mapping[str, Any], counts: Mapping[str, int], status: BatchStatus, now: datetime) -> dict[str, Any]:
    """The outbox entry that a batch has finished."""
    return _entry(
        BatchFinished(
            **_shared(batch, counts, now),
            status=status.value,
            started_at=batch.get("started_at"),
            occurrence=batch["finished"] + 1,
        )
    )


def threshold_reached(batch: Mapping[str, Any], counts: Mapping[str, int], now: datetime) -> dict[str, Any]:
    """The outbox entry that too many items failed and the batch was paused."""
    return _entry(
        BatchThresholdReached(
            **_shared(batch, counts, now),
            threshold=batch["failure_threshold"],
            action="paused",
            occurrence=batch["reached"] + 1,
        )
    )


class Outbox:
    """Publishes what is in the batches' outboxes."""

    def __init__(self, db: Database, producer: Producer) -> None:
        self._batches = db[BATCHES]
        self._producer = producer

    async def publish(self) -> None:
        """Publish everything; a turn of its own, for it waits for Kafka."""
        query = {"open": True, "outbox.0": {"$exists": True}}
        for batch in await self._batches.find(query, {"outbox": 1}).to_list(None):
            try:
                await self._publish(batch)
            except PyMongoError:
                raise
            except Exception:  # one batch that cannot be told of stops no other; it is tried again
                log.exception("batch.not_told", batch_id=batch["_id"])

    async def _publish(self, batch: Mapping[str, Any]) -> None:
        for entry in batch["outbox"]:
            event = TYPES[entry["type"]].model_validate(entry["body"])
            record = encode(event, id=entry["id"], source=SOURCE, correlation_id=batch["_id"], time=event.occurred_at)
            await self._producer.send(NOTIFICATIONS.name, record)
            await self._batches.update_one({"_id": batch["_id"]}, {"$pull": {"outbox": {"id": entry["id"]}}})
            log.info("batch.told", batch_id=batch["_id"], type=entry["type"])


def _shared(batch: Mapping[str, Any], counts: Mapping[str, int], now: datetime) -> dict[str, Any]:
    return {
        "tenant": batch["tenant"],
        "thread_id": batch["_id"],
        "occurred_at": now,
        "assistant_id": batch["assistant_id"],
        "total": batch["total"],
        "succeeded": counts["succeeded"],
        "failed": counts["failed"],
        "cancelled": counts["cancelled"],
        "metadata": batch.get("metadata") or {},
    }


def _entry(event: BatchEvent) -> dict[str, Any]:
    return {"id": event.event_id, "type": event.TYPE, "body": event.model_dump()}
