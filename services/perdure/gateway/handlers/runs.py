"""Runs: start, read, wait for, cancel.

A start is one decision, one durable insert (two in parallel when the thread is made with it) and a command that is published after
the answer is certain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, cast

from aiohttp import web

from perdure.chassis.clock import now
from perdure.chassis.payload import Packed, pack
from perdure.gateway import domain
from perdure.gateway.context import CONTEXT, Context
from perdure.gateway.http.problems import RequestProblem, invalid, not_supported
from perdure.gateway.http.requests import (
    IDEMPOTENCY_KEY,
    idempotency_key,
    query_bool,
    query_choice,
    query_float,
    query_int,
    read_body,
    request_digest,
    require_metadata,
)
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.publish import SOURCE, cancel_record, publish
from perdure.gateway.resources.named import require_here, require_run, require_thread, unknown_thread
from perdure.gateway.resources.states import questions
from perdure.gateway.resources.threads import is_thread_id
from perdure.gateway.startable import require_startable
from perdure.gateway.stores.store import IdempotencyTaken
from perdure.gateway.streams.watch import INTERVAL_S
from perdure.gateway.targets import require_webhook
from perdure.registry.runs import assistant_id_of, new_id, publish_start, run_document
from perdure.registry.threads import thread_document
from perdure.schemas.commands import StartReason
from perdure.schemas.documents import RunDocument, RunStatus, ThreadDocument, ThreadStatus
from perdure.schemas.http import RunCreate

OWN_KEYS = ("wake:", "schedule:", "retry:")
"""Runs that Perdure starts itself have keys with these beginnings: the insert of a waking run decides a wait (ADR 6), and there is
one retry of a failed run."""
MAX_OFFSET = 100_000
PACK_ASIDE_BYTES = 1024 * 1024
"""A larger request is packed beside the event loop."""


def run_key(request: web.Request) -> str | None:
    """The ``Idempotency-Key`` of a run, or ``None``; those that Perdure gives its own runs are refused."""
    key = idempotency_key(request)
    if key is not None and key.startswith(OWN_KEYS):
        detail = f"must not begin with {' or '.join(OWN_KEYS)}: runs that Perdure starts itself have such keys"
        raise invalid(f"header:{IDEMPOTENCY_KEY}", detail)
    return key


async def create(request: web.Request) -> web.Response:
    """``POST /runs``: the thread is made with the run."""
    return await _start(request, None)


async def create_on_thread(request: web.Request) -> web.Response:
    """``POST /threads/{thread_id}/runs``."""
    return await _start(request, request.match_info["thread_id"])


async def list_runs(request: web.Request) -> web.Response:
    """``GET /threads/{thread_id}/runs``."""
    context = request.app[CONTEXT]
    limit = query_int(request, "limit", context.settings.gateway_run_page, low=1, high=1000)
    offset = query_int(request, "offset", 0, low=0, high=MAX_OFFSET)
    status = query_choice(request, "status", [status.value for status in RunStatus])
    thread = await require_thread(request.app[CONTEXT].store, request)
    found = await context.store.runs(str(thread["_id"]), tenant_of(request), status=status, limit=limit, offset=offset)
    chains = await context.store.chains(found)
    views = [
        domain.run_view(
            run, None if run.get("payload_chunks") else await context.store.kwargs(run), chains[str(run["_id"])]
        )
        for run in found
    ]
    selected = request.query.getall("select", [])
    if selected:
        views = [{name: view[name] for name in selected if name in view} for view in views]
    return json_response(views)


async def get(request: web.Request) -> web.Response:
    """``GET /threads/{thread_id}/runs/{run_id}``."""
    context = request.app[CONTEXT]
    run = await require_run(request.app[CONTEXT].store, request)
    chains, kwargs = await asyncio.gather(context.store.chains([run]), context.store.kwargs(run))
    return json_response(domain.run_view(run, kwargs, chains[run["_id"]]))


async def join(request: web.Request) -> web.Response:
    """``GET .../join``: the values when the run has ended, 202 when the wait is over first.

    With ``follow=thread``: the values when the thread is at rest, however many runs continue this one until then.
    """
    context = request.app[CONTEXT]
    longest = context.settings.gateway_join_timeout_s
    timeout_s = query_float(request, "timeout", longest, high=longest)
    follow = query_choice(request, "follow", ["run", "thread"])
    run = await require_run(request.app[CONTEXT].store, request)
    if follow == "thread":
        return await _join_thread(request, run, timeout_s)
    if not RunStatus(run["status"]).active or await context.watch.wait(run["_id"], timeout_s):
        return json_response(await _outcome(context, await require_run(request.app[CONTEXT].store, request)))
    return json_response(domain.run_view(run, None), status=202, headers={**locations(run), "Retry-After": "1"})


async def _join_thread(request: web.Request, run: Mapping[str, Any], timeout_s: float) -> web.Response:
    """Wait until no run of the thread is active and the thread waits for nothing; then answer what its last run ended with."""
    context = request.app[CONTEXT]
    deadline = time.monotonic() + timeout_s
    while await context.threads_at_rest.wait(run["thread_id"], max(0.0, deadline - time.monotonic())):
        run, thread = (
            await require_run(request.app[CONTEXT].store, request),
            await require_thread(request.app[CONTEXT].store, request),
        )
        # Run and thread are two documents: the thread's may not say yet how the run ended.
        if not RunStatus(run["status"]).active and thread["seq"] >= run["ended_seq"]:
            last = await context.store.run(str(thread["ended_run_id"]), run["thread_id"], run["tenant"])
            return json_response(await _outcome(context, last or run), headers=locations(last or run))
        await asyncio.sleep(min(INTERVAL_S, max(0.0, deadline - time.monotonic())))
    chain = (await context.store.chains([await require_run(request.app[CONTEXT].store, request)]))[run["_id"]]
    newest = await context.store.run(chain["last_run_id"], run["thread_id"], run["tenant"]) or run
    headers = {**locations(newest), "Retry-After": "1"}
    return json_response(domain.run_view(newest, None), status=202, headers=headers)


async def cancel(request: web.Request) -> web.Response:
    """``POST .../cancel``."""
    context = request.app[CONTEXT]
    tenant = tenant_of(request)
    wait = query_bool(request, "wait")
    if query_choice(request, "action", ["interrupt", "rollback"]) == "rollback":
        raise not_supported("query:action", "action=rollback is not supported yet; use action=interrupt.")
    thread_id, run_id = request.match_info["thread_id"], request.match_info["run_id"]
    asked = await context.store.request_cancel(run_id, thread_id, tenant, now())
    run = await require_run(request.app[CONTEXT].store, request)
    if not asked:
        raise RequestProblem("run-ended", f"Run {run_id!r} has ended ({run['status']}); there is nothing to cancel.")
    publish(context.producer, cancel_record(run, domain.traceparent_of(request.headers.get("traceparent"))))
    if wait and await context.watch.wait(run_id, context.settings.gateway_join_timeout_s):
        return json_response(domain.run_view(await require_run(request.app[CONTEXT].store, request), None))
    return json_response(domain.run_view(run, None), status=202, headers=locations(run))


async def _start(request: web.Request, thread_id: str | None) -> web.Response:
    context = request.app[CONTEXT]
    tenant = tenant_of(request)
    wanted, body = await read_body(request, RunCreate)
    _require_supported(wanted)
    require_webhook(wanted.webhook)
    key = run_key(request)
    digest = request_digest(request.path, body) if key is not None else None
    graph = await context.graphs.resolve(wanted.assistant_id)
    new_thread = thread_id is None  # an id that a client chose may have been given another run already
    thread = await _thread_for(context, thread_id, tenant, wanted, graph["_id"])
    if thread_id is not None and wanted.multitask_strategy == "reject" and await context.store.is_busy(thread_id):
        if key is not None and (earlier := await context.store.run_of_key(tenant, key)) is not None:
            return await _replayed(context, earlier, digest)
        raise RequestProblem(
            "thread-busy",
            f'Thread {thread_id!r} has an active run and multitask_strategy is "reject". Wait for it, cancel it, or '
            'send multitask_strategy: "enqueue".',
        )
    payload = domain.payload_of(body, wanted)
    try:
        await require_startable(context, thread, wanted, payload, new_thread=new_thread)
    except RequestProblem:
        if key is not None and (earlier := await context.store.run_of_key(tenant, key)) is not None:
            return await _replayed(context, earlier, digest)
        raise
    large = (request.content_length or 0) > PACK_ASIDE_BYTES
    packed = await asyncio.to_thread(pack, payload) if large else pack(payload)
    run = run_document(
        tenant=tenant,
        thread_id=thread["_id"],
        graph_id=graph["_id"],
        graph_version=graph.get("version"),
        packed=packed,
        metadata={**thread.get("metadata", {}), **(wanted.metadata or {})},
        traceparent=domain.traceparent_of(request.headers.get("traceparent")),
        moment=now(),
        new_thread=new_thread,
        multitask_strategy=wanted.multitask_strategy or "enqueue",
        idempotency_key=key,
        webhook=wanted.webhook,
    )
    if (first := _continued_chain(thread, wanted)) is not None:
        run["first_run_id"] = first
    if digest is not None:
        run["idempotency_digest"] = digest
    if "batch" in thread:
        run["batch"] = thread["batch"]
    return await _register(context, run, packed, thread if new_thread else None, payload)


def _continued_chain(thread: Mapping[str, Any], wanted: RunCreate) -> str | None:
    """The first run of the chain that a request resumes; ``None`` for a request that begins a chain."""
    resumes = wanted.command is not None and wanted.command.resume is not None
    if not resumes or thread.get("status") != ThreadStatus.INTERRUPTED:
        return None
    return thread.get("first_run_id") or thread.get("ended_run_id")


async def _register(
    context: Context, run: RunDocument, packed: Packed, thread: ThreadDocument | None, payload: Mapping[str, Any]
) -> web.Response:
    if thread is not None:
        thread["last_run_id"] = run["_id"]
    try:
        await context.store.register(run, packed, thread)
    except IdempotencyTaken:
        earlier = await context.store.run_of_key(run["tenant"], run["idempotency_key"])
        if earlier is None:
            raise
        return await _replayed(context, earlier, run["idempotency_digest"])
    publish_start(context.producer, run, StartReason.REGISTERED, SOURCE)
    view = domain.run_view(run, None if packed.chunks else payload)
    return json_response(view, status=202, headers=locations(run))


async def _thread_for(
    context: Context, thread_id: str | None, tenant: str, wanted: RunCreate, graph_id: str
) -> ThreadDocument:
    """The thread of a new run; without an id one that is yet to be written, together with the run."""
    if thread_id is None:
        return _made(new_id(), tenant, wanted, graph_id)
    found: Any = await context.store.thread(thread_id, tenant)
    if found is not None:
        require_here(found)
        return cast("ThreadDocument", found)
    if wanted.if_not_exists != "create":
        raise unknown_thread(thread_id)
    if not is_thread_id(thread_id):
        raise invalid("path:thread_id", "must be 1 to 128 of A-Z a-z 0-9 . _ : -")
    made = _made(thread_id, tenant, wanted, graph_id)
    if await context.store.create_thread(made):
        return made
    found = await context.store.thread(thread_id, tenant)  # another request made it meanwhile
    if found is None:
        raise RequestProblem("thread-exists", f"Thread id {thread_id!r} is taken; choose another.")
    return cast("ThreadDocument", found)


def _made(thread_id: str, tenant: str, wanted: RunCreate, graph_id: str) -> ThreadDocument:
    thread = thread_document(thread_id, tenant, wanted.metadata, now())
    thread["graph_id"], thread["assistant_id"] = graph_id, assistant_id_of(graph_id)
    return thread


async def _replayed(context: Context, run: dict[str, Any], digest: str | None) -> web.Response:
    if run.get("idempotency_digest") != digest:
        raise RequestProblem(
            "idempotency-conflict",
            f"The Idempotency-Key was used for run {run['_id']!r} with another request. Use a new key for a new request.",
            headers={"Location": locations(run)["Location"]},
        )
    chains = await context.store.chains([run])
    kwargs = None if run.get("payload_chunks") else await context.store.kwargs(run)
    view = domain.run_view(run, kwargs, chains[run["_id"]])
    return json_response(view, status=202, headers={**locations(run), "Idempotent-Replayed": "true"})


def _require_supported(wanted: RunCreate) -> None:
    require_metadata(wanted.metadata)
    command = wanted.command
    if command is not None:
        if wanted.input is not None:
            raise invalid("/command", "input and command cannot be given together; command resumes, input starts")
        if not command.model_fields_set:
            raise invalid("/command", "one of resume, update and goto must be given")
        if command.resume is None and command.update is None and command.goto is None:
            raise invalid("/command/resume", "null is no answer: an interrupt cannot be resumed with it")
    if wanted.multitask_strategy in {"interrupt", "rollback"}:
        raise not_supported(
            "/multitask_strategy",
            f'multitask_strategy {wanted.multitask_strategy!r} is not supported yet; use "enqueue" or "reject".',
        )
    if wanted.after_seconds:
        raise not_supported(
            "/after_seconds", "A delayed start is not supported yet; leave after_seconds out or send 0."
        )
    if wanted.on_completion == "delete":
        raise not_supported("/on_completion", 'on_completion "delete" is not supported yet; threads are kept.')


async def _outcome(context: Context, run: Mapping[str, Any]) -> Any:
    """The values that a run ended with, and its error or interrupts as the Agent Server says them."""
    head, thread_id = run.get("head"), run["thread_id"]
    reading = context.states.at(thread_id, head) if head else context.states.newest(thread_id)
    state = await context.store.patiently(reading)
    values = state["values"] if state else None
    shown = dict(values) if isinstance(values, dict) else {"values": values} if values is not None else {}
    if run["status"] in {RunStatus.ERROR, RunStatus.TIMEOUT}:
        error = run.get("error") or {}
        shown["__error__"] = {"error": error.get("type", run["status"]), "message": error.get("message", "")}
    elif run["status"] == RunStatus.INTERRUPTED:
        shown["__interrupt__"] = questions(run.get("interrupts") or (state["interrupts"] if state else []))
    return shown


def locations(run: Mapping[str, Any]) -> dict[str, str]:
    """The headers that say where a run is."""
    path = f"/threads/{run['thread_id']}/runs/{run['_id']}"
    return {"Location": path, "Content-Location": path}
