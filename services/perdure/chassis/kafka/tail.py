"""Reading the end of a topic, without a group: every process that asks sees every record, from now on.

Contract: :class:`Tail` hands over the records whose keys are wanted, in the order of each partition, to a function on the event
loop; all others are passed over in a thread of its own. Nothing is stored: what was not read while it was not open, or while Kafka
was away for longer than the topic keeps records, is missed. :attr:`Tail.open` says whether it reads now.
:func:`read_back` reads records of one key that were written before.

Outside: consuming that must not lose (``raw``, ``consumer``).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from confluent_kafka import Consumer as RdConsumer
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from perdure.chassis.kafka.clients import describe, new_consumer
from perdure.chassis.kafka.deadletter import Origin
from perdure.chassis.kafka.raw import origin_of
from perdure.chassis.kafka.settings import KafkaAddress
from perdure.chassis.telemetry import logger

log = logger(__name__)

WAIT_S: Final = 0.2
ASK_S: Final = 5.0
"""How long a broker may take to say where the partitions end, in seconds."""
AGAIN_S: Final = 1.0
BATCH: Final = 1_000
NEW_PARTITIONS_S: Final = 60.0
"""How often it is looked for partitions that were added, in seconds."""

Take = Callable[[Sequence[Origin]], None]
Wanted = Callable[[bytes], bool]


class Tail:
    """One librdkafka consumer at the end of a topic. Belongs to one event loop.

    Args:
        kafka: The brokers.
        client_id: What they call it.
        topic: The topic.
        wanted: Whether records with a key are handed over; called in another thread.
        take: Gets the records, on the event loop, and nothing each time when it begins to read; must not raise.

    """

    def __init__(self, kafka: KafkaAddress, client_id: str, topic: str, wanted: Wanted, take: Take) -> None:
        self._kafka = kafka
        self._client_id = client_id
        self._topic = topic
        self._wanted = wanted
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        """Ends the thread that reads; every thread has one of its own, so that a thread that ends is never told to go on."""
        self._thread: threading.Thread | None = None
        self._open = asyncio.Event()
        self.opened_at = 0.0
        """Since when everything is read, by the clock (seconds since 1970)."""

    @property
    def open(self) -> bool:
        """Whether records are read as they come."""
        return self._open.is_set()

    def start(self) -> None:
        """Begin to read, unless it reads already."""
        if self._thread is None:
            self._stopping = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stopping,), name=f"tail-{self._topic}", daemon=True
            )
            self._thread.start()

    async def until_open(self, timeout_s: float) -> bool:
        """Wait until records are read as they come, at most so many seconds; whether they are."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._open.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Read no more; returns when the thread has ended. It can be started again meanwhile."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            self._open.clear()
            await self._loop.run_in_executor(None, thread.join)

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            down = threading.Event()
            consumer = new_consumer(self._kafka, self._client_id, _options(self._client_id, partial(_note, down)))
            try:
                self._read(consumer, stopping, down)
            except KafkaException as error:
                log.warning("kafka.tail_lost", topic=self._topic, error=describe(error))
            finally:
                consumer.close()
            self._tell(stopping, self._open.clear)
            stopping.wait(AGAIN_S)

    def _read(self, consumer: RdConsumer, stopping: threading.Event, down: threading.Event) -> None:
        known = _ends(consumer, self._topic, {})
        consumer.assign([*known.values()])
        self._tell(stopping, self._begun)
        look_at = time.monotonic() + NEW_PARTITIONS_S
        while not stopping.is_set():
            if down.is_set():
                log.warning("kafka.tail_lost", topic=self._topic, error="all brokers are down")
                return
            fresh = [origin_of(one) for one in _messages(consumer) if self._wants(one)]
            if fresh:
                self._tell(stopping, partial(self._take, fresh))
            if time.monotonic() > look_at:
                look_at = time.monotonic() + NEW_PARTITIONS_S
                added = _ends(consumer, self._topic, known)
                if added.keys() - known.keys():
                    known = added
                    consumer.incremental_assign([added[one] for one in added.keys() - known.keys()])

    def _wants(self, message: Message) -> bool:
        key: bytes | None = message.key()
        return key is not None and self._wanted(key)

    def _begun(self) -> None:
        self.opened_at = time.time()
        self._open.set()
        self._take(())

    def _tell(self, stopping: threading.Event, call: Callable[[], None]) -> None:
        """Call a function on the event loop, unless the thread was stopped before its turn comes."""
        try:
            self._loop.call_soon_threadsafe(lambda: None if stopping.is_set() else call())
        except RuntimeError:
            stopping.set()  # the loop is closed: nobody is left to be told


