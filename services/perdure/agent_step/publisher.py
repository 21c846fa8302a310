"""Publishes what is durable and settles a run when Kafka has acknowledged all of it (ADR 2).

Contract: :meth:`RunEvents.publish` is called with history entries after they are stored. When the run has ended and every record
is acknowledged, ``settle`` is called once. A record that Kafka refuses or that finds no room leaves the run unsettled: the
sweep publishes it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from perdure.chassis.kafka.producer import Producer
from perdure.chassis.telemetry import logger
from perdure.schemas.documents import RunDocument
from perdure.schemas.envelope import encode
from perdure.schemas.outbox import event_of
from perdure.schemas.topics import EVENTS

log = logger(__name__)

SOURCE = "perdure/agent-step"


class RunEvents:
    """The events of one run, as executed here."""

    def __init__(self, producer: Producer, run: RunDocument, settle: Callable[[RunDocument], None]) -> None:
        self._producer = producer
        self._run = run
        self._settle = settle
        self._open = 0
        self._ended = False
        self._incomplete = False

    def publish(self, entry: Mapping[str, Any]) -> None:
        """Publish the event of one entry."""
        try:
            event = event_of(self._run, entry)
            if event is None:
                return
            record = encode(
                event,
                id=event.event_id,
                source=SOURCE,
                correlation_id=self._run["_id"],
                causation_id=f"{self._run['_id']}:start",
                traceparent=self._run.get("traceparent"),
                time=event.occurred_at,
            )
            self._open += 1
            self._producer.produce(EVENTS.name, record, self._delivered, self._failed)
        except BufferError:
            self._open -= 1
            self._incomplete = True
            log.warning("events.no_room", run_id=self._run["_id"], waiting=self._producer.waiting)

    def end(self) -> None:
        """Nothing more comes: settle once everything is acknowledged."""
        self._ended = True
        self._settle_if_done()

    def _delivered(self) -> None:
        self._open -= 1
        self._settle_if_done()

    def _failed(self, reason: str) -> None:
        self._open -= 1
        self._incomplete = True
        log.error("events.refused", run_id=self._run["_id"], reason=reason)

    def _settle_if_done(self) -> None:
        if self._ended and not self._open and not self._incomplete:
            self._settle(self._run)
