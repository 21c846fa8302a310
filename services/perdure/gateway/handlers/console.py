"""The console: pages that show what goes on, for people. They change nothing.

Contract: each page shows what the API would answer, of the same tenant. A server that is away takes its part of a page with it and no
more: that part says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web
from markupsafe import Markup, escape

from perdure.chassis.errors import UnavailableError
from perdure.gateway import search as searching
from perdure.gateway.batch_results import item_view
from perdure.gateway.context import CONTEXT, Context
from perdure.gateway.handlers.batches import view
from perdure.gateway.middleware import tenant_of
from perdure.gateway.pages import render
from perdure.gateway.problems import RequestProblem
from perdure.gateway.search import SearchProblem
from perdure.schemas.batch_documents import ENDED_ITEMS, BatchStatus
from perdure.schemas.documents import ArchiveState

STYLE: Final = "console.css"
REFRESH_S: Final = 5
FEW: Final = 10
PAGE: Final = 50
MARKS: Final = ("<em>", "</em>")
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
    for item in (found or {}).get("items", ()):
        item["marked"] = [marked(text) for texts in (item.get("highlights") or {}).values() for text in texts]
    return _page("console/search.html", asked=given.get("q", ""), found=found, problems=_listed(problem))


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
        thread=document or {},
        archived=away,
        found=found,
        problems=[one for one in (no_thread, no_search) if one],
    )


def marked(text: str) -> Markup:
    """What was found, with the words that were looked for: OpenSearch escapes the text, and nothing of it is trusted all the same."""
    whole = escape(Markup(text.replace(MARKS[0], "\x01").replace(MARKS[1], "\x02")).unescape())
    return Markup(str(whole).replace("\x01", "<mark>").replace("\x02", "</mark>"))  # noqa: S704 - escaped above


async def _search(context: Context, tenant: str, query: Mapping[str, str]) -> Document:
    return await searching.search(context.opensearch, tenant, query)


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
    return render(template, status, STYLE, at=datetime.now(UTC), refresh=REFRESH_S if refresh else None, **shown)
