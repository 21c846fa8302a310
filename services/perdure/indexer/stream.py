"""Faust: from ``perdure.events`` to batches.

Contract: the handler gets every record at least once, in batches, and a record is acknowledged only after the handler returned
for its batch and ``settle`` returned after it, which is called once for the batches of a second. While the handler waits, the
consumer keeps its group membership, and fetching stops when the buffer is full.

The topic's channel is read directly, not through a Faust stream: a stream acknowledges what it took when its task is cancelled
(``Stream.take`` acknowledges in a ``finally``) and when it skips a record of an older assignment, and either could lose a batch
at a shutdown or a rebalance. It also costs a third of the CPU time.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client import Gauge

from perdure.chassis.kafka.deadletter import Origin
from perdure.chassis.telemetry import logger
from perdure.indexer.credentials import broker_credentials
from perdure.indexer.fetching import PortionApp
from perdure.indexer.settings import IndexerSettings
from perdure.schemas import topics

log = logger(__name__)

GROUP: Final = topics.INDEXER_GROUP
"""The consumer group; its committed offsets are stored by Kafka under this name."""

DAY_S: Final = 86_400.0

LAG = Gauge("perdure_indexer_lag_records", "Records of the assigned partitions that are not acknowledged yet")

Handler = Callable[[Sequence[Origin]], Awaitable[None]]
Settle = Callable[[], Awaitable[None]]


def make_app(settings: IndexerSettings) -> PortionApp:
    """A Faust application that only consumes: no web server, no tables, no topics of its own."""
    servers = settings.kafka_bootstrap_servers.split(",")
    # Faust logs under the module of each class; its own are at this level too.
    logging.getLogger(PortionApp.__module__).setLevel(logging.WARNING)
    app = PortionApp(
        GROUP,
        broker=[f"kafka://{server.strip()}" for server in servers],
        broker_credentials=broker_credentials(settings),
        broker_client_id=f"indexer-{settings.instance}",
        autodiscover=False,
        web_enabled=False,
        store="memory://",
        # Faust makes this folder although nothing is kept in it; the working folder may be read-only.
        datadir=Path(tempfile.gettempdir()) / GROUP,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4 * 1024 * 1024,
        broker_commit_interval=1.0,
        # A killed indexer's partitions are free again after this.
        broker_session_timeout=10.0,
        broker_heartbeat_interval=3.0,
        # OpenSearch may be away for days: waiting for it is no reason to leave the group, or to complain.
        broker_max_poll_interval=7 * DAY_S,
        stream_processing_timeout=7 * DAY_S,
        broker_commit_livelock_soft_timeout=7 * DAY_S,
        stream_buffer_maxsize=settings.index_buffer,
    )
    app.fetch_wait_s = settings.index_linger_s
    app.finalize()
    return app


class EventStream:
    """Feeds batches of ``perdure.events`` to a handler. Create it before the application starts, in the same loop."""

    def __init__(self, app: Any, settings: IndexerSettings, handler: Handler, settle: Settle) -> None:
        self._app = app
        self._settings = settings
        self._handler = handler
        self._settle = settle
        self._settled_at = 0.0
        self._handled: list[Any] = []
        """Events that were handled and not settled."""
        topic = app.topic(
            topics.EVENTS.name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )
        self._channel = aiter(topic)
        self._acknowledged: dict[Any, int] = {}

    @property
    def ready(self) -> bool:
        """Whether the group has given us our partitions (perhaps none)."""
        return not self._app.rebalancing and bool(self._app.consumer_generation_id)

    async def run(self, stopping: asyncio.Event) -> None:
        """Handle batches until ``stopping`` is set; the batch in hand is finished first."""
        ended = asyncio.ensure_future(stopping.wait())
        try:
            while not stopping.is_set():
                started = time.monotonic()
                events = await self._take(ended)
                if events:
                    await self._handler([_origin(event.message) for event in events])
                    self._handled += events
                if self._handled and self._until_settlement_s() <= 0:
                    await self._acknowledge()
                if events:
                    await self._linger(started, ended)
            await self._acknowledge()
        finally:
            ended.cancel()

    def _until_settlement_s(self) -> float:
        return self._settled_at + self._settings.index_threads_s - time.monotonic()

    async def _acknowledge(self) -> None:
        """Settle what was handled, and acknowledge it."""
        await self._settle()
        self._settled_at = time.monotonic()
        handled, self._handled = self._handled, []
        generation = self._app.consumer_generation_id
        # What an older assignment brought comes again, or went to another member: it must not be acknowledged here.
        current = [event for event in handled if event.message.generation_id == generation]
        for event in current:
            event.ack()
        self._note(current)

    async def _take(self, ended: asyncio.Future[Any]) -> list[Any]:
        """What is there now, at most one batch; waits for the first, but not beyond the time to settle."""
        queue = self._channel.queue
        if queue.empty():
            first = asyncio.ensure_future(queue.get())
            patience = max(0.0, self._until_settlement_s()) if self._handled else None
            await asyncio.wait((first, ended), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                first.cancel()
                return []
            found = [first.result()]
        else:
            found = []
        while len(found) < self._settings.index_batch and not queue.empty():
            found.append(queue.get_nowait())
        generation = self._app.consumer_generation_id
        return [event for event in found if event.message.generation_id == generation]

    async def _linger(self, started: float, ended: asyncio.Future[Any]) -> None:
        """Let records gather, unless a full batch waits already."""
        left = self._settings.index_linger_s - (time.monotonic() - started)
        if left > 0 and self._channel.queue.qsize() < self._settings.index_batch:
            await asyncio.wait((ended,), timeout=left)

    def _note(self, events: Sequence[Any]) -> None:
        for event in events:
            self._acknowledged[event.message.tp] = event.message.offset + 1
        consumer = self._app.consumer
        assigned = consumer.assignment()
        for tp in self._acknowledged.keys() - assigned:
            del self._acknowledged[tp]
        LAG.set(sum(max(0, (consumer.highwater(tp) or 0) - next_) for tp, next_ in self._acknowledged.items()))


def _origin(message: Any) -> Origin:
    return Origin(
        message.topic, message.partition, message.offset, message.key, message.value, list(message.headers or ())
    )
