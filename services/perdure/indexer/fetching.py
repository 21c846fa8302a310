"""How Faust fetches: in portions.

Faust asks the brokers for the next record as soon as it has one, and offers no setting for it: under a steady load that is a
request for every few records, which costs broker and indexer more than indexing them. Here a broker answers when it has
:data:`FETCH_BYTES`, or after the given time.
"""

from __future__ import annotations

from typing import Any, Final

import faust
from faust.transport.drivers import aiokafka as driver

FETCH_BYTES: Final = 256 * 1024


class PortionApp(faust.App):  # type: ignore[misc,unused-ignore]
    """A Faust application whose consumer waits up to ``fetch_wait_s`` seconds for a portion."""

    fetch_wait_s: float = 0.2

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc,unused-ignore]
    fetch_wait_s = 0.2

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # What AIOKafkaConsumer keeps of its own arguments fetch_min_bytes and fetch_max_wait_ms until it starts.
        consumer._fetch_min_bytes = FETCH_BYTES  # noqa: SLF001
        consumer._fetch_max_wait_ms = max(1, int(self.fetch_wait_s * 1000))  # noqa: SLF001
        return consumer


class _Consumer(driver.Consumer):  # type: ignore[misc,unused-ignore]
    def _new_consumer_thread(self) -> Any:
        thread = _ConsumerThread(self, loop=self.loop, beacon=self.beacon)
        if isinstance(self.app, PortionApp):
            thread.fetch_wait_s = self.app.fetch_wait_s
        return thread


class _Transport(driver.Transport):  # type: ignore[misc,unused-ignore]
    Consumer = _Consumer
