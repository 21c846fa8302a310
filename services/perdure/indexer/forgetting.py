"""Removing what the index holds of a thread that was purged from the archive (ADR 15).

Contract: when :func:`forget` returns, no document of the thread is in the states or the threads index. It can be repeated. Older
states indices take no writes (ADR 4), so their block is lifted for the moment; an indexer that writes to one then writes a state
that all searches see.

Outside: Kafka. Whoever sets the indexer's offsets back to a time before the purge indexes what Kafka still has.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.indexer import indices
from perdure.schemas.index import STATES, THREADS

PAGE: Final = 1_000
LENIENT: Final = {"ignore_unavailable": "true"}
"""Where nothing was ever indexed there is nothing to remove."""


async def forget(client: OpenSearch, tenant: str, thread_id: str) -> int:
    """Remove all documents of a thread; how many there were.

    Raises:
        UnavailableError: OpenSearch does not answer.
        OpenSearchRefusedError: it refuses; also when documents are left.

    """
    await client.request("POST", f"/{STATES},{THREADS}/_refresh", params=LENIENT)
    removed = 0
    while found := await _found(client, tenant, thread_id):
        layout = await indices.read_layout(client)
        named = sorted({hit["_index"] for hit in found})
        closed = [name for name in named if name not in (layout.states, layout.threads)]
        await _set_block(client, closed, block=False)
        try:
            lines = b"".join(
                b'{"delete":%b}\n' % orjson.dumps({"_index": hit["_index"], "_id": hit["_id"]}) for hit in found
            )
            answer = await client.bulk(lines)
        finally:
            await _set_block(client, closed, block=True)
        if answer["errors"]:
            raise OpenSearchRefusedError(409, "not_deleted", f"documents of thread {thread_id} are left", "POST /_bulk")
        removed += len(found)
        await client.request("POST", f"/{','.join(named)}/_refresh")
    return removed


async def _found(client: OpenSearch, tenant: str, thread_id: str) -> list[dict[str, Any]]:
    body = {
        "query": {"bool": {"filter": [{"term": {"tenant": tenant}}, {"term": {"thread_id": thread_id}}]}},
        "size": PAGE,
        "_source": False,
    }
    answer = await client.request("POST", f"/{STATES},{THREADS}/_search", body, LENIENT)
    hits: list[dict[str, Any]] = answer["hits"]["hits"]
    return hits


async def _set_block(client: OpenSearch, names: list[str], *, block: bool) -> None:
    if names:
        await client.request("PUT", f"/{','.join(names)}/_settings", {"index.blocks.write": block})
