"""Publishes what is durable and settles a run when Kafka has acknowledged all of it (ADR 2).

Contract: :meth:`RunEvents.publish` is called with history entries after they are stored. :meth:`RunEvents.end` waits a moment for
Kafka, so that the end of the run and its settlement are one write when Kafka is well; when it is not, ``settle`` is called later,
once every record is acknowledged. A record that Kafka refuses or that finds no room leaves the run unsettled, and holds back those
after it (``backlog``). ``on_durable`` is called
with the sequence number of each entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from perdure.agent_step.backlog import Backlog
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.telemetry import logger
from perdure.checkpoint import keys
from perdure.schemas.documents import RunDocument
from perdure.schemas.outbox import event_of, record_of
from perdure.schemas.topics import EVENTS

log = logger(__name__)

SOURCE = "perdure/agent-step"

ACK_WAIT_S = 0.25
"""How long the end of a run waits for Kafka, in seconds, to be recorded as settled in the same write."""


class RunEvents:
    """The events of one run, as executed here."""

    def __init__(
        self,
        producer: Producer,
        run: RunDocument,
        settle: Callable[[RunDocument], None],
        backlog: Backlog,
        on_durable: Callable[[int, bool], None] | None = None,
    ) -> None:
        self._producer = producer
        self._backlog = backlog
        self._run = run
        self._settle = settle
        self._on_durable = on_durable
        self._open = 0
        self._late = False
        self._incomplete = False
        self._all: asyncio.Event = asyncio.Event()

    def publish(self, entry: Mapping[str, Any]) -> None:
        """Publish the event of one entry, unless an earlier one of the thread has to be published first."""
        if self._on_durable is not None:
            self._on_durable(entry["seq"], entry["kind"] == keys.CHECKPOINT)
        event = event_of(self._run, entry)
        if event is None:
            return
        seq = entry["seq"]
        if self._backlog.holds(seq):
            self._incomplete = True
            return
        record = record_of(self._run, event, SOURCE)
        self._open += 1
        try:
            self._producer.produce(EVENTS.name, record, self._delivered, lambda reason: self._failed(seq, reason))
        except BufferError:
            self._open -= 1
            self._incomplete = True
            self._backlog.refused(seq)
            log.warning("events.no_room", run_id=self._run["_id"], waiting=self._producer.waiting)

    async def end(self) -> bool:
        """Nothing more comes: whether everything is acknowledged within ``ACK_WAIT_S``; if not, it is settled later."""
        if self._incomplete or not self._open:
            return not self._incomplete
        self._all.clear()
        try:
            async with asyncio.timeout(ACK_WAIT_S):
                await self._all.wait()
        except TimeoutError:
            return False
        return not self._incomplete

    def settle_later(self) -> None:
        """The end is recorded as unsettled: settle when the last acknowledgement comes, or now if it came meanwhile."""
        self._late = True
        self._notice()

    def _delivered(self) -> None:
        self._open -= 1
        self._notice()

    def _failed(self, seq: int, reason: str) -> None:
        self._open -= 1
        self._incomplete = True
        self._backlog.refused(seq)
        log.error("events.refused", run_id=self._run["_id"], reason=reason)
        self._notice()

    def _notice(self) -> None:
        if self._open:
            return
        self._all.set()
        if self._late and not self._incomplete:
            self._late = False
            self._settle(self._run)
