"""Runs: start, read, wait for, retry, cancel."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.gateway.auth.caller import tenant_of
from perdure.gateway.http.places import Places
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.requests import query_bool, query_choice, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, FLAG, TEXT, Answer, Parameter, Plain, Route, page_of
from perdure.gateway.resources.named import RUN, THREAD, require_run, require_thread
from perdure.gateway.resources.runs.joining import Joiner
from perdure.gateway.resources.runs.parameters import KEY, PREFER, START, TRACE
from perdure.gateway.resources.runs.retrying import Retrier
from perdure.gateway.resources.runs.starting import Starter
from perdure.gateway.resources.runs.views import locations, run_view, shown_status, traceparent_of
from perdure.gateway.stores.commands import cancel_record, publish
from perdure.gateway.stores.payloads import shown_payload
from perdure.gateway.stores.store import Store
from perdure.gateway.stores.visible import visible_threads
from perdure.schemas import http
from perdure.schemas.documents import CancelAction, RunStatus
from perdure.schemas.scopes import Scope

MAX_OFFSET = 100_000
OFFSET = Parameter("offset", {"type": "integer", "minimum": 0, "default": 0})
STARTED: Final[dict[int, Answer]] = {200: http.Run, 202: http.Run}
LISTED = Plain(
    "The runs; with `select` only the fields of each that it names.",
    {"type": "array", "items": {"anyOf": [{"$ref": "#/components/schemas/Run"}, {"type": "object"}]}},
)
FOLLOW = Parameter(
    "follow",
    {"enum": ["run", "thread"], "default": "run"},
    "`thread`: wait until the thread is at rest, through every run that continues this one.",
)
VALUES = Plain(
    "The values, with `__error__` or `__interrupt__` where it ended so. Sent at once, open until the run has ended."
)
STATUS = Parameter(
    "status", {"enum": ["pending", "running", "interrupted", "success", "error", "timeout", "cancelled"]}
)
ACTION = Parameter(
    "action", {"enum": ["interrupt", "rollback"], "default": "interrupt"},
    "`interrupt`: what the run wrote stays. `rollback`: it is undone, and the run is deleted.",
)  # fmt: skip


class RunsResource:
    """The runs of threads."""

    def __init__(
        self,
        store: Store,
        starter: Starter,
        retrier: Retrier,
        joiner: Joiner,
        producer: Producer,
        watchers: Places,
        *,
        page: int,
    ) -> None:
        self._store = store
        self._starter = starter
        self._retrier = retrier
        self._joiner = joiner
        self._producer = producer
        self._watchers = watchers
        self._page = page
        """Runs in a list that names no limit."""

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/runs", self.create, "createRunWithThread", "Start a run on a thread made for it", "Runs",
                STARTED, http.RunCreate, (KEY, TRACE, PREFER), START, scope=Scope.RUNS_WRITE,
            ),
            Route(
                "POST", "/runs/batch", self.create_batch, "createRuns", "Start runs, each on a thread made for it", "Runs",
                {200: (http.Run,)}, (http.RunCreate,), problems=START, scope=Scope.RUNS_WRITE,
            ),
            Route(
                "POST", "/threads/{thread_id}/runs", self.create_on_thread, "createRun",
                "Start a run, or resume the thread by `command`", "Runs", STARTED, http.RunCreate, (KEY, TRACE, PREFER),
                (*START, *THREAD, "thread-busy", "thread-exists"), scope=Scope.RUNS_WRITE,
            ),
            Route(
                "GET", "/threads/{thread_id}/runs", self.list_runs, "listRuns", "Runs of a thread, newest first", "Runs",
                {200: LISTED},
                parameters=(
                    page_of(10, 1000), OFFSET, STATUS,
                    Parameter("select", {"type": "array", "items": TEXT}, "Only these fields of each run."),
                ),
                problems=THREAD, scope=Scope.RUNS_READ,
            ),
            Route(
                "GET", "/threads/{thread_id}/runs/{run_id}", self.get, "getRun", "A run", "Runs", {200: http.Run},
                problems=RUN, scope=Scope.RUNS_READ,
            ),
            Route(
                "GET", "/threads/{thread_id}/runs/{run_id}/join", self.join, "joinRun",
                "Wait for the end of a run and answer its values", "Runs",
                {200: VALUES, 202: http.Run},
                parameters=(
                    Parameter("timeout", {"type": "number", "minimum": 0}, "Answer 202 after this time, in seconds."),
                    FOLLOW, Parameter("cancel_on_disconnect", FLAG, "Cancel the run if the client goes away."),
                ),
                problems=(*RUN, "busy"), scope=Scope.RUNS_READ,
            ),
            Route(
                "POST", "/runs/wait", self.wait, "waitRunWithThread", "Start a run on a thread made for it; answer its values",
                "Runs", {200: VALUES}, http.RunCreate, (KEY, TRACE, FOLLOW), START, scope=Scope.RUNS_WRITE,
            ),
            Route(
                "POST", "/threads/{thread_id}/runs/wait", self.wait, "waitRun",
                "Start a run, or resume the thread; answer its values", "Runs", {200: VALUES}, http.RunCreate,
                (KEY, TRACE, FOLLOW), (*START, *THREAD, "thread-busy", "thread-exists"), scope=Scope.RUNS_WRITE,
            ),
            Route(
                "POST", "/threads/{thread_id}/runs/{run_id}/retry", self.retry, "retryRun",
                "Go on with a run that failed or was parked, from its last checkpoint", "Runs", {202: http.Run},
                problems=(*RUN, "run-not-failed", "thread-moved-on", "thread-busy", "damaged-state"),
                scope=Scope.RUNS_WRITE,
            ),
            Route(
                "POST", "/threads/{thread_id}/runs/{run_id}/cancel", self.cancel, "cancelRun", "Stop an active run", "Runs",
                {200: VALUES, 202: http.Run},
                parameters=(
                    Parameter("wait", FLAG, "Answer the values that the run ends with, as `join` does."),
                    ACTION,
                ),
                problems=(*RUN, "run-ended", "busy"), scope=Scope.RUNS_WRITE,
            ),
            Route(
                "POST", "/runs/cancel", self.cancel_many, "cancelRuns", "Stop active runs", "Runs",
                {204: "Those that were active are asked to stop."}, http.RunsCancel, (ACTION,), (*BODY, "unknown-run"),
                scope=Scope.RUNS_WRITE,
            ),
            Route(
                "DELETE", "/threads/{thread_id}/runs/{run_id}", self.delete, "deleteRun",
                "Delete a run that has ended; the states that it left stay", "Runs", {204: "Deleted."},
                problems=(*RUN, "run-active"), scope=Scope.RUNS_WRITE,
            ),
        )
        # fmt: on

    async def create(self, request: web.Request) -> web.Response:
        """``POST /runs``: the thread is made with the run."""
        return await self._starter.answer(request, None)

    async def create_batch(self, request: web.Request) -> web.Response:
        """``POST /runs/batch``: every entry is checked before one is registered."""
        return await self._starter.start_batch(request)

    async def create_on_thread(self, request: web.Request) -> web.Response:
        """``POST /threads/{thread_id}/runs``."""
        return await self._starter.answer(request, request.match_info["thread_id"])

    async def list_runs(self, request: web.Request) -> web.Response:
        """``GET /threads/{thread_id}/runs``."""
        limit = query_int(request, "limit", self._page, low=1, high=1000)
        offset = query_int(request, "offset", 0, low=0, high=MAX_OFFSET)
        status = query_choice(request, "status", [status.value for status in RunStatus])
        thread = await require_thread(self._store, request)
        meant = [one.value for one in RunStatus if status in {None, one.value, shown_status(one.value)}]
        found = await self._store.runs(
            str(thread["_id"]), tenant_of(request), statuses=meant if status else None, limit=limit, offset=offset
        )
        chains = await self._store.chains(found)
        selected = request.query.getall("select", [])
        kwargs = await self._store.kwargs_of(found) if not selected or "kwargs" in selected else {}
        views = [run_view(run, kwargs.get(run["_id"]), chains[str(run["_id"])]) for run in found]
        if selected:
            views = [{name: view[name] for name in selected if name in view} for view in views]
        return json_response(views)

    async def get(self, request: web.Request) -> web.Response:
        """``GET /threads/{thread_id}/runs/{run_id}``."""
        run = await require_run(self._store, request)
        chains = await self._store.chains([run])
        return json_response(run_view(run, shown_payload(run), chains[run["_id"]]))

    async def join(self, request: web.Request) -> web.StreamResponse:
        """``GET .../join``: the values when the run has ended, however long that takes; 202 after ``timeout`` seconds.

        With ``follow=thread``: the values when the thread is at rest, however many runs continue this one until then.
        """
        with self._watchers.taken(tenant_of(request)):
            return await self._joiner.join(request)

    async def wait(self, request: web.Request) -> web.StreamResponse:
        """``POST /runs/wait``, ``POST /threads/{thread_id}/runs/wait``: start a run, and answer its values."""
        query_choice(request, "follow", ["run", "thread"])
        with self._watchers.taken(tenant_of(request)):
            started = await self._starter.start(request, request.match_info.get("thread_id"))
            headers = {**started.headers, "Location": f"{started.headers['Location']}/join"}
            return await self._joiner.open(request, started.run, headers, cancel=started.cancel_on_disconnect)

    async def retry(self, request: web.Request) -> web.Response:
        """``POST .../retry``."""
        return await self._retrier.retry(request)

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """``POST .../cancel``: 202, or with ``wait`` what ``join`` answers when the run has ended."""
        tenant = tenant_of(request)
        wait = query_bool(request, "wait")
        action = _action(request)
        thread_id, run_id = request.match_info["thread_id"], request.match_info["run_id"]
        run = await require_run(self._store, request)
        if not await self._store.request_cancel(run_id, thread_id, tenant, now(), action):
            run = await require_run(self._store, request)
            raise RequestProblem(
                "run-ended", f"Run {run_id!r} has ended ({run['status']}); there is nothing to cancel."
            )
        publish(self._producer, cancel_record(run, traceparent_of(request.headers.get("traceparent"))))
        if wait:
            headers = {**locations(run), "Location": f"{locations(run)['Location']}/join"}
            with self._watchers.taken(tenant):
                return await self._joiner.open(request, run, headers, cancel=False)
        shown = await self._store.run_even_deleted(run_id, thread_id, tenant) or run
        return json_response(run_view(shown, None), status=202, headers=locations(run))

    async def cancel_many(self, request: web.Request) -> web.Response:
        """``POST /runs/cancel``."""
        wanted, _ = await read_body(request, http.RunsCancel)
        action = _action(request)
        visible = await visible_threads(self._store, request)
        asked = await self._store.request_cancels(_chosen(wanted), tenant_of(request), action, now(), visible)
        if not asked:
            raise RequestProblem("unknown-run", "None of these runs is there and active: there is nothing to cancel.")
        traceparent = traceparent_of(request.headers.get("traceparent"))
        for run in asked:
            publish(self._producer, cancel_record(run, traceparent))
        return web.Response(status=204)

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /threads/{thread_id}/runs/{run_id}``."""
        run = await require_run(self._store, request)
        if not await self._store.delete_run(run["_id"], run["thread_id"], run["tenant"]):
            raise RequestProblem(
                "run-active",
                f"Run {run['_id']!r} is {run['status']}; cancel it, or wait for its end, before you delete it.",
            )
        return web.Response(status=204)


def _action(request: web.Request) -> CancelAction:
    """What becomes of what the cancelled runs wrote."""
    return CancelAction(query_choice(request, "action", list(CancelAction)) or CancelAction.INTERRUPT)


def _chosen(wanted: http.RunsCancel) -> dict[str, Any]:
    """The filter for the runs that a request to cancel names.

    Raises:
        RequestProblem: ``invalid-request``, for anything but a status, or a thread with runs of it.

    """
    if wanted.status is not None:
        if wanted.thread_id is not None or wanted.run_ids is not None:
            raise invalid("/status", "chooses runs of every thread: leave thread_id and run_ids out, or status")
        return {} if wanted.status == "all" else {"status": wanted.status}
    if wanted.thread_id is None:
        raise invalid("/thread_id", "must be given, with run_ids, where status is not")
    if wanted.run_ids is None:
        raise invalid("/run_ids", "must be given, with thread_id, where status is not")
    return {"thread_id": wanted.thread_id, "_id": {"$in": wanted.run_ids}}
