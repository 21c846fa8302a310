"""The console: pages that show what goes on, for people. They change nothing.

Contract: each page shows what the API would answer, of the same tenant. If a server is down or hangs, only its part of the page
is missing, that part says so, and the page is there within a second (``perdure.gateway.console.parts``). The states of a thread
come from the database while search is away.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from markupsafe import Markup, escape

from perdure.chassis.clock import now
from perdure.chassis.opensearch_circuit import CircuitOpenSearch
from perdure.gateway.auth.caller import CallerKind, caller_of, tenant_of
from perdure.gateway.console.parts import DATABASE, SEARCH, Problem, or_instead, tried
from perdure.gateway.console.stored_states import StoredStates
from perdure.gateway.http.pages import Pages, visible
from perdure.gateway.http.problems import invalid
from perdure.gateway.http.route import Page
from perdure.gateway.resources.batches import BatchStore, batch_view, item_view
from perdure.gateway.resources.stuck import Marks
from perdure.gateway.resources.system import Conditions
from perdure.gateway.resources.threads.views import thread_status
from perdure.gateway.search.query import search as search_states
from perdure.gateway.stores.graphs import ServedGraphs
from perdure.gateway.stores.store import Store
from perdure.gateway.stores.workers import Workers
from perdure.schemas.batch_documents import ENDED_ITEMS, BatchStatus
from perdure.schemas.documents import ArchiveState, ThreadStatus
from perdure.schemas.scopes import Scope
from perdure.schemas.thread_ids import shown_id

ROOM: Final = Path(__file__).parent
PAGES: Final = Pages(ROOM / "templates", ROOM / "static" / "console.css")
REFRESH_S: Final = 5
FEW: Final = 10
PAGE: Final = 50
HALF_S: Final = 0.35
"""Seconds for each of two parts of a page where the second needs the first."""
DIGITS: Final = 16
"""Of a sequence number, fewer than this."""
EXCERPT: Final = 240
"""Characters of a state's text that are shown where nothing was looked for in it."""
TAG: Final = re.compile("(</?em>)")
"""OpenSearch sets it around what was found, and escapes every other one."""
MARKS: Final = {"<em>": Markup("<mark>"), "</em>": Markup("</mark>")}
SHOWN: Final = ("status", "graph_id", "next", "created_at", "updated_at", "hold", "error", "batch", "stuck", "metadata")
"""Of a thread's document."""
AT_WORK: Final = frozenset({ThreadStatus.BUSY.value, ThreadStatus.INTERRUPTED.value})
"""Statuses in which a thread is not at rest; one that waits continues by itself when its wait is over."""
GOING: Final = frozenset({BatchStatus.PENDING, BatchStatus.RUNNING, BatchStatus.PAUSED, BatchStatus.CANCELLING})

Document = dict[str, Any]


