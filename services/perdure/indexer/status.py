"""``python -m perdure.indexer.status``: how far the index is behind, as JSON on stdout.

Keys: ``waiting_events`` (not acknowledged by the indexers), ``newest_at`` (the newest searchable event, or null), ``states``,
``threads`` (documents) and ``bytes`` (of both).
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import orjson

from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.opensearch import OpenSearch
from perdure.chassis.service import run_service
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.stream import GROUP
from perdure.schemas import topics
from perdure.schemas.index import STATES, THREADS


async def status(client: OpenSearch, admin: TopicAdmin) -> dict[str, Any]:
    """How far the index is behind.

    Raises:
        UnavailableError: OpenSearch or Kafka does not answer.

    """
    body = {"size": 0, "track_total_hits": True, "aggs": {"newest": {"max": {"field": "occurred_at"}}}}
    states = await client.request("POST", f"/{STATES}/_search", body)
    threads = await client.request("POST", f"/{THREADS}/_search", body)
    stats = await client.request("GET", f"/{STATES},{THREADS}/_stats/store")
    return {
        "waiting_events": await admin.lag(GROUP, topics.EVENTS),
        "newest_at": states["aggregations"]["newest"].get("value_as_string"),
        "states": states["hits"]["total"]["value"],
        "threads": threads["hits"]["total"]["value"],
        "bytes": stats["_all"]["primaries"]["store"]["size_in_bytes"],
    }


async def main(settings: IndexerSettings, stopping: asyncio.Event) -> None:
    """Write the status."""
    del stopping  # it takes no time
    client = OpenSearch(settings.opensearch)
    try:
        found = await status(client, TopicAdmin(settings))
        sys.stdout.write(orjson.dumps(found).decode() + "\n")
    finally:
        await client.close()


if __name__ == "__main__":
    run_service("index-status", IndexerSettings, main)
