"""An idempotent producer whose acknowledgements arrive on the event loop, in batches.

Contract: :meth:`Producer.produce` returns at once; ``on_delivered`` is called on the loop once the record is acknowledged by
all in-sync replicas. There is no time-out: a record stays queued until a broker takes it, is refused for good (then
``on_failed``), or the process ends, and whoever must not lose it keeps it in MongoDB until it is acknowledged.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message

from perdure.chassis.kafka.clients import describe, new_producer
from perdure.chassis.kafka.settings import KafkaAddress
from perdure.chassis.telemetry import logger
from perdure.schemas.envelope import Record

log = logger(__name__)

POLL_S = 0.05
LINGER_MS = 0.2
"""How long librdkafka collects records before it sends them, one request for each partition."""
GATHER_S = 0.05
BUSY: Final = 15
"""Records in ``GATHER_S`` from which on they are gathered for as long. At a thousand records a second each of a dozen partitions
gets one in twelve milliseconds, so every record is a request of its own, and the broker works half as much again. Where few come,
who waits for one (the end of a run) does not wait for others."""
MAX_GATHERED: Final = 20_000

Delivered = Callable[[], None]
Failed = Callable[[str], None]


class Producer:
    """One librdkafka producer with its own polling thread."""

    def __init__(self, kafka: KafkaAddress, client_id: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._producer = new_producer(
            kafka,
            client_id,
            {
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": LINGER_MS,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "message.timeout.ms": 0,
                "message.max.bytes": 8_388_608,
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 262_144,
                "socket.keepalive.enable": True,
            },
        )
        self._gathered: deque[Callable[[], None]] = deque()
        """Records that are kept back, as calls that queue them, in order."""
        self._window = self._loop.time()
        self._in_window = 0
        self._release: asyncio.TimerHandle | None = None
        self._done: deque[Callable[[], None]] = deque()
        self._signalled = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka-producer", daemon=True)
        self._thread.start()

    def produce(
        self,
        topic: str,
        record: Record,
        on_delivered: Delivered | None = None,
        on_failed: Failed | None = None,
        *,
        gather: bool = True,
    ) -> None:
        """Queue one record, from the loop's thread.

        Args:
            topic: The topic.
            record: The record.
            on_delivered: Called when it is acknowledged.
            on_failed: Called with the reason when it is refused for good.
            gather: Whether it may be kept back for ``GATHER_S`` when records come fast. A caller that gathers records itself says
                no, and says so for all records of the topic, or their order is not kept.

        Raises:
            BufferError: 200,000 records or 256 MiB are waiting for a broker; wait and call again.

        """
        if not gather or (self._release is None and not self._busy()):
            self._queue(topic, record, on_delivered, on_failed)
            return
        if len(self._gathered) >= MAX_GATHERED:
            raise BufferError
        self._gathered.append(partial(self._queue, topic, record, on_delivered, on_failed))
        if self._release is None:
            self._release = self._loop.call_later(GATHER_S, self._send_gathered)

    def _busy(self) -> bool:
        """Whether records come so fast that it pays to gather them."""
        now = self._loop.time()
        if now - self._window > GATHER_S:
            self._window, self._in_window = now, 0
        self._in_window += 1
        return self._in_window > BUSY

    def _send_gathered(self) -> None:
        if self._release is not None:
            self._release.cancel()
            self._release = None
        count = len(self._gathered)
        try:
            while self._gathered:
                queue = self._gathered.popleft()
                try:
                    queue()
                except BufferError:  # tried again
                    self._gathered.appendleft(queue)
                    break
        finally:
            self._window, self._in_window = self._loop.time(), 0
            if self._gathered or count > BUSY:
                self._release = self._loop.call_later(GATHER_S, self._send_gathered)

    def _queue(self, topic: str, record: Record, on_delivered: Delivered | None, on_failed: Failed | None) -> None:
        """Hand one record to librdkafka."""

        def report(error: KafkaError | None, _: Message) -> None:
            if error is None:
                if on_delivered is not None:
                    self._hand_over(on_delivered)
                return
            refuse(error)

        def refuse(error: KafkaError | KafkaException) -> None:
            reason = describe(error)
            log.error("kafka.refused", topic=topic, key=record.key.decode(errors="replace"), error=reason)
            if on_failed is not None:
                self._hand_over(lambda: on_failed(reason))

        try:
            self._producer.produce(
                topic,
                value=record.value,
                key=record.key,
                headers=[*record.headers],
                on_delivery=report,  # type: ignore[arg-type,unused-ignore]
            )
        except KafkaException as error:  # larger than any broker would take: refused before it is queued
            refuse(error)

    async def send(self, topic: str, record: Record) -> None:
        """Queue one record and wait for its acknowledgement.

        Raises:
            KafkaRefusedError: the brokers refuse it for good.

        """
        future: asyncio.Future[None] = self._loop.create_future()

        def delivered() -> None:
            if not future.done():
                future.set_result(None)

        def failed(reason: str) -> None:
            if not future.done():
                future.set_exception(KafkaRefusedError(topic, reason))

        while True:
            try:
                self.produce(topic, record, delivered, failed)
                break
            except BufferError:
                await asyncio.sleep(POLL_S)
        await future

    @property
    def waiting(self) -> int:
        """Records that no broker has acknowledged yet."""
        return len(self._producer) + len(self._gathered)

    async def close(self, timeout_s: float = 10.0) -> int:
        """Wait for acknowledgements, at most ``timeout_s`` seconds; returns how many records stay unacknowledged."""
        deadline = self._loop.time() + timeout_s
        while True:
            self._send_gathered()
            left_s = max(0.0, deadline - self._loop.time())
            await self._loop.run_in_executor(None, self._producer.flush, left_s)
            if not self._gathered or not left_s:
                break
        if self._release is not None:
            self._release.cancel()
        left = self.waiting
        self._closing.set()
        await self._loop.run_in_executor(None, self._thread.join)
        self._drain()
        return left

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(POLL_S)

    def _hand_over(self, call: Callable[[], None]) -> None:
        # Called on the polling thread (or in flush): one wake-up of the loop serves a whole batch of acknowledgements.
        self._done.append(call)
        if not self._signalled:
            self._signalled = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop is closed: nobody is left to be told
                log.debug("kafka.acknowledged_after_close")

    def _drain(self) -> None:
        self._signalled = False
        while self._done:
            self._done.popleft()()


class KafkaRefusedError(Exception):
    """The brokers refuse a record for good (too large, not authorised, unknown topic)."""

    retryable = False

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"Kafka refuses a record for {topic}: {reason}")
        self.topic = topic
        self.reason = reason
