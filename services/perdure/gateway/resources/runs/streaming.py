"""Runs as streams of events: ``POST .../runs/stream``, ``GET .../runs/{run_id}/stream``.

Contract: the answer is opened at once and tells the run, from its beginning or from the place that ``Last-Event-ID`` names, until
it ends. A client that goes away changes nothing, unless it asked that its run be cancelled then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from perdure.chassis.kafka.producer import Producer
from perdure.gateway.auth.caller import caller_of, tenant_of
from perdure.gateway.http.places import Places
from perdure.gateway.http.problems import invalid
from perdure.gateway.http.requests import query_bool
from perdure.gateway.http.route import FLAG, TEXT, Parameter, Plain, Route
from perdure.gateway.resources.named import RUN, THREAD, require_run, require_thread
from perdure.gateway.resources.runs.leaving import cancel_left
from perdure.gateway.resources.runs.parameters import KEY, START, TRACE
from perdure.gateway.resources.runs.starting import Starter
from perdure.gateway.resources.runs.views import locations
from perdure.gateway.stores.quotas import Quotas
from perdure.gateway.stores.store import Store
from perdure.gateway.streams.hub import Streams
from perdure.gateway.streams.reader import Wanted
from perdure.gateway.streams.sse import stream
from perdure.gateway.streams.telling import BEGINNING, Cursor, read_cursor
from perdure.gateway.streams.thread_reader import KINDS
from perdure.schemas import http
from perdure.schemas.http import STREAM_MODES
from perdure.schemas.scopes import Scope

LAST_EVENT_ID: Final = "Last-Event-ID"
EVENT: Final = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string", "description": "JSON."},
        "id": {"type": "string", "description": "A place in the thread's history."},
    },
}
TELLS = Plain("Server-sent events of this shape: the guide to streams says which.", EVENT, "text/event-stream")
SINCE = Parameter(
    LAST_EVENT_ID, TEXT, "The id of the last event that was read; `-1`: from the beginning. By default from now on.", "header"
)  # fmt: skip
MODE = Parameter(
    "stream_mode",
    {"type": "array", "items": {"enum": sorted(STREAM_MODES)}},
    "What is told, one or several, also as a JSON array; by default what the run was started with, else `values`.",
)

KIND = Parameter(
    "stream_modes",
    {"type": "array", "items": {"enum": sorted(KINDS)}},
    "`run_modes` (the default): what each run was started with. `lifecycle`: beginnings and ends of runs. `state_update`: updates "
    "of the state from outside. Also as `stream_mode`.",
)


class RunStreams:
    """Streams of runs."""

    def __init__(
        self,
        store: Store,
        starter: Starter,
        producer: Producer,
        streams: Streams,
        watchers: Places,
        quotas: Quotas,
        *,
        heartbeat_s: float,
    ) -> None:
        self._store = store
        self._starter = starter
        self._producer = producer
        self._quotas = quotas
        self._streams = streams
        self._watchers = watchers
        self._heartbeat_s = heartbeat_s

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/runs/stream", self.start, "streamRunWithThread",
                "Start a run on a thread made for it, and tell its events", "Runs", {200: TELLS}, http.RunCreate,
                (KEY, TRACE), START, scope=Scope.RUNS_WRITE,
            ),
            Route(
                "POST", "/threads/{thread_id}/runs/stream", self.start, "streamRun",
                "Start a run, or resume the thread, and tell its events", "Runs", {200: TELLS}, http.RunCreate, (KEY, TRACE),
                (*START, *THREAD, "thread-busy", "thread-exists"), scope=Scope.RUNS_WRITE,
            ),
            Route(
                "GET", "/threads/{thread_id}/runs/{run_id}/stream", self.join, "joinRunStream",
                "The events of a run, live or from the history", "Runs", {200: TELLS},
                parameters=(MODE, Parameter("cancel_on_disconnect", FLAG, "Cancel the run if the client goes away."), SINCE),
                problems=(*RUN, "busy"), scope=Scope.RUNS_READ,
            ),
            Route(
                "GET", "/threads/{thread_id}/stream", self.join_thread, "joinThreadStream",
                "The events of all runs of a thread, until the client goes away", "Threads", {200: TELLS},
                parameters=(KIND, SINCE), problems=(*THREAD, "busy"), scope=Scope.RUNS_READ,
            ),
        )
        # fmt: on

    async def start(self, request: web.Request) -> web.StreamResponse:
        """``POST /runs/stream``, ``POST /threads/{thread_id}/runs/stream``."""
        with self._watchers.taken(tenant_of(request)):
            return await self._start(request)

    async def join(self, request: web.Request) -> web.StreamResponse:
        """``GET /threads/{thread_id}/runs/{run_id}/stream``."""
        with self._watchers.taken(tenant_of(request)):
            return await self._join(request)

    async def join_thread(self, request: web.Request) -> web.StreamResponse:
        """``GET /threads/{thread_id}/stream``."""
        with self._watchers.taken(tenant_of(request)):
            return await self._join_thread(request)

    async def _start(self, request: web.Request) -> web.StreamResponse:
        started = await self._starter.start(request, request.match_info.get("thread_id"), streams=True)
        wanted, told = await self._wanted(started.run, (), started.payload)
        events = self._streams.run_events(
            started.run, wanted, BEGINNING, started=told, fresh=not started.replayed, after=started.after
        )
        return await self._tell(
            request, started.run, events, cancel=started.cancel_on_disconnect, headers=started.headers
        )

    async def _join(self, request: web.Request) -> web.StreamResponse:
        cancel = query_bool(request, "cancel_on_disconnect")
        if cancel:
            caller_of(request).require(Scope.RUNS_WRITE)
        modes = modes_of(request.query.getall("stream_mode", []), STREAM_MODES, "query:stream_mode")
        cursor = cursor_of(request)
        run = await require_run(self._store, request)
        wanted, told = await self._wanted(run, modes, None)
        events = self._streams.run_events(run, wanted, cursor, started=told)
        return await self._tell(request, run, events, cancel=cancel, headers=locations(run))

    async def _join_thread(self, request: web.Request) -> web.StreamResponse:
        given = request.query.getall("stream_modes", []) or request.query.getall("stream_mode", [])
        kinds = modes_of(given, KINDS, "query:stream_modes") or ("run_modes",)
        cursor = cursor_of(request)
        thread = await require_thread(self._store, request)
        place = f"/threads/{thread['_id']}/stream"
        with self._quotas.watcher(thread["tenant"]):
            return await stream(
                request,
                self._streams.thread_events(thread, frozenset(kinds), cursor),
                headers={"Location": place, "Content-Location": place},
                heartbeat_s=self._heartbeat_s,
            )

    async def _tell(
        self,
        request: web.Request,
        run: Mapping[str, Any],
        events: AsyncGenerator[bytes, None],
        *,
        cancel: bool,
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        async def left() -> None:
            await cancel_left(self._store, self._producer, run)

        with self._quotas.watcher(run["tenant"]):
            return await stream(
                request,
                events,
                headers={**headers, "Location": f"{headers['Location']}/stream"},
                heartbeat_s=self._heartbeat_s,
                left=left if cancel else None,
            )

    async def _wanted(
        self, run: Mapping[str, Any], modes: tuple[str, ...], payload: Mapping[str, Any] | None
    ) -> tuple[Wanted, Mapping[str, Any]]:
        """What is told: what was asked for, else what the run was started with, which is told by workers in any case."""
        kwargs = payload if payload is not None else await self._store.kwargs(run) or {}
        started = kwargs.get("stream") or {}
        chosen = frozenset(modes or started.get("modes") or ("values",))
        return Wanted(chosen, bool(started.get("subgraphs"))), started


def modes_of(given: list[str], known: frozenset[str], where: str) -> tuple[str, ...]:
    """Modes as a query names them: one, several, or a JSON array; ``where``: the query's parameter.

    Raises:
        RequestProblem: ``invalid-request``.

    """
    found: list[str] = []
    for text in given:
        if text.startswith("["):
            try:
                parsed = orjson.loads(text)
            except orjson.JSONDecodeError:
                raise invalid(where, f"{text!r} is no JSON array") from None
            found += [str(one) for one in parsed]
        elif text:
            found += [one.strip() for one in text.split(",")]
    for one in found:
        if one not in known:
            raise invalid(where, f"{one!r} is not one of {', '.join(sorted(known))}")
    return tuple(dict.fromkeys(found))


def cursor_of(request: web.Request) -> Cursor | None:
    """The place that ``Last-Event-ID`` names; ``None`` without one.

    Raises:
        RequestProblem: ``invalid-request``.

    """
    text = request.headers.get(LAST_EVENT_ID)
    if not text:
        return None
    cursor = BEGINNING if text == "-" else read_cursor(text)
    if cursor is None:
        raise invalid(f"header:{LAST_EVENT_ID}", f"{text!r} is no id of an event; -1 is the beginning")
    return cursor
