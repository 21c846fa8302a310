"""Batches of records: decode, redact, write; what cannot be indexed goes to the dead-letter topic.

Contract: :meth:`Indexing.handle` returns when every record of the batch is in the states index or in the dead-letter topic;
:meth:`Indexing.settle` when the threads index has the newest state of each of their threads. Neither raises anything that a record
or an outage can cause: whoever calls them acknowledges the batches afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, cast

from prometheus_client import Counter, Gauge, Histogram

from perdure.chassis.clock import now
from perdure.chassis.kafka.deadletter import LetterBox, Origin
from perdure.chassis.kafka.isolation import Isolation, describe
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.telemetry import logger
from perdure.indexer.bulk import Item, newest_item, state_item
from perdure.indexer.domain import document_of, event_id, newest
from perdure.indexer.redaction import Redaction
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.writer import Writer
from perdure.schemas import topics
from perdure.schemas.deadletter import Reason
from perdure.schemas.envelope import UndecodableError, decode
from perdure.schemas.events import EVENTS, Event, ThreadDeleted, ThreadPruned
from perdure.schemas.index import IndexDocument

log = logger(__name__)

INDEXED = Counter("perdure_indexer_events_total", "Events that are in the index")
DEAD = Counter("perdure_indexer_dead_letters_total", "Records that went to the dead-letter topic", ["reason"])
BATCH = Histogram("perdure_indexer_batch_events", "Events per write", buckets=(1, 10, 50, 100, 250, 500, 1000))
AGE = Histogram(
    "perdure_indexer_age_seconds",
    "From an event to its acknowledged write, of the oldest event of each write",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 60, 600, 3600),
)

REMOVALS: Final = tuple(("ce_type", event.TYPE.encode()) for event in (ThreadDeleted, ThreadPruned))
OLDEST = Gauge("perdure_indexer_oldest_seconds", "Age of the oldest event in hand that is not settled in the index")


class Indexing:
    """What the indexer does with records."""

    def __init__(self, writer: Writer, dead_letters: Producer, redaction: Redaction, settings: IndexerSettings) -> None:
        self._writer = writer
        self._letters = LetterBox(dead_letters, f"indexer/{settings.instance}")
        self._isolation: Isolation[Origin] = Isolation("indexer", self._index, self._give_up)
        self._redaction = redaction
        self._settings = settings
        self._newest: dict[str, IndexDocument] = {}
        """Of the threads that were handled since the last :meth:`settle`."""
        self._oldest: datetime | None = None
        """Of the events since then."""
        OLDEST.set_function(lambda: (now() - self._oldest).total_seconds() if self._oldest else 0.0)

    @property
    def holding(self) -> bool:
        """Whether no record can be handled (``perdure.chassis.kafka.isolation``)."""
        return self._isolation.holding

    async def handle(self, records: Sequence[Origin]) -> None:
        """Index the states of a batch."""
        await self._isolation.handle(records)

    async def _index(self, records: Sequence[Origin]) -> bool:
        """Index records in their order; what is told to be removed goes before anything that comes after it."""
        start = 0
        for number, record in enumerate(records):
            removed = _removed(record)
            if isinstance(removed, ThreadDeleted):
                await self._index_states(records[start:number])
                await self._forget(removed)
            elif removed is not None:
                await self._index_states(records[start : number + 1])
                await self._forget_states(removed)
            else:
                continue
            start = number + 1
        await self._index_states(records[start:])
        return True

    async def _forget(self, deleted: ThreadDeleted) -> None:
        self._newest.pop(deleted.thread_id, None)
        removed = await self._writer.forget(deleted.tenant, deleted.thread_id)
        log.info("index.thread_forgotten", thread_id=deleted.thread_id, documents=removed)

    async def _forget_states(self, pruned: ThreadPruned) -> None:
        removed = await self._writer.forget(pruned.tenant, pruned.thread_id, pruned.removed)
        log.info("index.states_forgotten", thread_id=pruned.thread_id, documents=removed)

    async def _index_states(self, records: Sequence[Origin]) -> None:
        items: dict[str, Item] = {}
        origins: dict[str, Origin] = {}
        for record in records:
            item = await self._item(record)
            if item is not None:
                id_ = event_id(item.document)
                items[id_] = item
                origins[id_] = record
        if not items:
            return
        documents = [item.document for item in items.values()]
        oldest = min(document["occurred_at"] for document in documents)
        self._oldest = min(self._oldest or oldest, oldest)
        for item, why in await self._writer.write([*items.values()]):
            id_ = event_id(item.document)
            await self._bury(origins[id_], Reason.HANDLER, f"OpenSearch refuses its document: {why}")
        self._newest = newest([*self._newest.values(), *documents])
        self._measure(documents)

    async def settle(self) -> None:
        """Write the newest state of each thread that was handled since the last time."""
        latest = [item for document in self._newest.values() if (item := self._newest_item(document)) is not None]
        self._newest = {}
        for item, why in await self._writer.write(latest):
            # Its state's document was refused for the same fields, and buried: once is enough.
            log.warning("index.thread_refused", event_id=event_id(item.document), reason=why)
        self._oldest = None

    async def _item(self, record: Origin) -> Item | None:
        """The document of a record; ``None`` after burying one that cannot be read."""
        try:
            decoded = decode(record.headers, record.value, EVENTS)
        except UndecodableError as error:
            await self._bury(record, error.reason, error.detail)
            return None
        event = cast("Event", decoded.message)
        try:
            return state_item(document_of(event, self._redaction, self._settings.index_text_limit))
        except Exception as error:
            await self._bury(record, Reason.HANDLER, f"no document can be made of it: {describe(error)}")
            return None

    @staticmethod
    def _newest_item(document: IndexDocument) -> Item | None:
        try:
            return newest_item(document)
        except Exception:  # its state is in the index: it must not keep the other threads from theirs
            log.exception("index.thread_failed", event_id=event_id(document))
            return None

    async def _give_up(self, record: Origin, error: Exception) -> None:
        await self._bury(record, Reason.HANDLER, describe(error))

    async def _bury(self, record: Origin, reason: str, detail: str) -> None:
        await self._letters.bury(record, dead_topic=topics.EVENTS.dead, reason=reason, detail=detail)
        DEAD.labels(str(reason)).inc()

    @staticmethod
    def _measure(documents: Sequence[IndexDocument]) -> None:
        INDEXED.inc(len(documents))
        BATCH.observe(len(documents))
        oldest = min(document["occurred_at"] for document in documents)
        AGE.observe(max(0.0, (now() - oldest).total_seconds()))


def _removed(record: Origin) -> ThreadDeleted | ThreadPruned | None:
    """What is removed from the index, if the record tells that and can be read."""
    if not any(one in REMOVALS for one in record.headers or ()):
        return None  # seen without decoding: there are many other records
    try:
        message = decode(record.headers, record.value, EVENTS).message
    except UndecodableError:
        return None  # dead-lettered with the states
    return message if isinstance(message, ThreadDeleted | ThreadPruned) else None
