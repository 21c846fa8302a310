"""Threads: make, read, search and count."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from perdure.chassis.clock import now
from perdure.gateway.auth.caller import caller_of, tenant_of
from perdure.gateway.auth.reach import reach_of, stamped
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.requests import read_body, request_digest, require_metadata
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, NUMBER, TEXT, Parameter, Route
from perdure.gateway.resources.named import THREAD, being_removed, require_here, require_thread
from perdure.gateway.resources.states import UPDATE, States, StateUpdates, Update
from perdure.gateway.resources.threads.changes import ThreadChanges
from perdure.gateway.resources.threads.living import ttl_mark
from perdure.gateway.resources.threads.searching import ThreadSearching
from perdure.gateway.resources.threads.views import thread_view
from perdure.gateway.stores.idempotency import SUPERSTEPS
from perdure.gateway.stores.quotas import Quotas
from perdure.gateway.stores.store import Store
from perdure.registry.runs import new_id
from perdure.registry.threads import thread_document
from perdure.schemas import http, thread_http
from perdure.schemas.documents import ThreadDocument
from perdure.schemas.scopes import Scope
from perdure.schemas.thread_http import ThreadCount, ThreadCreate, ThreadSearch
from perdure.schemas.thread_ids import stored_id

INCLUDE = Parameter("include", TEXT, "`ttl`: show the thread's time to live.")


class ThreadsResource:
    """Threads: make, read, search and count."""

    def __init__(
        self,
        store: Store,
        states: States,
        searching: ThreadSearching,
        changes: ThreadChanges,
        updates: StateUpdates,
        quotas: Quotas,
    ) -> None:
        self._store = store
        self._states = states
        self._searching = searching
        self._changes = changes
        self._updates = updates
        self._quotas = quotas

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/threads", self.create, "createThread", "Make a thread, also with states", "Threads",
                {200: http.Thread}, thread_http.ThreadCreate, problems=(*BODY, "thread-exists", *UPDATE),
                scope=Scope.THREADS_WRITE,
            ),
            Route(
                "POST", "/threads/search", self.search, "searchThreads",
                "Threads that match, whole, with `X-Pagination-Total` and `X-Pagination-Next`", "Threads",
                {200: (http.Thread,)}, thread_http.ThreadSearch, problems=(*BODY, "not-supported"),
                scope=Scope.THREADS_READ,
            ),
            Route(
                "POST", "/threads/count", self.count, "countThreads", "How many threads match", "Threads",
                {200: NUMBER}, thread_http.ThreadCount, problems=(*BODY, "not-supported"), scope=Scope.THREADS_READ,
            ),
            Route(
                "GET", "/threads/{thread_id}", self.get, "getThread", "A thread and its newest values", "Threads",
                {200: http.Thread}, parameters=(INCLUDE,), problems=THREAD, scope=Scope.THREADS_READ,
            ),
        )
        # fmt: on

    async def create(self, request: web.Request) -> web.Response:
        """``POST /threads``."""
        tenant = tenant_of(request)
        wanted, body = await read_body(request, ThreadCreate)
        require_metadata(wanted.metadata)
        thread_id = wanted.thread_id or stored_id(tenant, new_id())
        thread = thread_document(thread_id, tenant, wanted.metadata, now())
        thread.update(stamped(request))  # type: ignore[typeddict-item]
        if wanted.ttl is not None:
            thread["ttl"] = ttl_mark(wanted.ttl, thread["created_at"])
        update = _states_of(thread_id, wanted, body, request.content_length or 0, caller_of(request).auth_user)
        if update is not None:
            await self._updates.require_served(thread)
        await self._require_room(tenant, wanted.thread_id, thread_id)
        if await self._store.create_thread(thread):
            if update is None:
                return json_response(thread_view(thread, busy=False, state=None), headers=_location(thread_id))
            await self._make_states(thread, update)
            return json_response(await self._view(await self._now(thread)), headers=_location(thread_id))
        existing: Mapping[str, Any] | None = await self._store.thread(thread_id, tenant)
        if existing is None:
            raise being_removed(thread_id)
        if wanted.if_exists != "do_nothing" or not reach_of(request).covers(existing):
            raise RequestProblem(
                "thread-exists",
                f'Thread {thread_id!r} exists already. Leave thread_id out, or send if_exists: "do_nothing".',
            )
        require_here(existing)
        if update is not None and not await self._has_states(existing):
            await self._updates.apply(existing, update)
            existing = await self._now(existing)
        return json_response(await self._view(existing), headers=_location(thread_id))

    async def _require_room(self, tenant: str, chosen: str | None, thread_id: str) -> None:
        """Refuse a thread over the tenant's limit; one that is there already is answered as it is."""
        try:
            await self._quotas.threads(tenant)
        except RequestProblem:
            if chosen is None or await self._store.thread(thread_id, tenant) is None:
                raise

    async def _now(self, thread: Mapping[str, Any]) -> Mapping[str, Any]:
        """The thread's document after a change of its states."""
        return await self._store.thread(str(thread["_id"]), str(thread["tenant"])) or thread

    async def _make_states(self, thread: ThreadDocument, update: Update) -> None:
        """Make the states of a new thread; where they are refused the thread is not there."""
        try:
            await self._updates.apply(thread, update)
        except RequestProblem as problem:
            if problem.problem.type.endswith(":update-refused"):
                await self._changes.remove(thread)
            raise

    async def _has_states(self, thread: Mapping[str, Any]) -> bool:
        """Whether a thread has states of another origin than the request that made it."""
        key = f"{SUPERSTEPS}{thread['_id']}"
        if (earlier := await self._store.run_of_key(str(thread["tenant"]), key)) is not None:
            if "refused" not in (earlier.get("update") or {}):
                return False  # this request, or one like it: it is answered the same
            return bool(thread.get("ended_run_id"))
        return bool(thread.get("seq")) or await self._store.is_busy(str(thread["_id"]))

    async def get(self, request: web.Request) -> web.Response:
        """``GET /threads/{thread_id}``."""
        ttl = "ttl" in {name.strip() for name in request.query.get("include", "").split(",")}
        return json_response(await self._view(await require_thread(self._store, request), ttl=ttl))

    async def search(self, request: web.Request) -> web.Response:
        """``POST /threads/search``."""
        wanted, _ = await read_body(request, ThreadSearch)
        found, more = await self._searching.page(tenant_of(request), wanted, reach_of(request))
        return json_response(found, headers=page_headers(wanted.offset or 0, len(found), more=more))

    async def count(self, request: web.Request) -> web.Response:
        """``POST /threads/count``."""
        wanted, _ = await read_body(request, ThreadCount)
        return json_response(await self._searching.count(tenant_of(request), wanted, reach_of(request)))

    async def _view(self, thread: Mapping[str, Any], *, ttl: bool = False) -> dict[str, Any]:
        thread_id, head = str(thread["_id"]), thread.get("head")
        busy, state = await asyncio.gather(
            self._store.is_busy(thread_id),
            self._store.patiently(self._states.newest(thread_id, floor=head if isinstance(head, str) else None)),
        )
        return thread_view(thread, busy=busy, state=state, ttl=ttl)


def _states_of(thread_id: str, wanted: ThreadCreate, body: Any, nbytes: int, user: bytes | None) -> Update | None:
    """The states that a thread is to be made with, once for its id."""
    if not wanted.supersteps:
        return None
    given = body["supersteps"]
    return Update(
        supersteps=[[dict(one) for one in superstep["updates"]] for superstep in given],
        key=(f"{SUPERSTEPS}{thread_id}", request_digest("/threads", given)),
        nbytes=nbytes,
        user=user,
    )


def _location(thread_id: str) -> dict[str, str]:
    return {"Location": f"/threads/{thread_id}"}


def page_headers(offset: int, shown: int, *, more: bool) -> dict[str, str]:
    """The Agent Server's headers: the total where the page is the last one, else one more than is known so far."""
    following = offset + shown
    if not more:
        return {"X-Pagination-Total": str(following)}
    return {"X-Pagination-Total": str(following + 1), "X-Pagination-Next": str(following)}
