"""Runs: start, read, wait for, retry, cancel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.requests import query_bool, query_choice, query_float, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, FLAG, TEXT, Parameter, Route, idempotency_key_of, page_of
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.resources.named import RUN, THREAD, require_run, require_thread
from perdure.gateway.resources.runs.retrying import Retrier
from perdure.gateway.resources.runs.starting import Starter
from perdure.gateway.resources.runs.views import locations, run_view, traceparent_of
from perdure.gateway.resources.states import States, questions
from perdure.gateway.stores.commands import cancel_record, publish
from perdure.gateway.stores.store import Store
from perdure.gateway.streams.watch import INTERVAL_S, RunWatch
from perdure.schemas import http
from perdure.schemas.documents import CancelAction, RunStatus

MAX_OFFSET = 100_000
OFFSET = Parameter("offset", {"type": "integer", "minimum": 0, "default": 0})
KEY = idempotency_key_of(
    "The same key with the same request answers the run that it started, with `Idempotent-Replayed: true`."
)
TRACE = Parameter("traceparent", TEXT, "W3C trace context; made when absent.", "header")
STATUS = Parameter(
    "status", {"enum": ["pending", "running", "interrupted", "success", "error", "timeout", "cancelled"]}
)
ACTION = Parameter(
    "action", {"enum": ["interrupt", "rollback"], "default": "interrupt"},
    "`interrupt`: what the run wrote stays. `rollback`: it is undone, and the run is deleted.",
)  # fmt: skip
START = (
    *BODY,
    "unknown-graph",
    "unknown-checkpoint",
    "nothing-to-resume",
    "idempotency-conflict",
    "not-supported",
    "not-ready",
)


class RunsResource:
    """The runs of threads."""

    def __init__(
        self,
        store: Store,
        states: States,
        starter: Starter,
        retrier: Retrier,
        producer: Producer,
        *,
        ended: RunWatch,
        at_rest: RunWatch,
        page: int,
        join_timeout_s: float,
    ) -> None:
        self._store = store
        self._states = states
        self._starter = starter
        self._retrier = retrier
        self._producer = producer
        self._ended = ended
        """Waits for runs to end."""
        self._at_rest = at_rest
        """Waits for threads to come to rest."""
        self._page = page
        """Runs in a list that names no limit."""
        self._join_timeout_s = join_timeout_s

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/runs", self.create, "createRunWithThread", "Start a run on a thread made for it", "Runs",
                {202: http.Run}, http.RunCreate, (KEY, TRACE), START,
            ),
            Route(
                "POST", "/runs/batch", self.create_batch, "createRuns", "Start runs, each on a thread made for it", "Runs",
                {200: (http.Run,)}, (http.RunCreate,), problems=START,
            ),
            Route(
                "POST", "/threads/{thread_id}/runs", self.create_on_thread, "createRun",
                "Start a run, or resume the thread by `command`", "Runs", {202: http.Run}, http.RunCreate, (KEY, TRACE),
                (*START, *THREAD, "thread-busy", "thread-exists"),
            ),
            Route(
                "GET", "/threads/{thread_id}/runs", self.list_runs, "listRuns", "Runs of a thread, newest first", "Runs",
                {200: (http.Run,)},
                parameters=(
                    page_of(10, 1000), OFFSET, STATUS,
                    Parameter("select", {"type": "array", "items": TEXT}, "Only these fields of each run."),
                ),
                problems=THREAD,
            ),
            Route(
                "GET", "/threads/{thread_id}/runs/{run_id}", self.get, "getRun", "A run", "Runs", {200: http.Run},
                problems=RUN,
            ),
            Route(
                "GET", "/threads/{thread_id}/runs/{run_id}/join", self.join, "joinRun",
                "Wait for the end of a run and answer its values", "Runs",
                {200: "The values; with `__error__` or `__interrupt__` where it ended so.", 202: http.Run},
                parameters=(
                    Parameter("timeout", {"type": "number", "minimum": 0}, "Seconds to wait at most."),
                    Parameter(
                        "follow", {"enum": ["run", "thread"], "default": "run"},
                        "`thread`: wait until the thread is at rest, through every run that continues this one.",
                    ),
                ),
                problems=RUN,
            ),
            Route(
                "POST", "/threads/{thread_id}/runs/{run_id}/retry", self.retry, "retryRun",
                "Go on with a run that failed or was parked, from its last checkpoint", "Runs", {202: http.Run},
                problems=(*RUN, "run-not-failed", "thread-moved-on", "thread-busy", "damaged-state"),
            ),
            Route(
                "POST", "/threads/{thread_id}/runs/{run_id}/cancel", self.cancel, "cancelRun", "Stop an active run", "Runs",
                {200: http.Run, 202: http.Run},
                parameters=(
                    Parameter("wait", FLAG, "Answer 200 when the run has ended; 202 when that takes too long."),
                    ACTION,
                ),
                problems=(*RUN, "run-ended"),
            ),
            Route(
                "POST", "/runs/cancel", self.cancel_many, "cancelRuns", "Stop active runs", "Runs",
                {204: "Those that were active are asked to stop."}, http.RunsCancel, (ACTION,), (*BODY, "unknown-run"),
            ),
            Route(
                "DELETE", "/threads/{thread_id}/runs/{run_id}", self.delete, "deleteRun",
                "Delete a run that has ended; the states that it left stay", "Runs", {204: "Deleted."},
                problems=(*RUN, "run-active"),
            ),
        )
        # fmt: on

    async def create(self, request: web.Request) -> web.Response:
        """``POST /runs``: the thread is made with the run."""
        return await self._starter.start(request, None)

    async def create_batch(self, request: web.Request) -> web.Response:
        """``POST /runs/batch``: every entry is checked before one is registered."""
        return await self._starter.start_batch(request)

    async def create_on_thread(self, request: web.Request) -> web.Response:
        """``POST /threads/{thread_id}/runs``."""
        return await self._starter.start(request, request.match_info["thread_id"])

    async def list_runs(self, request: web.Request) -> web.Response:
        """``GET /threads/{thread_id}/runs``."""
        limit = query_int(request, "limit", self._page, low=1, high=1000)
        offset = query_int(request, "offset", 0, low=0, high=MAX_OFFSET)
        status = query_choice(request, "status", [status.value for status in RunStatus])
        thread = await require_thread(self._store, request)
        found = await self._store.runs(
            str(thread["_id"]), tenant_of(request), status=status, limit=limit, offset=offset
        )
        chains = await self._store.chains(found)
        views = [
            run_view(run, None if run.get("payload_chunks") else await self._store.kwargs(run), chains[str(run["_id"])])
            for run in found
        ]
        selected = request.query.getall("select", [])
        if selected:
            views = [{name: view[name] for name in selected if name in view} for view in views]
        return json_response(views)

    async def get(self, request: web.Request) -> web.Response:
        """``GET /threads/{thread_id}/runs/{run_id}``."""
        run = await require_run(self._store, request)
        chains, kwargs = await asyncio.gather(self._store.chains([run]), self._store.kwargs(run))
        return json_response(run_view(run, kwargs, chains[run["_id"]]))

    async def join(self, request: web.Request) -> web.Response:
        """``GET .../join``: the values when the run has ended, 202 when the wait is over first.

        With ``follow=thread``: the values when the thread is at rest, however many runs continue this one until then.
        """
        longest = self._join_timeout_s
        timeout_s = query_float(request, "timeout", longest, high=longest)
        follow = query_choice(request, "follow", ["run", "thread"])
        run = await require_run(self._store, request)
        if follow == "thread":
            return await self._join_thread(request, run, timeout_s)
        if not RunStatus(run["status"]).active or await self._ended.wait(run["_id"], timeout_s):
            return json_response(await self._outcome(await require_run(self._store, request)))
        return json_response(run_view(run, None), status=202, headers={**locations(run), "Retry-After": "1"})

    async def _join_thread(self, request: web.Request, run: Mapping[str, Any], timeout_s: float) -> web.Response:
        """Wait until no run of the thread is active and the thread waits for nothing; then answer what its last run ended with."""
        deadline = time.monotonic() + timeout_s
        while await self._at_rest.wait(run["thread_id"], max(0.0, deadline - time.monotonic())):
            run, thread = await require_run(self._store, request), await require_thread(self._store, request)
            # Run and thread are two documents: the thread's may not say yet how the run ended.
            if not RunStatus(run["status"]).active and thread["seq"] >= run["ended_seq"]:
                last = await self._store.run(str(thread["ended_run_id"]), run["thread_id"], run["tenant"])
                return json_response(await self._outcome(last or run), headers=locations(last or run))
            await asyncio.sleep(min(INTERVAL_S, max(0.0, deadline - time.monotonic())))
        chain = (await self._store.chains([await require_run(self._store, request)]))[run["_id"]]
        newest = await self._store.run(chain["last_run_id"], run["thread_id"], run["tenant"]) or run
        headers = {**locations(newest), "Retry-After": "1"}
        return json_response(run_view(newest, None), status=202, headers=headers)

    async def retry(self, request: web.Request) -> web.Response:
        """``POST .../retry``."""
        return await self._retrier.retry(request)

    async def cancel(self, request: web.Request) -> web.Response:
        """``POST .../cancel``."""
        tenant = tenant_of(request)
        wait = query_bool(request, "wait")
        action = _action(request)
        thread_id, run_id = request.match_info["thread_id"], request.match_info["run_id"]
        run = await require_run(self._store, request)
        if not await self._store.request_cancel(run_id, thread_id, tenant, action, now()):
            run = await require_run(self._store, request)
            raise RequestProblem(
                "run-ended", f"Run {run_id!r} has ended ({run['status']}); there is nothing to cancel."
            )
        publish(self._producer, cancel_record(run, traceparent_of(request.headers.get("traceparent"))))
        ended = wait and await self._ended.wait(run_id, self._join_timeout_s)
        shown = await self._store.run_even_deleted(run_id, thread_id, tenant) or run
        if ended:
            return json_response(run_view(shown, None))
        return json_response(run_view(shown, None), status=202, headers=locations(run))

    async def cancel_many(self, request: web.Request) -> web.Response:
        """``POST /runs/cancel``."""
        wanted, _ = await read_body(request, http.RunsCancel)
        action = _action(request)
        asked = await self._store.request_cancels(_chosen(wanted), tenant_of(request), action, now())
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

    async def _outcome(self, run: Mapping[str, Any]) -> Any:
        """The values that a run ended with, and its error or interrupts as the Agent Server says them."""
        head, thread_id = run.get("head"), run["thread_id"]
        reading = self._states.at(thread_id, head) if head else self._states.newest(thread_id)
        state = await self._store.patiently(reading)
        values = state["values"] if state else None
        shown = dict(values) if isinstance(values, dict) else {"values": values} if values is not None else {}
        if run["status"] in {RunStatus.ERROR, RunStatus.TIMEOUT}:
            error = run.get("error") or {}
            shown["__error__"] = {"error": error.get("type", run["status"]), "message": error.get("message", "")}
        elif run["status"] == RunStatus.INTERRUPTED:
            shown["__interrupt__"] = questions(run.get("interrupts") or (state["interrupts"] if state else []))
        return shown


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