def read_back(
    kafka: KafkaAddress, client_id: str, topic: str, key: bytes, since: float, *, records: int, within_s: float
) -> tuple[list[Origin], bool]:
    """The records with one key written since a time, up to the end of the key's partition. Blocks.

    Args:
        kafka: The brokers.
        client_id: What they call the reader.
        topic: The topic.
        key: The key; records with other keys in its partition are passed over.
        since: Seconds since 1970.
        records: At most so many records of the partition are looked at.
        within_s: It takes at most so many seconds.

    Returns:
        The records, and whether these are all.

    """
    deadline = time.monotonic() + within_s
    consumer = new_consumer(kafka, client_id, _options(client_id, None))
    found: list[Origin] = []
    try:
        partitions = consumer.list_topics(topic, timeout=within_s).topics[topic].partitions
        place = TopicPartition(topic, partition_of(key, len(partitions)), int(since * 1000))
        (start,) = consumer.offsets_for_times([place], timeout=within_s)
        _, end = consumer.get_watermark_offsets(place, timeout=within_s)
        if start.offset < 0 or start.offset >= end:
            return [], True
        consumer.assign([start])
        at = start.offset
        while at < end:
            if time.monotonic() > deadline or at - start.offset >= records:
                return found, False
            for one in map(origin_of, _messages(consumer)):
                at = one.offset + 1
                if one.key == key and at <= end:
                    found.append(one)
        return found, True
    except KafkaException as error:
        log.warning("kafka.not_read_back", topic=topic, error=describe(error))
        return found, False
    finally:
        consumer.close()


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, as Kafka's own partitioner (murmur2), which the producers use, chooses it."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    length = len(data)
    h = 0x9747B28C ^ length
    for at in range(0, length - length % 4, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if rest := data[length - length % 4 :]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def _note(down: threading.Event, error: KafkaError) -> None:
    """Called by librdkafka in the reading thread, also while it closes: must not raise. Sets ``down`` if no broker is there."""
    if error.name() == "_ALL_BROKERS_DOWN":
        down.set()


def _ends(consumer: RdConsumer, topic: str, known: dict[int, TopicPartition]) -> dict[int, TopicPartition]:
    """Where the partitions end, those that are known left as they are."""
    found = dict(known)
    metadata = consumer.list_topics(topic, timeout=ASK_S).topics[topic]
    if metadata.error is not None:
        raise KafkaException(metadata.error)
    for number in metadata.partitions:
        if number not in found:
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=ASK_S)
            found[number] = TopicPartition(topic, number, end)
    return found


def _messages(consumer: RdConsumer) -> list[Message]:
    """What is there now, waiting at most ``WAIT_S`` for the first record.

    Raises:
        KafkaException: what follows cannot be read.

    """
    first = consumer.poll(WAIT_S)
    if first is None:
        return []
    found: list[Message] = []
    for message in (first, *consumer.consume(BATCH, 0)):
        error = message.error()
        if error is None:
            found.append(message)
        elif error.fatal() or error.name() == "_AUTO_OFFSET_RESET":
            raise KafkaException(error)
    return found


def _options(client_id: str, note: Callable[[KafkaError], None] | None) -> dict[str, Any]:
    return {
        "group.id": client_id,  # librdkafka wants one; nothing is committed, no group is joined
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "fetch.wait.max.ms": 500,
        "fetch.message.max.bytes": 4_194_304,
        "queued.max.messages.kbytes": 16_384,
        **({"error_cb": note} if note is not None else {}),
    }
