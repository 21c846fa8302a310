"""Threads: make and read."""

from __future__ import annotations

import asyncio

from aiohttp import web

from perdure.chassis.clock import now
from perdure.gateway import domain
from perdure.gateway.context import CONTEXT, Context
from perdure.gateway.http.problems import RequestProblem, not_supported
from perdure.gateway.http.requests import read_body, require_metadata
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.resources.named import require_here, require_thread
from perdure.registry.runs import new_id
from perdure.registry.threads import thread_document
from perdure.schemas.http import ThreadCreate


async def create(request: web.Request) -> web.Response:
    """``POST /threads``."""
    context = request.app[CONTEXT]
    tenant = tenant_of(request)
    wanted, _ = await read_body(request, ThreadCreate)
    require_metadata(wanted.metadata)
    if wanted.supersteps:
        raise not_supported("/supersteps", "A thread cannot be made with states yet; start it with a run.")
    if wanted.ttl is not None:
        raise not_supported("/ttl", "A time to live for one thread is not supported yet; retention archives threads.")
    thread_id = wanted.thread_id or new_id()
    thread = thread_document(thread_id, tenant, wanted.metadata, now())
    if await context.store.create_thread(thread):
        return json_response(domain.thread_view(thread, busy=False, state=None), headers=_location(thread_id))
    existing = await context.store.thread(thread_id, tenant)
    if existing is None or wanted.if_exists != "do_nothing":
        raise RequestProblem(
            "thread-exists",
            f'Thread {thread_id!r} exists already. Leave thread_id out, or send if_exists: "do_nothing".',
        )
    require_here(existing)
    return json_response(await _view(context, existing), headers=_location(thread_id))


async def get(request: web.Request) -> web.Response:
    """``GET /threads/{thread_id}``."""
    context = request.app[CONTEXT]
    return json_response(await _view(context, await require_thread(context.store, request)))


async def _view(context: Context, thread: dict[str, object]) -> dict[str, object]:
    thread_id, head = str(thread["_id"]), thread.get("head")
    busy, state = await asyncio.gather(
        context.store.is_busy(thread_id),
        context.store.patiently(context.states.newest(thread_id, floor=head if isinstance(head, str) else None)),
    )
    return domain.thread_view(thread, busy=busy, state=state)


def _location(thread_id: str) -> dict[str, str]:
    return {"Location": f"/threads/{thread_id}"}
