"""Archived threads: legal holds, bringing them back, what a thread takes up."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from perdure.chassis.clock import now
from perdure.gateway.archive import archived_view
from perdure.gateway.context import CONTEXT
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.requests import read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.resources.named import being_purged, require_known
from perdure.schemas.archive_http import HoldRequest, RestoreRequest
from perdure.schemas.documents import ArchiveState, HoldMark


async def hold(request: web.Request) -> web.Response:
    """``PUT /threads/{thread_id}/hold``."""
    wanted, _ = await read_body(request, HoldRequest)
    thread_id = str((await require_known(request.app[CONTEXT].store, request))["_id"])
    mark: HoldMark = {"by": wanted.by, "reason": wanted.reason, "at": now()}
    if not await request.app[CONTEXT].archive.hold(thread_id, tenant_of(request), mark):
        raise RequestProblem("unknown-thread", f"Thread {thread_id!r} is being purged, or is gone: it cannot be held.")
    return json_response(mark)


async def release(request: web.Request) -> web.Response:
    """``DELETE /threads/{thread_id}/hold``."""
    thread_id = str((await require_known(request.app[CONTEXT].store, request))["_id"])
    await request.app[CONTEXT].archive.hold(thread_id, tenant_of(request), None)
    return web.Response(status=204)


async def restore(request: web.Request) -> web.Response:
    """``POST /threads/{thread_id}/restore``: 202; the scheduler brings it back."""
    context = request.app[CONTEXT]
    wanted, _ = await read_body(request, RestoreRequest)
    thread_id = str((await require_known(request.app[CONTEXT].store, request))["_id"])
    await context.archive.want_back(thread_id, tenant_of(request), wanted.by)
    mark: Any = (await require_known(request.app[CONTEXT].store, request)).get("archive")
    if mark is None or mark["state"] != ArchiveState.RESTORING:
        raise RequestProblem("thread-not-archived", _not_archived(thread_id, mark))
    headers = {"Location": f"/threads/{thread_id}", "Retry-After": "1"}
    return json_response(archived_view(mark), status=202, headers=headers)


async def storage(request: web.Request) -> web.Response:
    """``GET /threads/{thread_id}/storage``."""
    thread = await require_known(request.app[CONTEXT].store, request)
    return json_response(await request.app[CONTEXT].archive.storage(thread))


def _not_archived(thread_id: str, mark: Any) -> str:
    if mark is None:
        return f"Thread {thread_id!r} is not archived; there is nothing to bring back."
    if mark["state"] == ArchiveState.PURGING:
        return being_purged(thread_id)
    return f"Thread {thread_id!r} is on its way ({mark['state']}) at this moment. Ask again in a moment."
