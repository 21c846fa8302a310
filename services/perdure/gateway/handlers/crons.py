"""The Agent Server's crons: the same schedules under its paths and names, for its unmodified clients."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from perdure.gateway.context import CONTEXT
from perdure.gateway.handlers.schedules import require_thread
from perdure.gateway.http.problems import not_supported
from perdure.gateway.http.requests import read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.schedules import checked_metadata, cron_view, packed, refused, run_payload
from perdure.registry.cron import BadSchedule, Overlap
from perdure.registry.runs import assistant_id_of
from perdure.schemas.schedule_http import CronCreate, CronFields, CronPatch, CronQuery, CronSearch

POINTERS = {"cron": "/schedule", "timezone": "/timezone"}
POLICIES = {"enqueue": Overlap.QUEUE, "reject": Overlap.SKIP, "interrupt": Overlap.CANCEL_OTHER}
"""By ``multitask_strategy``, of the crons of a thread."""


async def create(request: web.Request) -> web.Response:
    """``POST /runs/crons``: a new thread for each run, whatever becomes of the others."""
    return await _create(request, None)


async def create_on_thread(request: web.Request) -> web.Response:
    """``POST /threads/{thread_id}/runs/crons``."""
    return await _create(request, request.match_info["thread_id"])


async def search(request: web.Request) -> web.Response:
    """``POST /runs/crons/search``."""
    wanted, _ = await read_body(request, CronSearch)
    found = [cron_view(one) for one in await _found(request, wanted)]
    if wanted.sort_by is not None:
        name = wanted.sort_by
        found.sort(key=lambda one: (one[name] is not None, one[name] or ""))
    if wanted.sort_order == "desc" or (wanted.sort_by is None and wanted.sort_order is None):
        found.reverse()  # the newest first, as the Agent Server does
    page = found[wanted.offset : wanted.offset + wanted.limit]
    if wanted.select:
        page = [{name: one[name] for name in wanted.select if name in one} for one in page]
    return json_response(page)


async def count(request: web.Request) -> web.Response:
    """``POST /runs/crons/count``."""
    wanted, _ = await read_body(request, CronQuery)
    return json_response(len(await _found(request, wanted)))


async def get(request: web.Request) -> web.Response:
    """``GET /runs/crons/{cron_id}``."""
    return json_response(cron_view(await request.app[CONTEXT].schedules.require(*_named(request))))


async def patch(request: web.Request) -> web.Response:
    """``PATCH /runs/crons/{cron_id}``."""
    wanted, body = await read_body(request, CronPatch)
    fields = _fields(wanted)
    if payload := run_payload(body):
        fields["payload"] = payload
    if wanted.enabled is not None:
        fields["paused"] = not wanted.enabled
    try:
        changed = await request.app[CONTEXT].schedules.change(*_named(request), fields)
    except BadSchedule as problem:
        raise refused(problem, POINTERS) from problem
    return json_response(cron_view(changed))


async def delete(request: web.Request) -> web.Response:
    """``DELETE /runs/crons/{cron_id}``."""
    await request.app[CONTEXT].schedules.delete(*_named(request))
    return json_response({})


async def _create(request: web.Request, thread_id: str | None) -> web.Response:
    context = request.app[CONTEXT]
    wanted, body = await read_body(request, CronCreate)
    if wanted.multitask_strategy == "rollback":
        raise not_supported("/multitask_strategy", 'multitask_strategy "rollback" is not supported yet.')
    graph = await context.graphs.resolve(wanted.assistant_id)
    await require_thread(request, thread_id)
    overlap = Overlap.ALLOW if thread_id is None else POLICIES[wanted.multitask_strategy or "enqueue"]
    payload = packed({name: value for name, value in run_payload(body).items() if value is not None})
    fields = {**_fields(wanted), "overlap": overlap.value, "payload": payload}
    paused = wanted.enabled is False
    try:
        made = await context.schedules.create(tenant_of(request), graph, thread_id, fields, paused=paused)
    except BadSchedule as problem:
        raise refused(problem, POINTERS) from problem
    return json_response(cron_view(made))


def _fields(wanted: CronFields) -> dict[str, Any]:
    """The document's fields that a request gives."""
    if wanted.on_run_completed == "delete":
        raise not_supported("/on_run_completed", 'on_run_completed "delete" is not supported yet; threads are kept.')
    fields: dict[str, Any] = {}
    if wanted.schedule is not None:
        fields["cron"] = wanted.schedule
    if wanted.timezone is not None:
        fields["timezone"] = wanted.timezone
    if "end_time" in wanted.model_fields_set:
        fields["end_at"] = wanted.end_time
    if wanted.metadata is not None:
        fields["metadata"] = checked_metadata(wanted.metadata)
    return fields


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["cron_id"], tenant_of(request)


async def _found(request: web.Request, wanted: CronQuery) -> list[dict[str, Any]]:
    query: dict[str, Any] = {"tenant": tenant_of(request)}
    if wanted.assistant_id is not None:
        # A graph id, or the assistant id of a graph that no worker needs to serve any more.
        query["assistant_id"] = {"$in": [wanted.assistant_id, assistant_id_of(wanted.assistant_id)]}
    if wanted.thread_id is not None:
        query["thread_id"] = wanted.thread_id
    if wanted.enabled is not None:
        query["paused"] = not wanted.enabled
    found = await request.app[CONTEXT].schedules.find(query)
    metadata = wanted.metadata or {}
    return [one for one in found if all(one["metadata"].get(name) == value for name, value in metadata.items())]
