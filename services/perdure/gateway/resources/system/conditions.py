"""What the gateway needs to be ready, observed in the background.

Contract: ``mongodb`` makes readiness: without the database nothing can be accepted. ``kafka`` (answers, and the commands topic
exists) and ``opensearch`` are reported only: without Kafka runs are accepted and begin when it is back, without OpenSearch just
``/search`` fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from perdure.chassis.circuit import Circuit
from perdure.chassis.errors import UnavailableError
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.outage import Availability
from perdure.schemas import topics

MONGODB_INTERVAL_S = 1.0
KAFKA_INTERVAL_S = 1.0
KAFKA_TIMEOUT_S = 1.0
"""With the interval: a broker that hangs is noticed within two seconds."""
INDEX_INTERVAL_S = 5.0
RETRY_S = 0.5


class Conditions:
    """The newest observation of each server."""

    def __init__(self, availability: Availability, opensearch: Circuit) -> None:
        self._availability = availability
        self._opensearch = opensearch
        self._mongodb = False
        self._kafka = False
        self.index_lag: int | None = None
        """Events that are not searchable yet; ``None`` if that is not known."""

    @property
    def required(self) -> dict[str, bool]:
        """Conditions of readiness."""
        return {"mongodb": self._mongodb and self._availability.available}

    @property
    def reported(self) -> dict[str, bool]:
        """Conditions that readiness does not depend on."""
        return {"kafka": self._kafka, "opensearch": self._opensearch.answers}

    async def watch_mongodb(self, ping: Callable[[], Awaitable[None]]) -> None:
        """Observe until cancelled. ``ping`` waits out outages, which keeps the outage known while it lasts."""
        while True:
            await ping()
            self._mongodb = True
            await asyncio.sleep(MONGODB_INTERVAL_S)

    async def watch_kafka(self, admin: TopicAdmin) -> None:
        """Observe until cancelled."""
        while True:
            try:
                self._kafka = topics.COMMANDS.name in await admin.existing()
            except UnavailableError:
                self._kafka = False
            await asyncio.sleep(KAFKA_INTERVAL_S if self._kafka else RETRY_S)

    async def watch_index(self, admin: TopicAdmin) -> None:
        """Observe until cancelled how far the indexers are behind."""
        while True:
            try:
                self.index_lag = await admin.lag(topics.INDEXER_GROUP, topics.EVENTS)
            except UnavailableError:
                self.index_lag = None
            await asyncio.sleep(INDEX_INTERVAL_S)
