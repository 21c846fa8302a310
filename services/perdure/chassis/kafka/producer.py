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

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as RdProducer

from perdure.chassis.telemetry import logger
from perdure.schemas.envelope import Record

log = logger(__name__)

POLL_S = 0.05
LINGER_MS = 2.0
"""How long records are collected before they are sent. Ten times as long saved no CPU, since a busy broker lets them queue anyway,
and each end of a run waits for it."""

Delivered = Callable[[], None]
Failed = Callable[[str], None]


class Producer:
    """One librdkafka producer with its own polling thread."""

    def __init__(self, bootstrap_servers: str, client_id: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._producer = RdProducer(
            {
                "bootstrap.servers": bootstrap_servers,
                "client.id": client_id,
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
            logger=_RdLog(),
        )
        self._done: deque[Callable[[], None]] = deque()
        self._signalled = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka-producer", daemon=True)
        self._thread.start()

    def produce(
        self, topic: str, record: Record, on_delivered: Delivered | None = None, on_failed: Failed | None = None
    ) -> None:
        """Queue one record.

        Raises:
            BufferError: 200,000 records or 256 MiB are waiting for a broker; wait and call again.

        """

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
        return len(self._producer)

    async def close(self, timeout_s: float = 10.0) -> int:
        """Wait for acknowledgements, at most ``timeout_s`` seconds; returns how many records stay unacknowledged."""
        left = await self._loop.run_in_executor(None, self._producer.flush, timeout_s)
        self._closing.set()
        await self._loop.run_in_executor(None, self._thread.join)
        self._drain()
        return int(left)

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


class _RdLog:
    """Sends librdkafka's own log lines through ours."""

    def log(self, level: int, fmt: str, *args: object) -> None:
        log.log(level, "librdkafka", line=fmt % args if args else fmt)


def describe(error: KafkaException | KafkaError) -> str:
    """One line for people."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else error
    return inner.str() if isinstance(inner, KafkaError) else str(inner)
