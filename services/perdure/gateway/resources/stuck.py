"""``GET /stuck``: who stands still now, and who stood still at some time.

Contract: without a time the answer comes from the marks in MongoDB, which are the truth, also while OpenSearch is away. With
``since`` or ``until`` it comes from the index and names every thread that *got* stuck in that time, with when it went on again.
Both are of the same shape (``perdure.schemas.stuck_http``), newest first, and restricted to a tenant by a filter that no parameter
reaches.

Outside: what counts as stuck (ADR 10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from aiohttp import web
from pymongo import DESCENDING

from perdure.chassis.clock import now
from perdure.chassis.errors import UnavailableError
from perdure.chassis.mongo import Database
from perdure.chassis.opensearch import OpenSearch
from perdure.gateway.auth.caller import tenant_of
from perdure.gateway.auth.reach import UNLIMITED, Reach, reach_of
from perdure.gateway.http.cursors import cursor_of, read_cursor
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import TEXT, Parameter, Route, page_of
from perdure.gateway.search.query import DEFAULT_LIMIT, MAX_LIMIT, SearchProblem, answer_of, ask, body_of, parse, within
from perdure.gateway.search.resource import RETRY_AFTER
from perdure.gateway.stores.store import Store
from perdure.gateway.stores.visible import visible_threads
from perdure.schemas import stuck_http
from perdure.schemas.documents import RUNS, THREADS
from perdure.schemas.events import StuckCode, ThreadRecovered
from perdure.schemas.index import STATES
from perdure.schemas.scopes import Scope
from perdure.schemas.thread_ids import both_ids

Document = dict[str, Any]

PARAMETERS: Final = ("node", "graph", "thread_id", "code", "since", "until", "limit", "cursor")
TIMES: Final = ("since", "until")
CODES: Final = tuple(code.value for code in StuckCode)
RELATED: Final = 1_000
"""Events of the threads of a page that are looked through for recoveries, and as many for errors."""
_RUN: Final = dict.fromkeys(("graph_id", "error", "crash_log", "metadata", "ended_at"), 1)
_THREAD: Final = dict.fromkeys(("tenant", "stuck", "error", "updated_at", "metadata"), 1)


def check(query: Mapping[str, str]) -> dict[str, str]:
    """The parameters that are given; empty ones count as absent.

    Raises:
        SearchProblem: one is unknown, or the code is.

    """
    given = {name: value.strip() for name, value in query.items() if value.strip()}
    for name in given:
        if name not in PARAMETERS:
            raise SearchProblem(f"query:{name}", f"there is no such parameter; known are {', '.join(PARAMETERS)}")
    for code in _split(given.get("code", "")):
        if code not in CODES:
            raise SearchProblem("query:code", f"must be of {', '.join(CODES)}, not {code!r}")
    return given


def is_history(given: Mapping[str, str]) -> bool:
    """Whether a time is asked for."""
    return any(name in given for name in TIMES)


class Marks:
    """The marks of stuck threads, as the scheduler sets them."""

    def __init__(self, database: Database, store: Store) -> None:
        self._threads = database[THREADS]
        self._runs = database[RUNS]
        self._store = store

    async def at_present(self, tenant: str, given: Mapping[str, str], reach: Reach = UNLIMITED) -> Document:
        """Who stands still now.

        Raises:
            SearchProblem: ``limit`` or ``cursor`` is wrong.
            RequestProblem: ``store-unavailable``.

        """
        limit = _limit(given.get("limit"))
        query, clauses = marks_query(tenant, given), reach.clauses()
        query |= {"$and": clauses} if clauses else {}
        if "graph" in given:  # a mark names its run, and the run its graph
            marked = await self._store.read(lambda: self._threads.find(query, {"stuck.run_id": 1}).to_list(None))
            ids = [thread["stuck"]["run_id"] for thread in marked]
            graphs = {"_id": {"$in": ids}, "graph_id": {"$in": list(_split(given["graph"]))}}
            runs = await self._store.read(lambda: self._runs.find(graphs, {"_id": 1}).to_list(None))
            query = {**query, "stuck.run_id": {"$in": [run["_id"] for run in runs]}}
        total = await self._store.read(lambda: self._threads.count_documents(query))
        page = {**query, "$and": [*clauses, _before(given["cursor"])]} if "cursor" in given else query
        order = [("stuck.noticed_at", DESCENDING), ("_id", DESCENDING)]
        threads = await self._store.read(
            lambda: self._threads.find(page, _THREAD).sort(order).limit(limit + 1).to_list(None)
        )
        wanted = {"_id": {"$in": [thread["stuck"]["run_id"] for thread in threads]}}
        found = await self._store.read(lambda: self._runs.find(wanted, _RUN).to_list(None))
        runs_by_id = {run["_id"]: run for run in found}
        flat = [{"_id": thread["_id"], "at": thread["stuck"]["noticed_at"]} for thread in threads]
        return {
            "items": [marked_view(thread, runs_by_id.get(thread["stuck"]["run_id"], {})) for thread in threads[:limit]],
            "total": total,
            "cursor": cursor_of(flat, "at", limit),
        }


class StuckResource:
    """Who stands still now, and who stood still at some time."""

    def __init__(self, store: Store, opensearch: OpenSearch, marks: Marks) -> None:
        self._store = store
        self._opensearch = opensearch
        self._marks = marks

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "GET", "/stuck", self.list_stuck, "listStuck", "Who is stuck now; with a time, who got stuck in it", "Search",
                {200: stuck_http.StuckPage},
                parameters=(
                    page_of(20, 200), Parameter("cursor", TEXT, "The `cursor` of the page before."),
                    Parameter("node", TEXT, "At this node. Several with commas."),
                    Parameter("graph", TEXT, "Of this graph. Several with commas."),
                    Parameter("thread_id", TEXT, "Only these threads."),
                    Parameter("code", TEXT, "`overdue`, `unclaimed`, `wait_overdue` or `poison`. Several with commas."),
                    Parameter("since", TEXT, "Got stuck at or after: ISO 8601, `now-2h`, `today`, `yesterday`. UTC."),
                    Parameter("until", TEXT, "Got stuck before; as `since`."),
                ),
                problems=("search-unavailable",), scope=Scope.SEARCH_READ,
            ),
        )
        # fmt: on

    async def list_stuck(self, request: web.Request) -> web.Response:
        """``GET /stuck``."""
        tenant = tenant_of(request)
        try:
            given = check(request.query)
            if is_history(given):
                visible = await visible_threads(self._store, request)
                found = await in_history(self._opensearch, tenant, given, visible)
            else:
                found = await self._marks.at_present(tenant, given, reach_of(request))
        except UnavailableError as error:
            raise RequestProblem(
                "search-unavailable",
                f"The search index is away: {error.detail}. Without since and until, the database says who is stuck now.",
                headers=RETRY_AFTER,
            ) from error
        except SearchProblem as error:
            raise invalid(error.pointer, error.detail) from error
        return json_response(found)


async def in_history(
    client: OpenSearch, tenant: str, given: Mapping[str, str], visible: Sequence[str] | None = None
) -> Document:
    """Who got stuck in a time; ``visible``: of these threads.

    Raises:
        SearchProblem: a parameter is wrong.
        UnavailableError: OpenSearch does not answer.

    """
    query = within(parse({**given, "status": "stuck", "scope": "states"}, now(), tenant), visible)
    found = answer_of(query, await ask(client, query.index, body_of(query, tenant)))
    items: list[Document] = found["items"]
    related = await _related(client, tenant, items) if items else ([], [])
    return {
        "items": [indexed_view(item, tenant, *related) for item in items],
        "total": found["total"],
        "cursor": found["cursor"],
    }


def marks_query(tenant: str, given: Mapping[str, str]) -> Document:
    """The filter for marked threads, but for their graph."""
    query: Document = {"tenant": tenant, "stuck.noticed_at": {"$exists": True}}
    if nodes := _split(given.get("node", "")):
        query["$or"] = [{"stuck.node": {"$in": nodes}}, {"stuck.nodes": {"$in": nodes}}]
    if codes := _split(given.get("code", "")):
        query["stuck.code"] = {"$in": codes}
    if threads := _split(given.get("thread_id", "")):
        query["_id"] = {"$in": [id_ for one in threads for id_ in both_ids(tenant, one)]}
    return query


def marked_view(thread: Mapping[str, Any], run: Mapping[str, Any]) -> Document:
    """A marked thread and the run that its mark is about, as clients see them."""
    mark = thread["stuck"]
    nodes = mark.get("nodes") or ([mark["node"]] if mark["node"] else [])
    return {
        "thread_id": thread["_id"],
        "run_id": mark["run_id"],
        "tenant": thread["tenant"],
        "graph": run.get("graph_id", ""),
        "node": mark["node"],
        "nodes": nodes,
        "code": mark["code"],
        "reason": mark["reason"],
        "since": mark["since"],
        "expected_by": mark["expected_by"],
        "noticed_at": mark["noticed_at"],
        "recovered_at": None,
        "wait_id": mark["wait_id"],
        "last_error": _last_error(thread, run),
        "metadata": run.get("metadata") or thread.get("metadata") or {},
    }


def indexed_view(
    item: Mapping[str, Any], tenant: str, recoveries: Sequence[Document], errors: Sequence[Document]
) -> Document:
    """An indexed standstill with when it was over and what had gone wrong before (both newest first), as clients see it."""
    mine = [one for one in recoveries if one["thread_id"] == item["thread_id"] and _place(one) > _place(item)]
    before = (one for one in errors if one["thread_id"] == item["thread_id"] and _place(one) < _place(item))
    last = next(before, None)
    stuck = item["stuck"]
    return {
        "thread_id": item["thread_id"],
        "run_id": item["run_id"],
        "tenant": tenant,
        "graph": item["graph"],
        "node": item["next"][0] if len(item["next"]) == 1 else None,
        "nodes": item["next"],
        "code": stuck["code"],
        "reason": stuck["reason"],
        "since": stuck["since"],
        "expected_by": item["expected_by"],
        "noticed_at": item["occurred_at"],
        "recovered_at": mine[-1]["occurred_at"] if mine else None,
        "wait_id": None,
        "last_error": {"node": None, **last["error"], "at": last["occurred_at"]} if last else None,
        "metadata": item["metadata"],
    }


async def _related(
    client: OpenSearch, tenant: str, items: Sequence[Mapping[str, Any]]
) -> tuple[list[Document], list[Document]]:
    """Recoveries after, and errors before, the standstills of a page; newest first."""
    threads = sorted({item["thread_id"] for item in items})
    times = [item["occurred_at"] for item in items]
    mine: list[Document] = [{"term": {"tenant": tenant}}, {"terms": {"thread_id": threads}}]
    after = [*mine, {"term": {"event": ThreadRecovered.TYPE}}, {"range": {"occurred_at": {"gte": min(times)}}}]
    before = [*mine, {"exists": {"field": "error.type"}}, {"range": {"occurred_at": {"lte": max(times)}}}]
    found: list[list[Document]] = []
    for filters in (after, before):
        body = {
            "query": {"bool": {"filter": filters}},
            "size": RELATED,
            "_source": ["thread_id", "seq", "note", "occurred_at", "error"],
            "sort": [{"occurred_at": "desc"}, {"seq": "desc"}],
        }
        answer = await ask(client, STATES, body)
        found.append([hit["_source"] for hit in answer["hits"]["hits"]])
    return found[0], found[1]


def _last_error(thread: Mapping[str, Any], run: Mapping[str, Any]) -> Document | None:
    """The error of the run, or the last worker that it lost, or the error that the thread's run before ended with."""
    if run.get("error"):
        return _error(run["error"], run.get("ended_at"))
    if crashes := run.get("crash_log"):
        last = crashes[-1]
        return _error({"type": "perdure.crash", "message": last.get("error") or "its worker died"}, last["at"])
    return _error(thread["error"], None) if thread.get("error") else None


def _error(error: Mapping[str, Any], at: datetime | None) -> Document:
    return {"type": error["type"], "message": error["message"], "node": error.get("node"), "at": at}


def _place(document: Mapping[str, Any]) -> tuple[int, int]:
    return document["seq"], document.get("note") or 0


def _split(value: str) -> list[str]:
    return [part for one in value.split(",") if (part := one.strip())]


def _before(cursor: str) -> Document:
    read = read_cursor(cursor)
    if read is None:
        raise SearchProblem("query:cursor", "is not a cursor that this list gave")
    moment, identity = read
    return {"$or": [{"stuck.noticed_at": {"$lt": moment}}, {"stuck.noticed_at": moment, "_id": {"$lt": identity}}]}


def _limit(value: str | None) -> int:
    if value is None:
        return DEFAULT_LIMIT
    if value.isascii() and value.isdecimal() and 1 <= int(value) <= MAX_LIMIT:
        return int(value)
    raise SearchProblem("query:limit", f"must be a number from 1 to {MAX_LIMIT}, not {value!r}")
