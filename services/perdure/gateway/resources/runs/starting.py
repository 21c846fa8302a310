"""Starts a run on a thread, or resumes the thread by a command.

A start is one decision, one durable insert (two in parallel when the thread is made with it) and a command that is published after
the answer is certain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from aiohttp import web

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.payload import Packed, pack
from perdure.gateway.http.preferences import StartStatus, accepted
from perdure.gateway.http.problems import RequestProblem, invalid, not_supported
from perdure.gateway.http.requests import IDEMPOTENCY_KEY, idempotency_key, read_body, request_digest, require_metadata
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.resources.named import is_thread_id, require_here, unknown_thread
from perdure.gateway.resources.runs.startable import require_startable
from perdure.gateway.resources.runs.views import locations, payload_of, run_view, traceparent_of
from perdure.gateway.resources.states import States
from perdure.gateway.resources.targets import require_webhook
from perdure.gateway.stores.commands import SOURCE
from perdure.gateway.stores.graphs import ServedGraphs
from perdure.gateway.stores.store import IdempotencyTaken, Store
from perdure.registry.runs import assistant_id_of, new_id, publish_start, run_document
from perdure.registry.threads import thread_document
from perdure.schemas.commands import StartReason
from perdure.schemas.documents import RunDocument, ThreadDocument, ThreadStatus
from perdure.schemas.http import RunCreate

OWN_KEYS = ("wake:", "schedule:", "retry:")
"""Runs that Perdure starts itself have keys with these beginnings: the insert of a waking run decides a wait (ADR 6), and there is
one retry of a failed run."""
PACK_ASIDE_BYTES = 1024 * 1024
"""A larger request is packed beside the event loop."""


@dataclass(frozen=True, slots=True)
class Started:
    """A run that a request started, now or when it was sent before."""

    run: Mapping[str, Any]
    """Its document."""
    view: dict[str, Any]
    """The run as clients see it."""
    replayed: bool = False
    """An earlier request with the same ``Idempotency-Key`` started it."""
    cancel_on_disconnect: bool = False
    """Cancel it when the client that waits for it goes away."""

    @property
    def headers(self) -> dict[str, str]:
        """Where the run is, and whether this is a replay."""
        return locations(self.run) | ({"Idempotent-Replayed": "true"} if self.replayed else {})


class Starter:
    """Starts runs."""

    def __init__(
        self,
        store: Store,
        states: States,
        graphs: ServedGraphs,
        producer: Producer,
        *,
        status: StartStatus = "auto",
    ) -> None:
        self._store = store
        self._states = states
        self._graphs = graphs
        self._producer = producer
        self._status = status

    async def answer(self, request: web.Request, thread_id: str | None) -> web.Response:
        """Start the run that a request asks for, and answer it: 202, or 200 for who cannot read a 202."""
        started = await self.start(request, thread_id)
        status, applied = accepted(request, self._status)
        return json_response(started.view, status=status, headers={**started.headers, **applied})

    async def start(self, request: web.Request, thread_id: str | None) -> Started:
        """Start the run that a request asks for; without a thread id the thread is made with the run."""
        wanted, body = await read_body(request, RunCreate)
        started = await self._start(request, thread_id, wanted, body)
        return replace(started, cancel_on_disconnect=wanted.on_disconnect == "cancel")

    async def _start(self, request: web.Request, thread_id: str | None, wanted: RunCreate, body: Any) -> Started:
        tenant = tenant_of(request)
        _require_supported(wanted)
        require_webhook(wanted.webhook)
        key = run_key(request)
        digest = request_digest(request.path, body) if key is not None else None
        graph = await self._graphs.resolve(wanted.assistant_id)
        new_thread = thread_id is None  # an id that a client chose may have been given another run already
        thread = await self._thread_for(thread_id, tenant, wanted, graph["_id"])
        if thread_id is not None and wanted.multitask_strategy == "reject" and await self._store.is_busy(thread_id):
            if key is not None and (earlier := await self._store.run_of_key(tenant, key)) is not None:
                return await self._replayed(earlier, digest)
            raise RequestProblem(
                "thread-busy",
                f'Thread {thread_id!r} has an active run and multitask_strategy is "reject". Wait for it, cancel it, or '
                'send multitask_strategy: "enqueue".',
            )
        payload = payload_of(body, wanted)
        try:
            await require_startable(self._store, self._states, thread, wanted, payload, new_thread=new_thread)
        except RequestProblem:
            if key is not None and (earlier := await self._store.run_of_key(tenant, key)) is not None:
                return await self._replayed(earlier, digest)
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
            traceparent=traceparent_of(request.headers.get("traceparent")),
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
        return await self._register(run, packed, thread if new_thread else None, payload)

    async def _register(
        self, run: RunDocument, packed: Packed, thread: ThreadDocument | None, payload: Mapping[str, Any]
    ) -> Started:
        if thread is not None:
            thread["last_run_id"] = run["_id"]
        try:
            await self._store.register(run, packed, thread)
        except IdempotencyTaken:
            earlier = await self._store.run_of_key(run["tenant"], run["idempotency_key"])
            if earlier is None:
                raise
            return await self._replayed(earlier, run["idempotency_digest"])
        publish_start(self._producer, run, StartReason.REGISTERED, SOURCE)
        return Started(run, run_view(run, None if packed.chunks else payload))

    async def _thread_for(self, thread_id: str | None, tenant: str, wanted: RunCreate, graph_id: str) -> ThreadDocument:
        """The thread of a new run; without an id one that is yet to be written, together with the run."""
        if thread_id is None:
            return _made(new_id(), tenant, wanted, graph_id)
        found: Any = await self._store.thread(thread_id, tenant)
        if found is not None:
            require_here(found)
            return cast("ThreadDocument", found)
        if wanted.if_not_exists != "create":
            raise unknown_thread(thread_id)
        if not is_thread_id(thread_id):
            raise invalid("path:thread_id", "must be 1 to 128 of A-Z a-z 0-9 . _ : -")
        made = _made(thread_id, tenant, wanted, graph_id)
        if await self._store.create_thread(made):
            return made
        found = await self._store.thread(thread_id, tenant)  # another request made it meanwhile
        if found is None:
            raise RequestProblem("thread-exists", f"Thread id {thread_id!r} is taken; choose another.")
        return cast("ThreadDocument", found)

    async def _replayed(self, run: dict[str, Any], digest: str | None) -> Started:
        if run.get("idempotency_digest") != digest:
            raise RequestProblem(
                "idempotency-conflict",
                f"The Idempotency-Key was used for run {run['_id']!r} with another request. Use a new key for a new request.",
                headers={"Location": locations(run)["Location"]},
            )
        chains = await self._store.chains([run])
        kwargs = None if run.get("payload_chunks") else await self._store.kwargs(run)
        return Started(run, run_view(run, kwargs, chains[run["_id"]]), replayed=True)


def run_key(request: web.Request) -> str | None:
    """The ``Idempotency-Key`` of a run, or ``None``; those that Perdure gives its own runs are refused."""
    key = idempotency_key(request)
    if key is not None and key.startswith(OWN_KEYS):
        detail = f"must not begin with {' or '.join(OWN_KEYS)}: runs that Perdure starts itself have such keys"
        raise invalid(f"header:{IDEMPOTENCY_KEY}", detail)
    return key


def _continued_chain(thread: Mapping[str, Any], wanted: RunCreate) -> str | None:
    """The first run of the chain that a request resumes; ``None`` for a request that begins a chain."""
    resumes = wanted.command is not None and wanted.command.resume is not None
    if not resumes or thread.get("status") != ThreadStatus.INTERRUPTED:
        return None
    return thread.get("first_run_id") or thread.get("ended_run_id")


def _made(thread_id: str, tenant: str, wanted: RunCreate, graph_id: str) -> ThreadDocument:
    thread = thread_document(thread_id, tenant, wanted.metadata, now())
    thread["graph_id"], thread["assistant_id"] = graph_id, assistant_id_of(graph_id)
    return thread


def _require_supported(wanted: RunCreate) -> None:
    require_metadata(wanted.metadata)
    command = wanted.command
    if command is not None:
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
