"""Schedules: make, read, change, pause, resume, trigger, backfill, remove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from perdure.chassis.payload import unpack
from perdure.gateway.auth.caller import caller_of, tenant_of
from perdure.gateway.auth.reach import reach_of, stamped
from perdure.gateway.http.problems import invalid
from perdure.gateway.http.requests import idempotency_key, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, TEXT, Parameter, Route, idempotency_key_of, page_of
from perdure.gateway.http.thread_ids import query_thread
from perdure.gateway.resources.named import THREAD, require_here, unknown_thread
from perdure.gateway.resources.schedules.fields import (
    checked_metadata,
    firing_view,
    packed,
    refused,
    require_overlap,
    run_payload,
    schedule_view,
)
from perdure.gateway.resources.schedules.store import ScheduleStore
from perdure.gateway.stores.graphs import ServedGraphs
from perdure.gateway.stores.store import Store
from perdure.registry.cron import BadSchedule, Overlap
from perdure.schemas import schedule_http
from perdure.schemas.schedule_http import BackfillRequest, ScheduleCreate, ScheduleFields, SchedulePatch
from perdure.schemas.scopes import Scope

PAGE = 100
MAX_PAGE = 1000
MAX_OFFSET = 100_000
POINTERS = {"cron": "/cron", "timezone": "/timezone"}
NULLABLE = frozenset({"end_at"})
OFFSET = Parameter("offset", {"type": "integer", "minimum": 0, "default": 0})


class SchedulesResource:
    """Schedules: make, read, change, pause, resume, trigger, backfill, remove."""

    def __init__(self, store: Store, graphs: ServedGraphs, schedules: ScheduleStore) -> None:
        self._store = store
        self._graphs = graphs
        self._schedules = schedules

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/schedules", self.create, "createSchedule", "Start runs by the clock", "Schedules",
                {201: schedule_http.Schedule}, schedule_http.ScheduleCreate,
                problems=(*BODY, "unknown-graph", *THREAD, "not-ready"), scope=Scope.SCHEDULES_WRITE,
            ),
            Route(
                "GET", "/schedules", self.list_schedules, "listSchedules", "Schedules, oldest first", "Schedules",
                {200: (schedule_http.Schedule,)},
                parameters=(page_of(100, 1000), OFFSET, Parameter("thread_id", TEXT), Parameter("graph_id", TEXT)),
                scope=Scope.SCHEDULES_READ,
            ),
            Route(
                "GET", "/schedules/{schedule_id}", self.get, "getSchedule", "A schedule", "Schedules",
                {200: schedule_http.Schedule}, problems=("unknown-schedule",), scope=Scope.SCHEDULES_READ,
            ),
            Route(
                "PATCH", "/schedules/{schedule_id}", self.patch, "updateSchedule", "Change a schedule", "Schedules",
                {200: schedule_http.Schedule}, schedule_http.SchedulePatch,
                problems=(*BODY, "unknown-schedule", "schedule-busy"), scope=Scope.SCHEDULES_WRITE,
            ),
            Route(
                "DELETE", "/schedules/{schedule_id}", self.delete, "deleteSchedule",
                "Remove a schedule; its runs go on", "Schedules", {204: "Removed."}, problems=("unknown-schedule",),
                scope=Scope.SCHEDULES_WRITE,
            ),
            Route(
                "POST", "/schedules/{schedule_id}/pause", self.pause, "pauseSchedule", "Fire no more", "Schedules",
                {200: schedule_http.Schedule}, problems=("unknown-schedule", "schedule-busy"),
                scope=Scope.SCHEDULES_WRITE,
            ),
            Route(
                "POST", "/schedules/{schedule_id}/resume", self.resume, "resumeSchedule",
                "Go on with the next fire time; what was missed is not made up", "Schedules", {200: schedule_http.Schedule},
                problems=("unknown-schedule", "schedule-busy"), scope=Scope.SCHEDULES_WRITE,
            ),
            Route(
                "POST", "/schedules/{schedule_id}/trigger", self.trigger, "triggerSchedule", "Fire now", "Schedules",
                {200: schedule_http.ScheduleFiring},
                parameters=(idempotency_key_of("The same key answers the run that it started."),),
                problems=("unknown-schedule", "schedule-busy"), scope=Scope.SCHEDULES_WRITE,
            ),
            Route(
                "POST", "/schedules/{schedule_id}/backfill", self.backfill, "backfillSchedule",
                "Fire the times of a past period that were not fired", "Schedules", {200: schedule_http.Backfilled},
                schedule_http.BackfillRequest, problems=(*BODY, "unknown-schedule", "schedule-busy"),
                scope=Scope.SCHEDULES_WRITE,
            ),
        )
        # fmt: on

    async def create(self, request: web.Request) -> web.Response:
        """``POST /schedules``."""
        tenant = tenant_of(request)
        wanted, body = await read_body(request, ScheduleCreate)
        if wanted.overlap is not None:
            require_overlap(wanted.overlap, wanted.thread_id)
        graph = await self._graphs.resolve(wanted.assistant_id)
        await require_schedulable(self._store, request, wanted.thread_id)
        fields = {**_fields(wanted), "payload": packed(_given(run_payload(body))), **owned(request)}
        try:
            made = await self._schedules.create(tenant, graph, wanted.thread_id, fields, paused=wanted.paused)
        except BadSchedule as problem:
            raise refused(problem, POINTERS) from problem
        return json_response(_view(made), status=201, headers={"Location": f"/schedules/{made['_id']}"})

    async def list_schedules(self, request: web.Request) -> web.Response:
        """``GET /schedules``."""
        limit = query_int(request, "limit", PAGE, low=1, high=MAX_PAGE)
        offset = query_int(request, "offset", 0, low=0, high=MAX_OFFSET)
        query: dict[str, Any] = {"tenant": tenant_of(request)}
        query |= {"graph_id": request.query["graph_id"]} if "graph_id" in request.query else {}
        if (thread_id := query_thread(request)) is not None:
            query["thread_id"] = thread_id
        query |= {"$and": clauses} if (clauses := reach_of(request).clauses()) else {}
        found = await self._schedules.find(query)
        page = found[offset : offset + limit]
        payloads = await self._schedules.payloads_of(page)
        return json_response([schedule_view(one, payloads.get(one["_id"])) for one in page])

    async def get(self, request: web.Request) -> web.Response:
        """``GET /schedules/{schedule_id}``."""
        return json_response(_view(await self._schedules.require(*_named(request))))

    async def patch(self, request: web.Request) -> web.Response:
        """``PATCH /schedules/{schedule_id}``."""
        wanted, body = await read_body(request, SchedulePatch)
        fields = _fields(wanted)
        if payload := run_payload(body):
            fields["payload"] = payload
        return await self._change(request, fields)

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /schedules/{schedule_id}``."""
        await self._schedules.delete(*_named(request))
        return web.Response(status=204)

    async def pause(self, request: web.Request) -> web.Response:
        """``POST /schedules/{schedule_id}/pause``."""
        return await self._change(request, {"paused": True})

    async def resume(self, request: web.Request) -> web.Response:
        """``POST /schedules/{schedule_id}/resume``: goes on with the next fire time from now."""
        return await self._change(request, {"paused": False})

    async def trigger(self, request: web.Request) -> web.Response:
        """``POST /schedules/{schedule_id}/trigger``."""
        fired = await self._schedules.trigger(*_named(request), idempotency_key(request))
        return json_response(firing_view(fired))

    async def backfill(self, request: web.Request) -> web.Response:
        """``POST /schedules/{schedule_id}/backfill``."""
        wanted, _ = await read_body(request, BackfillRequest)
        overlap = Overlap(wanted.overlap) if wanted.overlap else None
        fired = await self._schedules.backfill(*_named(request), wanted.start, wanted.end, overlap)
        return json_response({"firings": [firing_view(one) for one in fired]})

    async def _change(self, request: web.Request, fields: dict[str, Any]) -> web.Response:
        try:
            known = await self._schedules.require(*_named(request))
            changed = await self._schedules.change(*_named(request), protected(request, known, fields))
        except BadSchedule as problem:
            raise refused(problem, POINTERS) from problem
        return json_response(_view(changed))


def owned(request: web.Request) -> dict[str, Any]:
    """The fields of a new schedule's document that clients cannot write: who makes it, and what ``auth`` handlers put on it."""
    user = caller_of(request).auth_user
    return stamped(request) if user is None else {"user": user, **stamped(request)}


def protected(request: web.Request, known: Mapping[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a change, so that the metadata keeps what ``auth`` handlers put there."""
    stamp = reach_of(request).stamp()
    auth = {**(known.get("auth") or {}), **stamp}
    if auth and (stamp or "metadata" in fields):
        fields["metadata"] = {**fields.get("metadata", known.get("metadata") or {}), **auth}
    return {**fields, **({"auth": auth} if stamp else {})}


async def require_schedulable(store: Store, request: web.Request, thread_id: str | None) -> None:
    """Refuse a thread that does not exist, or is archived."""
    if thread_id is None:
        return
    found = await store.thread(thread_id, tenant_of(request))
    if found is None:
        raise unknown_thread(thread_id)
    require_here(found)


def _view(schedule: Mapping[str, Any]) -> dict[str, Any]:
    return schedule_view(schedule, unpack(schedule["payload"]))


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["schedule_id"], tenant_of(request)


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
