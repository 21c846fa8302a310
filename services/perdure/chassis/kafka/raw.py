"""The consuming loop: records as they are, offsets stored only after they are safe, nothing decoded.

Contract: records of one or more topics arrive in batches, whatever they hold; the handler returns when the batch is durable; only
then are its offsets stored (committed in the background). A handler that raises a retryable error, or lets an outage of the
database through, gets the same batch again, after a pause that grows. Any other error is isolated to its record (``isolation``).

A client that stops answering (its thread has not come back for ``STALLED_S``) ends the consumer too, with the stacks of all
threads in the log: nobody else would notice, since the process lives and its other threads go on.

``room()`` says how many records may be taken now; while it stays 0 the partitions are paused and the group membership is kept.

Outside: what the records mean (``consumer`` decodes envelopes and buries what it cannot).
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from confluent_kafka import Consumer as RdConsumer
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as RdMessage
from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from perdure.chassis.errors import StalledError
from perdure.chassis.kafka.clients import describe, new_consumer
from perdure.chassis.kafka.deadletter import Origin
from perdure.chassis.kafka.isolation import Isolation
from perdure.chassis.kafka.settings import KafkaAddress
from perdure.chassis.outage import is_outage
from perdure.chassis.telemetry import logger

log = logger(__name__)

T = TypeVar("T")

WAIT_S = 0.2
STALLED_S = 30.0
"""How long a call into librdkafka may take that should take ``WAIT_S``, or a close that the brokers need not even answer."""
STALL_LOOKS: Final = 6
ROOM_WAIT_S = 1.0
"""How long a full consumer waits for room before it pauses its partitions; a rebalance waits as long."""
ROOM_POLL_S = 0.01
FETCH_WAIT_MS = 500
"""How long a broker waits for the first record before it answers that there is none."""
PORTION_WAIT_MS = 250
"""How long a broker gathers a portion before it answers with less."""

RawHandler = Callable[[Sequence[Origin]], Awaitable[None]]


def _retryable(error: BaseException) -> bool:
    return bool(getattr(error, "retryable", False)) or is_outage(error)


def stacks() -> str:
    """Where all threads of this process are."""
    with tempfile.TemporaryFile("w+") as file:  # faulthandler needs a file of the system's
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def origin_of(message: RdMessage) -> Origin:
    """A record as it was consumed."""
    try:
        found = message.headers() or []
    except ValueError:  # a name that is no text; what the record is without it, the dead letter says
        found = []
    return Origin(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        message.key(),
        message.value(),
        [*(found.items() if isinstance(found, dict) else found)],
    )


class ConsumerLoop(ABC):
    """One librdkafka consumer, polled from a thread of its own, handled on the loop."""

    def __init__(
        self,
        kafka: KafkaAddress,
        client_id: str,
        topics: Sequence[str],
        group: str,
        *,
        batch: int,
        portion_bytes: int = 1,
        room: Callable[[], int] = lambda: sys.maxsize,
    ) -> None:
        self._topics = [*topics]
        self._batch = batch
        self._room = room
        self._client_id = client_id
        self._paused = False
        self._stalled = False
        self._stopped = asyncio.Event()
        self._assigned = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"kafka-{group}")
        self._consumer = new_consumer(
            kafka,
            client_id,
            {
                "group.id": group,
                "group.protocol": "consumer",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": True,
                "auto.commit.interval.ms": 500,
                "enable.auto.offset.store": False,
                "max.poll.interval.ms": 900_000,
                "fetch.wait.max.ms": FETCH_WAIT_MS if portion_bytes == 1 else PORTION_WAIT_MS,
                "fetch.min.bytes": portion_bytes,
                "fetch.message.max.bytes": 4_194_304,
                "queued.max.messages.kbytes": 65_536,
            },
        )

    @property
    def ready(self) -> bool:
        """Whether partitions have been assigned (or a rebalance gave us none)."""
        return self._assigned.is_set()

    async def run(self) -> None:
        """Consume until :meth:`stop`; then commit what is stored and leave the group.

        Raises:
            KafkaException: librdkafka reports a fatal error.
            StalledError: librdkafka does not come back from a call.

        """
        self._consumer.subscribe(self._topics, on_assign=self._on_assign, on_revoke=lambda _, __: None)
        try:
            while not self._stopped.is_set():
                await self._until_room()
                batch = await self._call(self._take)
                if batch and not self._stopped.is_set() and await self._safe([origin_of(m) for m in batch]):
                    self._store(batch)
        finally:
            if not self._stalled:
                await self._call(self._consumer.close)
            self._thread.shutdown(wait=False)

    def stop(self) -> None:
        """End :meth:`run` after the batch that is being handled, or with it unstored where its handler must try again.

        What arrives later is left, unstored, to the next owner of the partition.
        """
        self._stopped.set()

    def _on_assign(self, consumer: RdConsumer, partitions: list[TopicPartition]) -> None:
        if self._paused:
            # A full consumer's new partitions wait like those that it has. Called within a poll: assigned first, then paused.
            consumer.incremental_assign(partitions)
            consumer.pause(partitions)
        log.info("kafka.assigned", partitions=dict(Counter(p.topic for p in partitions)))
        self._loop.call_soon_threadsafe(self._assigned.set)

    async def _until_room(self) -> None:
        """Wait a moment for room: to pause a partition throws away what was fetched of it, and costs a fetch when it is resumed."""
        until = time.monotonic() + ROOM_WAIT_S
        while self._room() <= 0 and time.monotonic() < until and not self._stopped.is_set():
            await self._pause(ROOM_POLL_S)

    async def _call(self, call: Callable[[], T]) -> T:
        """Make a call on the consumer's thread, which must come back."""
        made = self._loop.run_in_executor(self._thread, call)
        for _ in range(STALL_LOOKS):  # several: a process that was stopped for a while sees one of them pass at once
            await asyncio.wait({made}, timeout=STALLED_S / STALL_LOOKS)
            if made.done():
                return made.result()
        self._stalled = True
        log.critical("kafka.stalled", call=call.__name__, seconds=STALLED_S, stacks=stacks())
        raise StalledError(f"the Kafka client has not come back from {call.__name__} in {STALLED_S:g} s")

    def _take(self) -> list[RdMessage]:
        """On the consumer's thread: what is there now, waiting at most ``WAIT_S`` for the first record."""
        room = min(self._room(), self._batch)
        open_ = room > 0
        if open_ is self._paused:
            partitions = self._consumer.assignment()
            (self._consumer.resume if open_ else self._consumer.pause)(partitions)
            self._paused = not open_
        first = self._consumer.poll(WAIT_S)
        if first is None:
            return []
        rest = self._consumer.consume(room - 1, 0) if room > 1 else []
        return [m for m in (first, *rest) if not self._is_error(m)]

    def _is_error(self, message: RdMessage) -> bool:
        error = message.error()
        if error is None:
            return False
        if error.fatal() or error.code() in (
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.GROUP_AUTHORIZATION_FAILED,
        ):
            raise KafkaException(error)
        log.warning("kafka.consume", topic=message.topic(), error=describe(error))
        return True

    @abstractmethod
    async def _safe(self, batch: list[Origin]) -> bool:
        """Make a batch durable; false when we are stopped before: the next consumer reads it again."""

    async def _persist(self, hand_over: Callable[[], Awaitable[None]]) -> bool:
        """Call until it returns; false when we are stopped before."""
        pauses = wait_random_exponential(0.1, max=10)
        retry = retry_if_exception(_retryable)
        async for attempt in AsyncRetrying(retry=retry, wait=pauses, sleep=self._pause):
            if self._stopped.is_set() and attempt.retry_state.attempt_number > 1:
                return False
            with attempt:
                await hand_over()
        return True

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _store(self, batch: list[RdMessage]) -> None:
        last = {(m.topic(), m.partition()): m for m in batch}
        for message in last.values():
            try:
                self._consumer.store_offsets(message)
            except KafkaException as error:
                # The partition was taken from us meanwhile: its next owner reads the records again, and claims are idempotent.
                log.info("kafka.offset_not_ours", partition=message.partition(), error=describe(error))


class RawConsumer(ConsumerLoop):
    """Hands records over as they are; ``give_up`` keeps or reports one that the handler cannot take."""

    def __init__(
        self,
        kafka: KafkaAddress,
        client_id: str,
        topics: Sequence[str],
        group: str,
        handler: RawHandler,
        give_up: Callable[[Origin, Exception], Awaitable[None]],
        *,
        batch: int = 500,
    ) -> None:
        super().__init__(kafka, client_id, topics, group, batch=batch)
        self._handler = handler
        self._isolation: Isolation[Origin] = Isolation(
            group, self._hand_over, give_up, pause=self._pause, stopped=self._stopped.is_set
        )

    @property
    def ready(self) -> bool:
        """Whether partitions have been assigned (or a rebalance gave us none), and the handler takes what they bring."""
        return super().ready and not self._isolation.holding

    async def _safe(self, batch: list[Origin]) -> bool:
        return await self._isolation.handle(batch)

    async def _hand_over(self, records: Sequence[Origin]) -> bool:
        return await self._persist(lambda: self._handler(records))
