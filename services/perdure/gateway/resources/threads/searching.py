"""Finding threads in MongoDB: one page, whole, in a number of queries that does not depend on the threads found (ADR 31).

Contract: what is found is what the database holds now, not what the search index has heard of. Threads that are archived, or on
their way there, are left out: ``GET /search`` finds their states. ``busy`` is worked out from the active runs.

Outside: full text, and conditions on states, except on the values of a few threads (``VALUES_LIMIT``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, Final

import orjson
from pymongo import ASCENDING, DESCENDING

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.gateway.auth.reach import UNLIMITED, Reach
from perdure.gateway.http.problems import not_supported
from perdure.gateway.http.responses import as_json
from perdure.gateway.resources.states import States
from perdure.gateway.resources.threads.extracting import extract
from perdure.gateway.resources.threads.matching import contains, metadata_clauses, status_clause
from perdure.gateway.resources.threads.views import thread_view
from perdure.gateway.stores.store import Store
from perdure.schemas.documents import THREADS, ThreadStatus
from perdure.schemas.thread_http import VALUES_LIMIT, ThreadCount, ThreadSearch
from perdure.schemas.thread_ids import stored_id

Document = dict[str, Any]
Order = list[tuple[str, int]]

SORT_FIELDS: Final = {"thread_id": "_id", "state_updated_at": "head"}
"""Where a field to sort by has another name. ``head`` is a checkpoint id, which begins with its time."""
WINDOWS: Final = tuple(timedelta(hours=2**number) for number in range(13))
"""The newest threads are looked for in the last hour first, then in the hour before, in the two before these and so on: a server
that sorts all that match then sorts few, and none twice. A span without threads costs next to nothing."""
FEW: Final = 1_000
"""Threads before a page that are read with it."""
OF_STATE: Final = frozenset({"values", "interrupts", "waits", "state_updated_at"})
"""Fields of a thread that come from its newest state."""
FIELDS: Final = {"next": 0, "interrupts": 0, "archive": 0, "hold": 0}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which documents.

    Attributes:
        parts: Queries; the threads of an earlier one come before those of a later one.
        order: Of the threads of one query.
        busy: The ids of threads with an active run, if they were needed.
        by_id: The threads are among few whose ids are known.

    """

    parts: Sequence[Document]
    order: Order
    busy: frozenset[str] | None
    by_id: bool


