"""Schedules: make, read, change, pause, resume, trigger, backfill, remove."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from perdure.gateway.context import CONTEXT
from perdure.gateway.http.problems import invalid
from perdure.gateway.http.requests import idempotency_key, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.resources.named import require_here, unknown_thread
from perdure.gateway.schedules import (
    checked_metadata,
    firing_view,
    packed,
    refused,
    require_overlap,
    run_payload,
    schedule_view,
)
from perdure.registry.cron import BadSchedule, Overlap
from perdure.schemas.schedule_http import BackfillRequest, ScheduleCreate, ScheduleFields, SchedulePatch

PAGE = 100
MAX_PAGE = 1000
MAX_OFFSET = 100_000
POINTERS = {"cron": "/cron", "timezone": "/timezone"}
NULLABLE = frozenset({"end_at"})


async def create(request: web.Request) -> web.Response:
    """``POST /schedules``."""
    context, tenant = request.app[CONTEXT], tenant_of(request)
    wanted, body = await read_body(request, ScheduleCreate)
    if wanted.overlap is not None:
        require_overlap(wanted.overlap, wanted.thread_id)
    graph = await context.graphs.resolve(wanted.assistant_id)
    await require_thread(request, wanted.thread_id)
    fields = {**_fields(wanted), "payload": packed(_given(run_payload(body)))}
    try:
        made = await context.schedules.create(tenant, graph, wanted.thread_id, fields, paused=wanted.paused)
    except BadSchedule as problem:
        raise refused(problem, POINTERS) from problem
    return json_response(schedule_view(made), status=201, headers={"Location": f"/schedules/{made['_id']}"})


async def list_schedules(request: web.Request) -> web.Response:
    """``GET /schedules``."""
    limit = query_int(request, "limit", PAGE, low=1, high=MAX_PAGE)
    offset = query_int(request, "offset", 0, low=0, high=MAX_OFFSET)
    query: dict[str, Any] = {"tenant": tenant_of(request)}
    query |= {name: request.query[name] for name in ("thread_id", "graph_id") if name in request.query}
    found = await request.app[CONTEXT].schedules.find(query)
    return json_response([schedule_view(one) for one in found[offset : offset + limit]])


async def get(request: web.Request) -> web.Response:
    """``GET /schedules/{schedule_id}``."""
    return json_response(schedule_view(await request.app[CONTEXT].schedules.require(*_named(request))))


async def patch(request: web.Request) -> web.Response:
    """``PATCH /schedules/{schedule_id}``."""
    wanted, body = await read_body(request, SchedulePatch)
    fields = _fields(wanted)
    if payload := run_payload(body):
        fields["payload"] = payload
    return await _change(request, fields)


async def delete(request: web.Request) -> web.Response:
    """``DELETE /schedules/{schedule_id}``."""
    await request.app[CONTEXT].schedules.delete(*_named(request))
    return web.Response(status=204)


async def pause(request: web.Request) -> web.Response:
    """``POST /schedules/{schedule_id}/pause``."""
    return await _change(request, {"paused": True})


async def resume(request: web.Request) -> web.Response:
    """``POST /schedules/{schedule_id}/resume``: goes on with the next fire time from now."""
    return await _change(request, {"paused": False})


async def trigger(request: web.Request) -> web.Response:
    """``POST /schedules/{schedule_id}/trigger``."""
    fired = await request.app[CONTEXT].schedules.trigger(*_named(request), idempotency_key(request))
    return json_response(firing_view(fired))


async def backfill(request: web.Request) -> web.Response:
    """``POST /schedules/{schedule_id}/backfill``."""
    wanted, _ = await read_body(request, BackfillRequest)
    overlap = Overlap(wanted.overlap) if wanted.overlap else None
    fired = await request.app[CONTEXT].schedules.backfill(*_named(request), wanted.start, wanted.end, overlap)
    return json_response({"firings": [firing_view(one) for one in fired]})


async def require_thread(request: web.Request, thread_id: str | None) -> None:
    """Refuse a thread that does not exist, or is archived."""
    if thread_id is None:
        return
    found = await request.app[CONTEXT].store.thread(thread_id, tenant_of(request))
    if found is None:
        raise unknown_thread(thread_id)
    require_here(found)


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["schedule_id"], tenant_of(request)


async def _change(request: web.Request, fields: dict[str, Any]) -> web.Response:
    try:
        changed = await request.app[CONTEXT].schedules.change(*_named(request), fields)
    except BadSchedule as problem:
        raise refused(problem, POINTERS) from problem
    return json_response(schedule_view(changed))


def _fields(wanted: ScheduleFields) -> dict[str, Any]:
    """The document's fields that a request gives; only ``end_at`` may be taken away."""
    names = wanted.model_fields_set & {"cron", "timezone", "overlap", "catch_up_s", "end_at", "metadata"}
    fields = {name: value for name in names if (value := getattr(wanted, name)) is not None or name in NULLABLE}
    if isinstance(wanted, SchedulePatch) and "cron" in names and wanted.cron is None:
        raise invalid("/cron", "must not be null; pause or delete the schedule to stop it")
    if "metadata" in fields:
        fields["metadata"] = checked_metadata(fields["metadata"])
    return fields


def _given(payload: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if value is not None}