class ConsolePages:
    """The pages of the console."""

    def __init__(
        self,
        *,
        store: Store,
        stored_states: StoredStates,
        opensearch: CircuitOpenSearch,
        marks: Marks,
        batches: BatchStore,
        graphs: ServedGraphs,
        workers: Workers,
        conditions: Conditions,
    ) -> None:
        self._store = store
        self._stored_states = stored_states
        self._opensearch = opensearch
        self._marks = marks
        self._batches = batches
        self._graphs = graphs
        self._living = workers
        self._conditions = conditions

    def pages(self) -> tuple[Page, ...]:
        """The pages for people."""
        return (
            Page("GET", "/", self.home, Scope.CONSOLE_READ),
            Page("GET", "/console", self.overview, Scope.CONSOLE_READ),
            Page("GET", "/console/batches", self.batches, Scope.CONSOLE_READ),
            Page("GET", "/console/batches/{batch_id}", self.batch, Scope.CONSOLE_READ),
            Page("GET", "/console/search", self.search, Scope.CONSOLE_READ),
            Page("GET", "/console/threads/{thread_id}", self.thread, Scope.CONSOLE_READ),
        )

    async def home(self, _: web.Request) -> web.Response:
        """``GET /``."""
        return web.Response(status=307, headers={"Location": "/console"})

    async def overview(self, request: web.Request) -> web.Response:
        """``GET /console``: how many agents stand where, who is stuck, what runs, how far search is behind."""
        tenant = tenant_of(request)
        (agents, problem), (stuck, no_stuck), (workers, no_workers), (found, no_batches) = await asyncio.gather(
            tried(self._search(tenant, {"scope": "threads", "by": "status", "limit": "1"}), SEARCH),
            tried(self._marks.at_present(tenant, {"limit": str(FEW)}), DATABASE),
            tried(self._workers(), DATABASE),
            tried(self._batches.page(tenant, None, FEW, None), DATABASE),
        )
        return _page(
            request,
            "overview.html",
            refresh=True,
            conditions={**self._conditions.required, **self._conditions.reported},
            lag=self._conditions.index_lag,
            agents=agents,
            stuck=stuck,
            workers=workers,
            batches=[batch_view(one) for one in found or ()],
            problems=_listed(problem, no_stuck, no_workers, no_batches),
        )

    async def batches(self, request: web.Request) -> web.Response:
        """``GET /console/batches``."""
        before = request.query.get("cursor")
        page = self._batches.page(tenant_of(request), None, PAGE + 1, before)
        found, problem = await tried(page, DATABASE)
        shown = [batch_view(one) for one in (found or [])[:PAGE]]
        more = shown[-1]["batch_id"] if found and len(found) > PAGE else None
        return _page(
            request, "batches.html", refresh=before is None, batches=shown, more=more, problems=_listed(problem)
        )

    async def batch(self, request: web.Request) -> web.Response:
        """``GET /console/batches/{batch_id}``: how far it is, and the items that failed."""
        tenant = tenant_of(request)
        found, problem = await tried(self._batches.require(request.match_info["batch_id"], tenant), DATABASE, HALF_S)
        if found is None:
            return _page(request, "problem.html", status=_status(problem), problems=_listed(problem))
        failed, no_items = await tried(self._batches.items(found, ["failed"], FEW, 0), DATABASE, HALF_S)
        shown = batch_view(found)
        return _page(
            request,
            "batch.html",
            refresh=shown["status"] in GOING,
            batch=shown,
            ended=[status.value for status in ENDED_ITEMS],
            failed=[item_view(found, item) for item in failed or ()],
            problems=_listed(no_items),
        )

    async def search(self, request: web.Request) -> web.Response:
        """``GET /console/search``: past states, in the language of ``GET /search``."""
        given = {name: value for name, value in request.query.items() if name in ("q", "cursor") and value}
        # A query over much may take its time, as long as the server answers at all.
        asking = self._opensearch.circuit.unless_late(self._search(tenant_of(request), {**given, "limit": str(PAGE)}))
        found, problem = await tried(asking, SEARCH, within_s=None)
        status = problem.status if problem else 200
        return _page(
            request, "search.html", status=status, asked=given.get("q", ""), found=found, problems=_listed(problem)
        )

    async def thread(self, request: web.Request) -> web.Response:
        """``GET /console/threads/{thread_id}``: its states, newest first, also of one that is archived."""
        tenant = tenant_of(request)
        thread_id = request.match_info["thread_id"]
        query = {
            "thread_id": thread_id,
            "limit": str(PAGE),
            **{n: v for n, v in request.query.items() if n == "cursor"},
        }
        before = _number(request, "before")
        reading = asyncio.ensure_future(tried(self._store.thread(thread_id, tenant), DATABASE))
        working = asyncio.ensure_future(tried(self._store.is_busy(thread_id), DATABASE))

        async def from_store() -> tuple[Any, Problem | None]:
            known, _ = await reading
            if known is None or "cursor" in request.query:
                return None, None
            return await tried(self._stored_states.newest(known, PAGE, before), DATABASE, HALF_S)

        if before is None:
            found, no_search, stored, no_stored = await or_instead(
                tried(self._search(tenant, query), SEARCH), from_store
            )
        else:
            (found, no_search), (stored, no_stored) = (None, None), await from_store()
        (document, no_thread), (busy, no_runs) = await reading, await working
        if document is None and not (found and found["items"]):
            problem = no_thread or no_search or Problem(404, f"There is no thread {shown_id(thread_id)!r}.")
            return _page(request, "problem.html", status=_status(problem), problems=_listed(problem))
        mark = (document or {}).get("archive")
        away = mark if mark and not ArchiveState(mark["state"]).lives else None
        shown = {name: (document or {}).get(name) for name in SHOWN}
        if document is not None:
            shown["status"] = thread_status(document, busy=bool(busy))
        return _page(
            request,
            "thread.html",
            refresh=_moves(shown) and "cursor" not in request.query,
            thread_id=thread_id,
            thread=shown,
            archived=away,
            found=found,
            stored=stored,
            problems=_listed(no_thread, no_runs, no_search, no_stored),
        )

    async def _search(self, tenant: str, query: Mapping[str, str]) -> Document:
        """What is found, each with its texts as they are shown: pairs of a name and a part of what stands there."""
        found = await search_states(self._opensearch, tenant, query, EXCERPT)
        for item in found["items"]:
            item["texts"] = [(name, marked(text)) for name, texts in item["highlights"].items() for text in texts]
        return found

    async def _workers(self) -> dict[str, int]:
        """Living workers by registered graph."""
        graphs, counts = await asyncio.gather(self._graphs.all(), self._living.counts())
        return {graph["_id"]: counts[graph["_id"]] for graph in graphs}


def _moves(thread: Mapping[str, Any]) -> bool:
    """Whether the page will show something else soon: the thread works or waits, or search may not know its end yet."""
    if thread["status"] in AT_WORK:
        return True
    changed = thread.get("updated_at")
    return changed is not None and now() - changed < timedelta(seconds=2 * REFRESH_S)


def marked(text: str) -> Markup:
    """A highlight of a search: whatever it holds is escaped, except the tags around what was looked for."""
    return Markup().join(MARKS.get(part) or escape(visible(unescape(part))) for part in TAG.split(text))


def _number(request: web.Request, name: str) -> int | None:
    given = request.query.get(name)
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) < DIGITS):
        raise invalid(f"query:{name}", f"must be a number, not {given!r}")
    return int(given)


def _listed(*problems: Problem | None) -> list[Problem]:
    """Those that there are, each once: several parts may miss the same server."""
    return list(dict.fromkeys(problem for problem in problems if problem))


def _status(problem: Problem | None) -> int:
    return problem.status if problem else 404


def _page(
    request: web.Request, template: str, *, status: int = 200, refresh: bool = False, **shown: Any
) -> web.Response:
    caller, refresh_s = caller_of(request), REFRESH_S if refresh else None
    signed_in = caller if caller.kind is CallerKind.SESSION else None
    return PAGES.render(template, status, at=now(), refresh=refresh_s, signed_in=signed_in, **shown)
