"""Removing what the index holds of a thread that was purged from the archive (ADR 15), deleted or pruned.

Contract: when :func:`forget` returns, no document of the thread, or of the given spans of its history, is in the states or the
threads index. It can be repeated. Older
states indices take no writes (ADR 4), so their block is lifted for the moment; an indexer that writes to one then writes a state
that all searches see.

Outside: Kafka. Whoever sets the indexer's offsets back to a time before the purge indexes what Kafka still has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.indexer import indices
from perdure.schemas.index import STATES, THREADS

PAGE: Final = 1_000
SPANS: Final = 500
"""Spans of one query: OpenSearch takes 1,024 clauses."""
LENIENT: Final = {"ignore_unavailable": "true"}
"""Where nothing was ever indexed there is nothing to remove."""


async def forget(
    client: OpenSearch, tenant: str, thread_id: str, spans: Sequence[tuple[int, int]] | None = None
) -> int:
    """Remove all documents of a thread; how many there were.

    Args:
        client: OpenSearch.
        tenant: The thread's tenant.
        thread_id: The thread.
        spans: Only the states with these sequence numbers, first and last of each span.

    Raises:
        UnavailableError: OpenSearch does not answer.
        OpenSearchRefusedError: it refuses; also when documents are left.

    """
    await client.request("POST", f"/{STATES},{THREADS}/_refresh", params=LENIENT)
    if spans is None:
        return await _remove(client, f"{STATES},{THREADS}", {"bool": {"filter": _is(tenant, thread_id)}})
    removed = 0
    for start in range(0, len(spans), SPANS):
        within = [{"range": {"seq": {"gte": first, "lte": last}}} for first, last in spans[start : start + SPANS]]
        states = {
            "filter": [*_is(tenant, thread_id), {"bool": {"should": within, "minimum_should_match": 1}}],
            "must_not": [{"exists": {"field": "note"}}],
        }
        removed += await _remove(client, STATES, {"bool": states})
    return removed


async def _remove(client: OpenSearch, aliases: str, query: dict[str, Any]) -> int:
    removed = 0
    while found := await _found(client, aliases, query):
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
            raise OpenSearchRefusedError(409, "not_deleted", "documents of a thread are left", "POST /_bulk")
        removed += len(found)
        await client.request("POST", f"/{','.join(named)}/_refresh")
    return removed


async def newest_of(client: OpenSearch, tenant: str, thread_id: str) -> dict[str, Any] | None:
    """What the threads index has of a thread; ``None``: nothing.

    Raises:
        UnavailableError: OpenSearch does not answer.

    """
    body = {"query": {"bool": {"filter": _is(tenant, thread_id)}}, "size": 1, "_source": ["archived"]}
    await client.request("POST", f"/{THREADS}/_refresh", params=LENIENT)
    answer = await client.request("POST", f"/{THREADS}/_search", body, LENIENT)
    for hit in answer["hits"]["hits"]:
        found: dict[str, Any] = hit["_source"]
        return found
    return None


def _is(tenant: str, thread_id: str) -> list[dict[str, Any]]:
    return [{"term": {"tenant": tenant}}, {"term": {"thread_id": thread_id}}]


async def _found(client: OpenSearch, aliases: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    body = {"query": query, "size": PAGE, "_source": False}
    answer = await client.request("POST", f"/{aliases}/_search", body, LENIENT)
    hits: list[dict[str, Any]] = answer["hits"]["hits"]
    return hits


async def _set_block(client: OpenSearch, names: list[str], *, block: bool) -> None:
    if names:
        await client.request("PUT", f"/{','.join(names)}/_settings", {"index.blocks.write": block})
