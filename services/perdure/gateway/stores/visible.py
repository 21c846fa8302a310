"""Which threads a request reaches, for queries on what does not say who may see it: questions, runs, the search index (ADR 43)."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from perdure.gateway.auth.caller import tenant_of
from perdure.gateway.auth.reach import reach_of
from perdure.gateway.http.problems import not_supported
from perdure.gateway.stores.store import Store

LIMIT: Final = 10_000
"""Threads that one query can be restricted to."""


async def visible_threads(store: Store, request: web.Request) -> list[str] | None:
    """The ids of all threads that a request reaches; ``None`` where it reaches all threads of its tenant.

    Raises:
        RequestProblem: ``not-supported``: they are too many for one query.

    """
    reach = reach_of(request)
    if not reach.limited:
        return None
    found = await store.thread_ids(tenant_of(request), reach.clauses(), LIMIT + 1)
    if len(found) > LIMIT:
        raise not_supported(
            "",
            f"More than {LIMIT:,} threads meet the conditions of the project's auth handlers: this cannot be searched at once. "
            "POST /threads/search finds threads by their metadata.",
        )
    return found
