"""Before every handler of a row that the project's ``auth`` handlers govern: may this user do this, and to what (ADR 43).

Contract: for callers that handlers name, and only for them, the handlers of the row are asked with what the request is about. What
they refuse is refused; what they change of the body is what the row's handler reads; their conditions and stamps are the request's
:class:`perdure.gateway.auth.reach.Reach`. A thread, schedule or question in the path that does not meet the conditions is answered
as if it did not exist. A row that nobody governs, and an answer that is not understood, let nobody through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from perdure.chassis.telemetry import logger
from perdure.gateway.auth.caller import CALLER, Caller, CallerKind
from perdure.gateway.auth.governed import CANCEL, GOVERNED, Ask, Bound, Governed
from perdure.gateway.auth.handler_process import HandlerProcess, unavailable
from perdure.gateway.auth.handler_users import USER_SCOPES, require_allowed
from perdure.gateway.auth.reach import REACH, BadFilter, Condition, Document, Reach, conditions_of, stamp_of
from perdure.gateway.auth.values import changed_body, value_of
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.requests import query_bool, read_json, replace_json
from perdure.gateway.http.route import Page, Route
from perdure.gateway.http.thread_ids import own_thread_id
from perdure.gateway.resources.named import unknown_thread

log = logger(__name__)

Find = Callable[[str, str], Awaitable[Mapping[str, Any] | None]]
"""A document by its id and its tenant."""


BODIES_LIMIT: Final = 1_000
"""Entries of a body that is a list, for each of which a handler is asked; no row takes more."""


@dataclass(frozen=True, slots=True)
class Finders:
    """Where what a path names is looked up."""

    thread: Find
    schedule: Find
    question: Find


@dataclass(frozen=True, slots=True)
class _Permitted:
    """What one handler permits."""

    conditions: tuple[Condition, ...]
    changed: Mapping[str, Any]
    stamp: Document


class Authorization:
    """Asks the handlers about the requests of the users that they name."""

    def __init__(self, process: HandlerProcess, find: Finders) -> None:
        self._process, self._find = process, find
        self._rows: Mapping[tuple[str, str], Route | Page] = {}

    def install(self, app: web.Application, rows: Iterable[Route | Page]) -> None:
        """Stand before the handlers of these rows, inside the middlewares that are there already."""
        self._rows = {(row.method, row.path): row for row in rows}
        app.middlewares.append(self._authorize)

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        caller = request.get(CALLER)
        if caller is None or caller.kind is not CallerKind.USER:
            return await handler(request)
        resource = request.match_info.route.resource
        row = self._rows.get((request.method, resource.canonical)) if resource is not None else None
        governed = GOVERNED.get(row.name) if isinstance(row, Route) else None
        if isinstance(row, Route) and governed is not None:
            reach, body = await self._reach(request, caller, row, governed)
            await self._require_reached(request, caller, governed.bound, reach, body)
            request[REACH] = reach
            if row.body is not None:
                replace_json(request, body)
        elif row is not None and row.scope in USER_SCOPES:
            raise RequestProblem("auth-refused", "No handler of the project's auth governs this operation.")
        return await handler(request)

    async def _reach(self, request: web.Request, caller: Caller, row: Route, governed: Governed) -> tuple[Reach, Any]:
        """Ask all handlers of a row; how far the request reaches, and its body with what they changed."""
        asks = governed.asks
        body = await read_json(request) if row.body is not None else {}
        if governed.bound is Bound.THREAD_OF_BODY and not (isinstance(body, dict) and body.get("thread_id")):
            asks = tuple(ask for ask in asks if not ask.binds)
        if "cancel_on_disconnect" in request.query and query_bool(request, "cancel_on_disconnect"):
            asks += (CANCEL,)
        bodies = body if isinstance(body, list) else [body]
        if len(bodies) > BODIES_LIMIT:
            raise invalid("", f"the body must have at most {BODIES_LIMIT} entries, not {len(bodies)}")
        conditions: list[Condition] = []
        stamps: list[Document] = [{} for _ in bodies]
        for ask in asks:
            permitted = await asyncio.gather(*(self._permitted(request, caller, ask, one) for one in bodies))
            for number, one in enumerate(permitted):
                conditions += one.conditions if ask.binds else ()
                stamps[number] |= one.stamp
                if row.body is not None:
                    bodies[number] = changed_body(row.body, ask, bodies[number], one.changed)
        reach = Reach(tuple(dict.fromkeys(conditions)), tuple(stamps))
        return reach, bodies if isinstance(body, list) else bodies[0]

    async def _permitted(self, request: web.Request, caller: Caller, ask: Ask, body: Any) -> _Permitted:
        """Ask one handler about one body.

        Raises:
            RequestProblem: ``auth-refused`` or ``auth-unavailable``.

        """
        if isinstance(body, dict) and not isinstance(body.get("metadata") or {}, dict):
            raise invalid("/metadata", "must be an object")
        value = value_of(request, ask, body)
        user = {"identity": caller.subject, **caller.details}
        answer = await self._process.ask(
            "authorize", {"user": user, "resource": ask.resource, "action": ask.action, "value": value}
        )
        require_allowed(answer)
        try:
            conditions = conditions_of(answer["filter"])
            changed, written = dict(answer["changed"]), dict(answer["written"])
            if ask.action == "search":
                return _Permitted((*conditions, *conditions_of(written)), {}, {})
            metadata = changed.get("metadata", value.get("metadata")) or {}
            asked = (
                () if ask.action == "update" else conditions
            )  # what is there already has what its maker was asked for
            return _Permitted(conditions, changed, stamp_of(asked, written, metadata) if ask.makes else {})
        except (BadFilter, KeyError, TypeError, ValueError, AttributeError) as error:
            detail = f"{ask.resource}.{ask.action}: {type(error).__name__}: {error}"
            log.error("gateway.auth_filter_refused", detail=detail)
            raise unavailable("a handler answered what is not understood; the gateway's log has more") from error

    async def _require_reached(
        self, request: web.Request, caller: Caller, bound: Bound, reach: Reach, body: Any
    ) -> None:
        """Refuse what the path or the body names and the request does not reach.

        Raises:
            RequestProblem: ``unknown-thread``, ``unknown-schedule`` or ``unknown-approval``.

        """
        if not reach.limited or bound is Bound.QUERY:
            return
        names, tenant = request.match_info, caller.tenant
        if bound is Bound.SCHEDULE:
            id_ = names.get("schedule_id") or names["cron_id"]
            if not reach.covers(await self._find.schedule(id_, tenant)):
                raise RequestProblem(
                    "unknown-schedule", f"Schedule {id_!r} does not exist; GET /schedules lists those that do."
                )
        elif bound is Bound.QUESTION:
            question = await self._find.question(names["approval_id"], tenant)
            thread = None if question is None else await self._find.thread(question["thread_id"], tenant)
            if not reach.covers(thread):
                raise RequestProblem("unknown-approval", f"There is no question {names['approval_id']!r}.")
        else:
            await self._require_thread(request, caller, bound, reach, body)

    async def _require_thread(
        self, request: web.Request, caller: Caller, bound: Bound, reach: Reach, body: Any
    ) -> None:
        if bound is Bound.THREAD_OF_BODY:
            named = body.get("thread_id") if isinstance(body, dict) else None
            if not isinstance(named, str):
                return  # what is no id is refused by the handler of the row
            thread_id = own_thread_id(request, named)
        else:
            thread_id = request.match_info["thread_id"]
        thread = await self._find.thread(thread_id, caller.tenant)
        if thread is None and bound is Bound.THREAD_OR_NEW:
            return
        if not reach.covers(thread):
            raise unknown_thread(thread_id)
