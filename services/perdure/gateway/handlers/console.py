"""The console: pages that show what goes on, for people. They change nothing.

Contract: each page shows what the API would answer, of the same tenant. A server that is away takes its part of a page with it
and no more: that part says so.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from html import unescape
from typing import Any, Final

from aiohttp import web
from markupsafe import Markup, escape

from perdure.chassis.clock import now
from perdure.chassis.errors import UnavailableError
from perdure.gateway import search as searching
from perdure.gateway.batch_results import item_view
from perdure.gateway.context import CONTEXT, Context
from perdure.gateway.handlers.batches import view
from perdure.gateway.middleware import tenant_of
from perdure.gateway.pages import render, visible
from perdure.gateway.problems import RequestProblem
from perdure.gateway.search import SearchProblem
from perdure.schemas.batch_documents import ENDED_ITEMS, BatchStatus
from perdure.schemas.documents import ArchiveState

STYLE: Final = "console.css"
REFRESH_S: Final = 5
FEW: Final = 10
PAGE: Final = 50
EXCERPT: Final = 240
"""Characters of a state's text that are shown where nothing was looked for in it."""
TAG: Final = re.compile("(</?em>)")
"""OpenSearch sets it around what was found, and escapes every other one."""
MARKS: Final = {"<em>": Markup("<mark>"), "</em>": Markup("</mark>")}
SHOWN: Final = ("status", "graph_id", "next", "created_at", "updated_at", "hold", "error", "batch", "stuck", "metadata")
"""Of a thread's document."""
GOING: Final = frozenset({BatchStatus.PENDING, BatchStatus.RUNNING, BatchStatus.PAUSED, BatchStatus.CANCELLING})

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a part of a page is not there.

    Attributes:
        status: Of the answer, where the page is nothing but this part.
        text: For people.
        at: The character of the query where the mistake is.

    """

    status: int
    text: str
    at: int | None = None


async def home(_: web.Request) -> web.Response:
    """``GET /``."""
    return web.Response(status=307, headers={"Location": "/console"})


async def overview(request: web.Request) -> web.Response:
    """``GET /console``: how many agents stand where, who is stuck, what runs, how far search is behind."""
    context, tenant = request.app[CONTEXT], tenant_of(request)
    agents, problem = await _tried(_search(context, tenant, {"scope": "threads", "by": "status", "limit": "1"}))
    stuck, no_stuck = await _tried(context.marks.at_present(tenant, {"limit": str(FEW)}))
    found, no_batches = await _tried(context.batches.page(tenant, None, FEW, None))
    return _page(
        "console/overview.html",
        refresh=True,
        conditions={**context.conditions.required, **context.conditions.reported},
        lag=context.conditions.index_lag,
        agents=agents,
        stuck=stuck,
        batches=[view(one) for one in found or ()],
        problems=[one for one in (problem, no_stuck, no_batches) if one],
    )


async def batches(request: web.Request) -> web.Response:
    """``GET /console/batches``."""
    before = request.query.get("cursor")
    found, problem = await _tried(request.app[CONTEXT].batches.page(tenant_of(request), None, PAGE + 1, before))
    shown = [view(one) for one in (found or [])[:PAGE]]
    more = shown[-1]["batch_id"] if found and len(found) > PAGE else None
    return _page("console/batches.html", refresh=before is None, batches=shown, more=more, problems=_listed(problem))


async def batch(request: web.Request) -> web.Response:
    """``GET /console/batches/{batch_id}``: how far it is, and the items that failed."""
    context, tenant = request.app[CONTEXT], tenant_of(request)
    found, problem = await _tried(context.batches.require(request.match_info["batch_id"], tenant))
    if found is None:
        return _page("console/problem.html", status=_status(problem), problems=_listed(problem))
    failed, no_items = await _tried(context.batches.items(found, ["failed"], FEW, 0))
    shown = view(found)
    return _page(
        "console/batch.html",
        refresh=shown["status"] in GOING,
        batch=shown,
        ended=[status.value for status in ENDED_ITEMS],
        failed=[item_view(found, item) for item in failed or ()],
        problems=_listed(no_items),
    )


async def search(request: web.Request) -> web.Response:
    """``GET /console/search``: past states, in the language of ``GET /search``."""
    given = {name: value for name, value in request.query.items() if name in ("q", "cursor") and value}
    found, problem = await _tried(_search(request.app[CONTEXT], tenant_of(request), {**given, "limit": str(PAGE)}))
    status = problem.status if problem else 200
    return _page("console/search.html", status=status, asked=given.get("q", ""), found=found, problems=_listed(problem))


async def thread(request: web.Request) -> web.Response:
    """``GET /console/threads/{thread_id}``: its states, newest first, also of one that is archived."""
    context, tenant = request.app[CONTEXT], tenant_of(request)
    thread_id = request.match_info["thread_id"]
    document, no_thread = await _tried(context.store.thread(thread_id, tenant))
    query = {"thread_id": thread_id, "limit": str(PAGE), **{n: v for n, v in request.query.items() if n == "cursor"}}
    found, no_search = await _tried(_search(context, tenant, query))
    if document is None and not (found and found["items"]):
        problem = no_thread or no_search or Problem(404, f"There is no thread {thread_id!r}.")
        return _page("console/problem.html", status=_status(problem), problems=_listed(problem))
    mark = (document or {}).get("archive")
    away = mark if mark and not ArchiveState(mark["state"]).lives else None
    return _page(
        "console/thread.html",
        thread_id=thread_id,
        thread={name: (document or {}).get(name) for name in SHOWN},
        archived=away,
        found=found,
        problems=[one for one in (no_thread, no_search) if one],
    )


def marked(text: str) -> Markup:
    """A highlight of a search: whatever it holds is escaped, except the tags around what was looked for."""
    return Markup().join(MARKS.get(part) or escape(visible(unescape(part))) for part in TAG.split(text))


async def _search(context: Context, tenant: str, query: Mapping[str, str]) -> Document:
    """What is found, each with its texts as they are shown: pairs of a name and a part of what stands there."""
    found = await searching.search(context.opensearch, tenant, query, EXCERPT)
    for item in found["items"]:
        item["texts"] = [(name, marked(text)) for name, texts in item["highlights"].items() for text in texts]
    return found


async def _tried(work: Awaitable[Any]) -> tuple[Any, Problem | None]:
    """What came of it, or why nothing did."""
    try:
        return await work, None
    except SearchProblem as error:
        return None, Problem(422, f"{error.pointer.removeprefix('query:')}: {error.detail}", error.position)
    except UnavailableError as error:
        return None, Problem(503, f"Search does not answer: {error.detail}")
    except RequestProblem as error:
        return None, Problem(error.status, str(error))


def _listed(problem: Problem | None) -> list[Problem]:
    return [problem] if problem else []


def _status(problem: Problem | None) -> int:
    return problem.status if problem else 404


def _page(template: str, *, status: int = 200, refresh: bool = False, **shown: Any) -> web.Response:
    return render(template, status, STYLE, at=now(), refresh=REFRESH_S if refresh else None, **shown)
