"""The events of a thread that could not be published while its run goes on: published from the store, in order.

Contract: once an event of the thread was refused, no later one of it is published until :class:`Backlog` has published all from
that one on: a thread's events keep their order, and a run of many hours is not invisible until it ends. Every event that is held
back is stored already. The runs stay unsettled, so that the sweep publishes whatever is left when they have ended (ADR 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from perdure.chassis.kafka.producer import KafkaRefusedError, Producer
from perdure.chassis.telemetry import logger
from perdure.registry.run_events import publish_event
from perdure.schemas.outbox import event_of

log = logger(__name__)

PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0

Read = Callable[[int], Awaitable[Sequence[Mapping[str, Any]]]]
"""The thread's history entries from a sequence number on, oldest first."""


class Backlog:
    """What of one thread waits to be published, as long as one of its runs is executed here.

    Args:
        producer: Publishes.
        runs: The run that is executed and those that ended before it, unsettled; by id.
        read: Reads the thread's history.
        source: The service that publishes.

    """

    def __init__(self, producer: Producer, runs: Mapping[str, Mapping[str, Any]], read: Read, source: str) -> None:
        self._producer = producer
        self._runs = runs
        self._read = read
        self._source = source
        self._from: int | None = None
        self._newest = 0
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def holds(self, seq: int) -> bool:
        """Whether the event with this number must wait; it is published from the store then."""
        if self._from is None:
            return False
        self._newest = max(self._newest, seq)
        return True

    def refused(self, seq: int) -> None:
        """Kafka refused the event with this number: hold back those after it."""
        self._newest = max(self._newest, seq)
        self._from = seq if self._from is None else min(self._from, seq)
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._publish(), name="event backlog")

    async def close(self) -> None:
        """The run is not executed here any more: what is left is left to the next owner, or to the sweep."""
        self._closed = True
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _publish(self) -> None:
        pause_s = PAUSE_S
        while self._from is not None:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                await self._publish_from(self._from)
            except KafkaRefusedError as error:
                log.warning("events.held_back", runs=[*self._runs], seq=self._from, error=str(error))
            except Exception:
                log.exception("events.not_published", runs=[*self._runs], seq=self._from)
        self._task = None

    async def _publish_from(self, seq: int) -> None:
        for entry in await self._read(seq):
            run = self._runs.get(entry["run"])
            if run is not None and (event := event_of(run, entry)) is not None:
                await publish_event(self._producer, run, event, self._source)
            self._from = entry["seq"] + 1
        if self._from is not None and self._from > self._newest:
            self._from = None
