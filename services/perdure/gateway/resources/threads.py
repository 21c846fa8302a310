"""Threads: make and read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from perdure.chassis.clock import now
from perdure.gateway.http.problems import RequestProblem, not_supported
from perdure.gateway.http.requests import read_body, require_metadata
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, Route
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.resources.named import THREAD, require_here, require_thread
from perdure.gateway.resources.states import States
from perdure.gateway.stores.store import Store
from perdure.registry.runs import new_id
from perdure.registry.threads import thread_document
from perdure.schemas import http
from perdure.schemas.documents import ThreadStatus
from perdure.schemas.http import ThreadCreate

Document = dict[str, Any]


class ThreadsResource:
    """Threads: make and read."""

    def __init__(self, store: Store, states: States) -> None:
        self._store = store
        self._states = states

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/threads", self.create, "createThread", "Make a thread", "Threads",
                {200: http.Thread}, http.ThreadCreate, problems=(*BODY, "thread-exists", "not-supported"),
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
        if existing is None or wanted.if_exists != "do_nothing":
            raise RequestProblem(
                "thread-exists",
                f'Thread {thread_id!r} exists already. Leave thread_id out, or send if_exists: "do_nothing".',
            )
        require_here(existing)
        return json_response(await self._view(existing), headers=_location(thread_id))

    async def get(self, request: web.Request) -> web.Response:
        """``GET /threads/{thread_id}``."""
        return json_response(await self._view(await require_thread(self._store, request)))

    async def _view(self, thread: dict[str, object]) -> dict[str, object]:
        thread_id, head = str(thread["_id"]), thread.get("head")
        busy, state = await asyncio.gather(
            self._store.is_busy(thread_id),
            self._store.patiently(self._states.newest(thread_id, floor=head if isinstance(head, str) else None)),
        )
        return thread_view(thread, busy=busy, state=state)


def _location(thread_id: str) -> dict[str, str]:
    return {"Location": f"/threads/{thread_id}"}


def thread_view(thread: Mapping[str, Any], *, busy: bool, state: Mapping[str, Any] | None) -> Document:
    """A thread as clients see it, with the values and interrupts of its newest state."""
    metadata = dict(thread.get("metadata") or {})
    for name in ("graph_id", "assistant_id"):
        if thread.get(name):
            metadata.setdefault(name, thread[name])
    interrupts = {task["id"]: task["interrupts"] for task in state["tasks"] if task["interrupts"]} if state else {}
    return {
        "thread_id": thread["_id"],
        "created_at": thread["created_at"],
        "updated_at": thread.get("updated_at") or thread["created_at"],
        "state_updated_at": state["created_at"] if state else None,
        "metadata": metadata,
        "status": thread_status(thread, busy=busy),
        "config": {},
        "values": state["values"] if state else None,
        "interrupts": interrupts,
        "waits": state["waits"] if state else [],
        "error": thread.get("error"),
        "stuck": stuck_view(thread["stuck"]) if thread.get("stuck") else None,
    }


def thread_status(thread: Mapping[str, Any], *, busy: bool) -> str:
    """A thread's status as clients see it; ``busy``: a run of it is pending or running, which its document does not say."""
    return ThreadStatus.BUSY.value if busy else thread.get("status") or ThreadStatus.IDLE.value


def stuck_view(mark: Mapping[str, Any]) -> Document:
    """Why a thread is stuck, as clients see it."""
    return {name: mark.get(name) for name in ("code", "reason", "node", "since", "expected_by", "run_id", "noticed_at")}
