"""Threads: make, read, search and count."""

from __future__ import annotations

import asyncio

from aiohttp import web

from perdure.chassis.clock import now
from perdure.gateway.http.problems import RequestProblem, not_supported
from perdure.gateway.http.requests import read_body, require_metadata
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, NUMBER, Route
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.resources.named import THREAD, being_removed, require_here, require_thread
from perdure.gateway.resources.states import States
from perdure.gateway.resources.threads.searching import ThreadSearching
from perdure.gateway.resources.threads.views import thread_view
from perdure.gateway.stores.store import Store
from perdure.registry.runs import new_id
from perdure.registry.threads import thread_document
from perdure.schemas import http, thread_http
from perdure.schemas.http import ThreadCreate
from perdure.schemas.thread_http import ThreadCount, ThreadSearch


class ThreadsResource:
    """Threads: make, read, search and count."""

    def __init__(self, store: Store, states: States, searching: ThreadSearching) -> None:
        self._store = store
        self._states = states
        self._searching = searching

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/threads", self.create, "createThread", "Make a thread", "Threads",
                {200: http.Thread}, http.ThreadCreate, problems=(*BODY, "thread-exists", "not-supported"),
            ),
            Route(
                "POST", "/threads/search", self.search, "searchThreads",
                "Threads that match, whole, with `X-Pagination-Total` and `X-Pagination-Next`", "Threads",
                {200: (http.Thread,)}, thread_http.ThreadSearch, problems=(*BODY, "not-supported"),
            ),
            Route(
                "POST", "/threads/count", self.count, "countThreads", "How many threads match", "Threads",
                {200: NUMBER}, thread_http.ThreadCount, problems=(*BODY, "not-supported"),
            ),
            Route(
                "GET", "/threads/{thread_id}", self.get, "getThread", "A thread and its newest values", "Threads",
                {200: http.Thread}, problems=THREAD,
            ),
        )
        # fmt: on

    async def create(self, request: web.Request) -> web.Response:
        """``POST /threads``."""
        tenant = tenant_of(request)
        wanted, _ = await read_body(request, ThreadCreate)
        require_metadata(wanted.metadata)
        if wanted.supersteps:
            raise not_supported("/supersteps", "A thread cannot be made with states yet; start it with a run.")
        if wanted.ttl is not None:
            raise not_supported(
                "/ttl", "A time to live for one thread is not supported yet; retention archives threads."
            )
        thread_id = wanted.thread_id or new_id()
        thread = thread_document(thread_id, tenant, wanted.metadata, now())
        if await self._store.create_thread(thread):
            return json_response(thread_view(thread, busy=False, state=None), headers=_location(thread_id))
        existing = await self._store.thread(thread_id, tenant)
        if existing is None:
            raise being_removed(thread_id)
        if wanted.if_exists != "do_nothing":
            raise RequestProblem(
                "thread-exists",
                f'Thread {thread_id!r} exists already. Leave thread_id out, or send if_exists: "do_nothing".',
            )
        require_here(existing)
        return json_response(await self._view(existing), headers=_location(thread_id))

    async def get(self, request: web.Request) -> web.Response:
        """``GET /threads/{thread_id}``."""
        return json_response(await self._view(await require_thread(self._store, request)))

    async def search(self, request: web.Request) -> web.Response:
        """``POST /threads/search``."""
        wanted, _ = await read_body(request, ThreadSearch)
        found, more = await self._searching.page(tenant_of(request), wanted)
        return json_response(found, headers=page_headers(wanted.offset or 0, len(found), more=more))

    async def count(self, request: web.Request) -> web.Response:
        """``POST /threads/count``."""
        wanted, _ = await read_body(request, ThreadCount)
        return json_response(await self._searching.count(tenant_of(request), wanted))

    async def _view(self, thread: dict[str, object]) -> dict[str, object]:
        thread_id, head = str(thread["_id"]), thread.get("head")
        busy, state = await asyncio.gather(
            self._store.is_busy(thread_id),
            self._store.patiently(self._states.newest(thread_id, floor=head if isinstance(head, str) else None)),
        )
        return thread_view(thread, busy=busy, state=state)


def _location(thread_id: str) -> dict[str, str]:
    return {"Location": f"/threads/{thread_id}"}


def page_headers(offset: int, shown: int, *, more: bool) -> dict[str, str]:
    """The Agent Server's headers: the total where the page is the last one, else one more than is known so far."""
    following = offset + shown
    if not more:
        return {"X-Pagination-Total": str(following)}
    return {"X-Pagination-Total": str(following + 1), "X-Pagination-Next": str(following)}
