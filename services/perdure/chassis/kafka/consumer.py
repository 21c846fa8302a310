"""A consumer that stores an offset only after its record is safe, and that no record can stop.

Contract: records arrive in batches; the handler returns when the batch is durable; only then are its offsets stored (committed
in the background). A handler that raises a retryable error gets the same batch again, after a pause that grows; one that
raises anything else ends the consumer (the service ends and is restarted; nothing is lost, since nothing was stored).
A record that cannot be decoded goes to the dead-letter topic with its original key, bytes and headers and a typed reason, and
consumption goes on.

``room()`` says how many records may be taken now; while it is 0 the partitions are paused and the group membership is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from confluent_kafka import Consumer as RdConsumer
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as RdMessage
from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from perdure.chassis.kafka.deadletter import Origin, bury
from perdure.chassis.kafka.producer import Producer, _RdLog, describe
from perdure.chassis.telemetry import logger
from perdure.schemas.envelope import Decoded, UndecodableError, decode
from perdure.schemas.message import Message
from perdure.schemas.topics import Topic

log = logger(__name__)

WAIT_S = 0.2

Handler = Callable[[Sequence[Decoded]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to read and how.

    Attributes:
        topic: The topic.
        group: The consumer group.
        types: The accepted message classes by (type, version).
        batch: Records handed over at most at once.

    """

    topic: Topic
    group: str
    types: Mapping[tuple[str, int], type[Message]]
    batch: int = 500


def _retryable(error: BaseException) -> bool:
    return bool(getattr(error, "retryable", False))


def _headers(message: RdMessage) -> list[tuple[str, bytes | str | None]]:
    found = message.headers() or []
    return [*(found.items() if isinstance(found, dict) else found)]


class Consumer:
    """One librdkafka consumer, polled from a thread of its own, handled on the loop."""

    def __init__(
        self,
        bootstrap_servers: str,
        client_id: str,
        subscription: Subscription,
        handler: Handler,
        dead_letters: Producer,
        room: Callable[[], int] = lambda: sys.maxsize,
    ) -> None:
        self._subscription = subscription
        self._handler = handler
        self._dead_letters = dead_letters
        self._room = room
        self._client_id = client_id
        self._paused = False
        self._stopped = asyncio.Event()
        self._assigned = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"kafka-{subscription.group}")
        self._consumer = RdConsumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "client.id": client_id,
                "group.id": subscription.group,
                "group.protocol": "consumer",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": True,
                "auto.commit.interval.ms": 500,
                "enable.auto.offset.store": False,
                "max.poll.interval.ms": 900_000,
                "fetch.wait.max.ms": 100,
                "fetch.message.max.bytes": 4_194_304,
                "queued.max.messages.kbytes": 65_536,
            },
            logger=_RdLog(),
        )

    @property
    def ready(self) -> bool:
        """Whether partitions have been assigned (or a rebalance gave us none)."""
        return self._assigned.is_set()

    async def run(self) -> None:
        """Consume until :meth:`stop`; then commit what is stored and leave the group.

        Raises:
            KafkaException: librdkafka reports a fatal error.

        """
        self._consumer.subscribe(
            [self._subscription.topic.name], on_assign=self._on_assign, on_revoke=lambda _, __: None
        )
        try:
            while not self._stopped.is_set():
                batch = await self._loop.run_in_executor(self._thread, self._take)
                if batch and not self._stopped.is_set():
                    await self._handle(batch)
        finally:
            await self._loop.run_in_executor(self._thread, self._consumer.close)
            self._thread.shutdown(wait=False)

    def stop(self) -> None:
        """End :meth:`run` after the batch that is being handled, or with it unstored where its handler must try again.

        What arrives later is left, unstored, to the next owner of the partition.
        """
        self._stopped.set()

    def _on_assign(self, _: object, partitions: list[TopicPartition]) -> None:
        log.info("kafka.assigned", topic=self._subscription.topic.name, partitions=[p.partition for p in partitions])
        self._loop.call_soon_threadsafe(self._assigned.set)

    def _take(self) -> list[RdMessage]:
        """On the consumer's thread: what is there now, waiting at most ``WAIT_S`` for the first record."""
        room = min(self._room(), self._subscription.batch)
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
        log.warning("kafka.consume", topic=self._subscription.topic.name, error=describe(error))
        return True

    async def _handle(self, batch: list[RdMessage]) -> None:
        decoded: list[Decoded] = []
        for message in batch:
            try:
                decoded.append(decode(_headers(message), message.value(), self._subscription.types))
            except UndecodableError as error:
                await self._bury(message, error)
        if not decoded or await self._handled(decoded):
            self._store(batch)

    async def _handled(self, decoded: list[Decoded]) -> bool:
        """Hand a batch over until it is durable; False when we are stopped before: the next consumer reads it again."""
        pauses = wait_random_exponential(0.1, max=10)
        async for attempt in AsyncRetrying(retry=retry_if_exception(_retryable), wait=pauses, sleep=self._pause):
            if self._stopped.is_set() and attempt.retry_state.attempt_number > 1:
                return False
            with attempt:
                await self._handler(decoded)
        return True

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    async def _bury(self, message: RdMessage, error: UndecodableError) -> None:
        """Write the record to the dead-letter topic; its offset is stored only after that is acknowledged."""
        topic = self._subscription.topic
        origin = Origin(
            topic.name,
            message.partition() or 0,
            message.offset() or 0,
            message.key(),
            message.value(),
            _headers(message),
        )
        await bury(
            self._dead_letters,
            origin,
            dead_topic=topic.dead,
            reason=error.reason,
            detail=error.detail,
            consumer=self._client_id,
        )

    def _store(self, batch: list[RdMessage]) -> None:
        last = {m.partition(): m for m in batch}
        for message in last.values():
            try:
                self._consumer.store_offsets(message)
            except KafkaException as error:
                # The partition was taken from us meanwhile: its next owner reads the records again, and claims are idempotent.
                log.info("kafka.offset_not_ours", partition=message.partition(), error=describe(error))
