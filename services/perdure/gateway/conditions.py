"""What the gateway needs to be ready, observed in the background.

Contract: ``mongodb`` and ``kafka`` (answers, and the commands topic exists) make readiness; ``opensearch`` is
reported only: without it just ``/search`` fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from perdure.chassis.errors import UnavailableError
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.chassis.outage import Availability
from perdure.schemas import topics

MONGODB_INTERVAL_S = 1.0
KAFKA_INTERVAL_S = 5.0
OPENSEARCH_INTERVAL_S = 10.0
INDEX_INTERVAL_S = 5.0
RETRY_S = 0.5


class Conditions:
    """The newest observation of each server."""

    def __init__(self, availability: Availability) -> None:
        self._availability = availability
        self._mongodb = False
        self._kafka = False
        self._opensearch = False
        self.index_lag: int | None = None
        """Events that are not searchable yet; ``None`` if that is not known."""

    @property
    def required(self) -> dict[str, bool]:
        """Conditions of readiness."""
        return {"mongodb": self._mongodb and self._availability.available, "kafka": self._kafka}

    @property
    def reported(self) -> dict[str, bool]:
        """Conditions that readiness does not depend on."""
        return {"opensearch": self._opensearch}

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
                missing = await admin.diff([topics.COMMANDS])
                self._kafka = not any(change.action == "create" for change in missing)
            except UnavailableError:
                self._kafka = False
            await asyncio.sleep(KAFKA_INTERVAL_S if self._kafka else RETRY_S)

    async def watch_opensearch(self, client: OpenSearch) -> None:
        """Observe until cancelled."""
        while True:
            try:
                await client.request("GET", "/", timeout_s=3.0)
                self._opensearch = True
            except OpenSearchRefusedError:
                self._opensearch = True
            except UnavailableError:
                self._opensearch = False
            await asyncio.sleep(OPENSEARCH_INTERVAL_S)

    async def watch_index(self, admin: TopicAdmin) -> None:
        """Observe until cancelled how far the indexers are behind."""
        while True:
            try:
                self.index_lag = await admin.lag(topics.INDEXER_GROUP, topics.EVENTS)
            except UnavailableError:
                self.index_lag = None
            await asyncio.sleep(INDEX_INTERVAL_S)