class ThreadSearching:
    """Searches and counts threads. Belongs to one event loop."""

    def __init__(self, database: Database, store: Store, states: States) -> None:
        self._threads = database[THREADS]
        self._store = store
        self._states = states

    async def page(self, tenant: str, wanted: ThreadSearch, reach: Reach = UNLIMITED) -> tuple[list[Document], bool]:
        """A page of threads as the client wants to see them, and whether there are more.

        Raises:
            RequestProblem: ``not-supported``: too many threads to look into their values, or a key that cannot be searched.

        """
        limit, offset = wanted.limit or 10, wanted.offset or 0
        asked = await self._asked(tenant, wanted, reach)
        if wanted.values:
            matching = await self._with_values(tenant, asked, wanted.values)
            views, more = matching[offset : offset + limit], len(matching) > offset + limit
        else:
            found = await self._documents(asked, offset, limit + 1)
            more = len(found) > limit
            views = await self._views(tenant, found[:limit], asked.busy, states=_needs_states(wanted))
        return [_shown(view, wanted) for view in views], more

    async def count(self, tenant: str, wanted: ThreadCount, reach: Reach = UNLIMITED) -> int:
        """How many threads match.

        Raises:
            RequestProblem: As for :meth:`page`.

        """
        asked = await self._asked(tenant, wanted, reach)
        if wanted.values:
            return len(await self._with_values(tenant, asked, wanted.values))
        return await self._count(asked.parts)

    async def _asked(self, tenant: str, wanted: ThreadCount, reach: Reach) -> _Wanted:
        clauses = [*reach.clauses(), *metadata_clauses(wanted.metadata or {})]
        ids: list[str] | None = None
        field, direction = "updated_at", DESCENDING
        if isinstance(wanted, ThreadSearch):
            ids = [stored_id(tenant, one) for one in wanted.ids] if wanted.ids else None
            field = wanted.sort_by or field
            direction = ASCENDING if (wanted.sort_order or "desc").lower() == "asc" else DESCENDING
        if ids is not None:
            clauses.append({"_id": {"$in": ids}})
        busy: frozenset[str] | None = None
        if wanted.status or field == "status":
            busy = frozenset(await self._store.busy_of(tenant, ids))
        if wanted.status:
            clauses.append(status_clause(wanted.status, busy or ()))
        base: Document = {"tenant": tenant, "archive.at": None} | ({"$and": clauses} if clauses else {})
        order = [(name, direction) for name in dict.fromkeys([SORT_FIELDS.get(field, field), "_id"])]
        by_status = field == "status" and not wanted.status
        parts = _by_status(base, busy or (), direction) if by_status else [base]
        return _Wanted(parts, order, busy, by_id=ids is not None or wanted.status == "busy")

    async def _documents(self, asked: _Wanted, skip: int, limit: int) -> list[Document]:
        found: list[Document] = []
        for number, part in enumerate(asked.parts):
            found += await self._part(part, asked, skip, limit - len(found))
            if len(found) == limit or number == len(asked.parts) - 1:
                break
            skip = 0 if found else max(0, skip - await self._count([part]))
        return found

    async def _part(self, query: Document, asked: _Wanted, skip: int, limit: int) -> list[Document]:
        field, direction = asked.order[0]
        newest_first = direction == DESCENDING and field in ("updated_at", "created_at") and not asked.by_id
        if not newest_first or skip > FEW:
            return await self._find(query, asked.order, skip, limit)
        moment = now()
        starts = [moment - window for window in WINDOWS]
        spans: list[Document] = [{"$gte": starts[0]}]
        spans += [{"$gte": start, "$lt": end} for end, start in pairwise(starts)]
        found: list[Document] = []
        for span in [*spans, {"$lt": starts[-1]}]:
            found += await self._find(query | {field: span}, asked.order, 0, skip + limit - len(found))
            if len(found) == skip + limit:
                break
        return found[skip:]

    async def _find(self, query: Document, order: Order, skip: int, limit: int) -> list[Document]:
        return await self._store.read(
            lambda: self._threads.find(query, FIELDS).sort(order).skip(skip).limit(limit).to_list(None)
        )

    async def _count(self, parts: Sequence[Document]) -> int:
        counts = [await self._store.read(lambda part=part: self._threads.count_documents(part)) for part in parts]  # type: ignore[misc]
        return sum(counts)

    async def _with_values(self, tenant: str, asked: _Wanted, values: Mapping[str, Any]) -> list[Document]:
        """All threads that match, the values of their states too."""
        found = await self._documents(asked, 0, VALUES_LIMIT + 1)
        if len(found) > VALUES_LIMIT:
            raise not_supported(
                "/values",
                f"States are not indexed by their values, and more than {VALUES_LIMIT} threads match everything else. Say more in "
                "ids, metadata or status, or put what you look for into the thread's metadata; GET /search finds words in states.",
            )
        views = await self._views(tenant, found, asked.busy, states=True)
        return [view for view in views if contains(orjson.loads(as_json(view["values"])), dict(values))]

    async def _views(
        self, tenant: str, threads: Sequence[Document], busy: Collection[str] | None, *, states: bool
    ) -> list[Document]:
        if not threads:
            return []
        ids = [thread["_id"] for thread in threads]
        newest: Mapping[str, Document] = {}
        reading = self._states.newest_of({thread["_id"]: thread.get("head") for thread in threads} if states else {})
        active, newest = await asyncio.gather(self._active(tenant, ids, busy), self._store.patiently(reading))
        return [
            thread_view(thread, busy=thread["_id"] in active, state=newest.get(thread["_id"]), ttl=True)
            for thread in threads
        ]

    async def _active(self, tenant: str, ids: Sequence[str], busy: Collection[str] | None) -> Collection[str]:
        return busy if busy is not None else await self._store.busy_of(tenant, ids)


def _by_status(base: Document, busy: Collection[str], direction: int) -> list[Document]:
    """The queries of all threads by the status that they show: ``busy`` comes first, by the alphabet, and is not stored."""
    clauses = base.get("$and", [])
    active = base | {"$and": [*clauses, status_clause(ThreadStatus.BUSY.value, busy)]}
    rest = base | {"$and": [*clauses, {"_id": {"$nin": list(busy)}}]}
    return [active, rest] if direction == ASCENDING else [rest, active]


def _needs_states(wanted: ThreadSearch) -> bool:
    roots = {path.partition(".")[0].partition("[")[0] for path in (wanted.extract or {}).values()}
    return not wanted.select or bool(OF_STATE & {*wanted.select, *roots})


def _shown(view: Document, wanted: ThreadSearch) -> Document:
    fields: Collection[str] = wanted.select or view.keys() - {"ttl"}
    shown = {name: view[name] for name in view if name in fields}
    if wanted.extract:
        shown["extracted"] = {alias: extract(view, path) for alias, path in wanted.extract.items()}
    return shown
