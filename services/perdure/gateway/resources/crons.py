"""The Agent Server's crons: the same schedules under its paths and names, for its unmodified clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from perdure.chassis.payload import unpack
from perdure.gateway.auth.caller import tenant_of
from perdure.gateway.auth.reach import reach_of
from perdure.gateway.http.cursors import Document
from perdure.gateway.http.problems import RequestProblem, not_supported
from perdure.gateway.http.requests import read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, NUMBER, Plain, Route
from perdure.gateway.resources.named import THREAD
from perdure.gateway.resources.schedules import (
    ScheduleStore,
    checked_metadata,
    owned,
    packed,
    protected,
    refused,
    require_schedulable,
    run_payload,
)
from perdure.gateway.stores.graphs import ServedGraphs
from perdure.gateway.stores.store import Store
from perdure.registry.cron import BadSchedule, Overlap
from perdure.registry.deliveries import shown_request
from perdure.registry.runs import assistant_id_of
from perdure.schemas import schedule_http
from perdure.schemas.schedule_http import CronCreate, CronFields, CronPatch, CronQuery, CronSearch
from perdure.schemas.scopes import Scope

POINTERS = {"cron": "/schedule", "timezone": "/timezone"}
POLICIES = {
    "enqueue": Overlap.QUEUE,
    "reject": Overlap.SKIP,
    "interrupt": Overlap.CANCEL_OTHER,
    "rollback": Overlap.ROLLBACK_OTHER,
}
"""By ``multitask_strategy``, of the crons of a thread."""


class CronsResource:
    """Schedules in the Agent Server's shape of crons."""

    def __init__(self, store: Store, graphs: ServedGraphs, schedules: ScheduleStore) -> None:
        self._store = store
        self._graphs = graphs
        self._schedules = schedules

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/runs/crons", self.create, "createCron", "A schedule, in the Agent Server's shape", "Crons",
                {200: schedule_http.Cron}, schedule_http.CronCreate,
                problems=(*BODY, "unknown-graph", "not-supported", "not-ready"), scope=Scope.SCHEDULES_WRITE,
            ),
            Route(
                "POST", "/threads/{thread_id}/runs/crons", self.create_on_thread, "createThreadCron",
                "A schedule of one thread, in the Agent Server's shape", "Crons", {200: schedule_http.Cron},
                schedule_http.CronCreate, problems=(*BODY, "unknown-graph", *THREAD, "not-supported", "not-ready"),
                scope=Scope.SCHEDULES_WRITE,
            ),
            Route(
                "POST", "/runs/crons/search", self.search, "searchCrons", "Crons, newest first", "Crons",
                {200: (schedule_http.Cron,)}, schedule_http.CronSearch, problems=BODY, scope=Scope.SCHEDULES_READ,
            ),
            Route(
                "POST", "/runs/crons/count", self.count, "countCrons", "How many crons", "Crons", {200: NUMBER},
                schedule_http.CronQuery, problems=BODY, scope=Scope.SCHEDULES_READ,
            ),
            Route(
                "GET", "/runs/crons/{cron_id}", self.get, "getCron", "A cron", "Crons", {200: schedule_http.Cron},
                problems=("unknown-schedule",), scope=Scope.SCHEDULES_READ,
            ),
            Route(
                "PATCH", "/runs/crons/{cron_id}", self.patch, "updateCron", "Change a cron", "Crons",
                {200: schedule_http.Cron}, schedule_http.CronPatch,
                problems=(*BODY, "unknown-schedule", "schedule-busy", "not-supported"), scope=Scope.SCHEDULES_WRITE,
            ),
            Route(
                "DELETE", "/runs/crons/{cron_id}", self.delete, "deleteCron", "Remove a cron; its runs go on", "Crons",
                {200: Plain("An empty object.", {"type": "object"})}, problems=("unknown-schedule",),
                scope=Scope.SCHEDULES_WRITE,
            ),
        )
        # fmt: on

    async def create(self, request: web.Request) -> web.Response:
        """``POST /runs/crons``: a new thread for each run, whatever becomes of the others."""
        return await self._create(request, None)

    async def create_on_thread(self, request: web.Request) -> web.Response:
        """``POST /threads/{thread_id}/runs/crons``."""
        return await self._create(request, request.match_info["thread_id"])

    async def search(self, request: web.Request) -> web.Response:
        """``POST /runs/crons/search``."""
        wanted, _ = await read_body(request, CronSearch)
        found = [cron_view(one, None) for one in await self._found(request, wanted)]
        if wanted.sort_by is not None:
            name = wanted.sort_by
            found.sort(key=lambda one: (one[name] is not None, one[name] or ""))
        if wanted.sort_order == "desc" or (wanted.sort_by is None and wanted.sort_order is None):
            found.reverse()  # the newest first, as the Agent Server does
        page = found[wanted.offset : wanted.offset + wanted.limit]
        if not wanted.select or "payload" in wanted.select:
            payloads = await self._schedules.payloads_of([{"_id": one["cron_id"]} for one in page])
            for one in page:
                one["payload"] |= payloads.get(one["cron_id"], {})
        if wanted.select:
            page = [{name: one[name] for name in wanted.select if name in one} for one in page]
        return json_response(page)

    async def count(self, request: web.Request) -> web.Response:
        """``POST /runs/crons/count``."""
        wanted, _ = await read_body(request, CronQuery)
        return json_response(len(await self._found(request, wanted)))

    async def get(self, request: web.Request) -> web.Response:
        """``GET /runs/crons/{cron_id}``."""
        return json_response(_view(await self._schedules.require(*_named(request))))

    async def patch(self, request: web.Request) -> web.Response:
        """``PATCH /runs/crons/{cron_id}``."""
        wanted, body = await read_body(request, CronPatch)
        if wanted.on_run_completed == "delete" and (await self._schedules.require(*_named(request)))["thread_id"]:
            raise _no_deletion()
        fields = _fields(wanted)
        if payload := run_payload(body):
            fields["payload"] = payload
        if wanted.enabled is not None:
            fields["paused"] = not wanted.enabled
        try:
            known = await self._schedules.require(*_named(request))
            changed = await self._schedules.change(*_named(request), protected(request, known, fields))
        except BadSchedule as problem:
            raise refused(problem, POINTERS) from problem
        return json_response(_view(changed))

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /runs/crons/{cron_id}``."""
        await self._schedules.delete(*_named(request))
        return json_response({})

    async def _create(self, request: web.Request, thread_id: str | None) -> web.Response:
        wanted, body = await read_body(request, CronCreate)
        if wanted.on_run_completed == "delete" and thread_id is not None:
            raise _no_deletion()
        graph = await self._graphs.resolve(wanted.assistant_id)
        await require_schedulable(self._store, request, thread_id)
        overlap = Overlap.ALLOW if thread_id is None else POLICIES[wanted.multitask_strategy or "enqueue"]
        payload = packed({name: value for name, value in run_payload(body).items() if value is not None})
        fields = {**_fields(wanted), "overlap": overlap.value, "payload": payload, **owned(request)}
        paused = wanted.enabled is False
        try:
            made = await self._schedules.create(tenant_of(request), graph, thread_id, fields, paused=paused)
        except BadSchedule as problem:
            raise refused(problem, POINTERS) from problem
        return json_response(_view(made))

    async def _found(self, request: web.Request, wanted: CronQuery) -> list[dict[str, Any]]:
        query: dict[str, Any] = {"tenant": tenant_of(request)}
        if wanted.assistant_id is not None:
            # A graph id, or the assistant id of a graph that no worker needs to serve any more.
            query["assistant_id"] = {"$in": [wanted.assistant_id, assistant_id_of(wanted.assistant_id)]}
        if wanted.thread_id is not None:
            query["thread_id"] = wanted.thread_id
        if wanted.enabled is not None:
            query["paused"] = not wanted.enabled
        if clauses := reach_of(request).clauses():
            query["$and"] = clauses
        found = await self._schedules.find(query)
        metadata = wanted.metadata or {}
        return [one for one in found if all(one["metadata"].get(name) == value for name, value in metadata.items())]


def _fields(wanted: CronFields) -> dict[str, Any]:
    """The document's fields that a request gives."""
    fields: dict[str, Any] = {}
    if wanted.on_run_completed is not None:
        fields["ephemeral"] = wanted.on_run_completed == "delete"
    if wanted.schedule is not None:
        fields["cron"] = wanted.schedule
    if wanted.timezone is not None:
        fields["timezone"] = wanted.timezone
    if "end_time" in wanted.model_fields_set:
        fields["end_at"] = wanted.end_time
    if wanted.metadata is not None:
        fields["metadata"] = checked_metadata(wanted.metadata)
    return fields


def _no_deletion() -> RequestProblem:
    return not_supported(
        "/on_run_completed", "A cron of a thread keeps its thread: delete deletes those made for its runs."
    )


def _view(schedule: Mapping[str, Any]) -> Document:
    return cron_view(schedule, unpack(schedule["payload"]))


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["cron_id"], tenant_of(request)


def cron_view(schedule: Mapping[str, Any], payload: Mapping[str, Any] | None) -> Document:
    """A schedule in the Agent Server's shape of a cron; ``payload``: what its runs are started with, if it is shown."""
    return {
        "cron_id": schedule["_id"],
        "assistant_id": schedule["assistant_id"],
        "thread_id": schedule["thread_id"],
        "on_run_completed": None if schedule["thread_id"] else "delete" if schedule.get("ephemeral") else "keep",
        "end_time": schedule["end_at"],
        "schedule": schedule["cron"],
        "timezone": schedule["timezone"],
        "created_at": schedule["created_at"],
        "updated_at": schedule["updated_at"],
        "payload": {**shown_request(payload or {}), "assistant_id": schedule["assistant_id"]},
        "user_id": None,
        "next_run_date": schedule.get("next_at"),
        "metadata": schedule["metadata"],
        "enabled": not schedule["paused"],
    }
