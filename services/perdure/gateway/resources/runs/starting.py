"""Starts a run on a thread, or resumes the thread by a command.

A start is one decision, one durable insert (two in parallel when the thread is made with it) and a command that is published after
the answer is certain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, cast

from aiohttp import web

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.payload import Packed, pack
from perdure.chassis.telemetry import logger
from perdure.gateway.auth.caller import caller_of, tenant_of
from perdure.gateway.auth.reach import reach_of, stamped
from perdure.gateway.http.preferences import StartStatus, accepted
from perdure.gateway.http.problems import RequestProblem, invalid, not_supported
from perdure.gateway.http.requests import read_bodies, read_body, request_digest, require_metadata
from perdure.gateway.http.responses import json_response
from perdure.gateway.resources.named import is_thread_id, require_here, unknown_thread
from perdure.gateway.resources.runs.startable import require_startable
from perdure.gateway.resources.runs.views import locations, payload_of, run_view, traceparent_of
from perdure.gateway.resources.states import States
from perdure.gateway.resources.targets import require_webhook
from perdure.gateway.stores.commands import SOURCE, cancel_record, publish
from perdure.gateway.stores.graphs import ServedGraphs
from perdure.gateway.stores.idempotency import run_key
from perdure.gateway.stores.payloads import is_shown, shown_payload
from perdure.gateway.stores.quotas import Quotas
from perdure.gateway.stores.store import IdempotencyTaken, Store, ThreadBusy
from perdure.registry.runs import assistant_id_of, new_id, new_traceparent, publish_start, run_document
from perdure.registry.superseding import SUPERSEDING
from perdure.registry.threads import thread_document
from perdure.schemas.commands import StartReason
from perdure.schemas.documents import RunDocument, ThreadDocument, ThreadStatus
from perdure.schemas.http import RunCreate
from perdure.schemas.notices import WebhookFormat
from perdure.schemas.scopes import Scope
from perdure.schemas.thread_ids import qualifier, stored_id

log = logger(__name__)

BATCH_LIMIT = 1_000
"""Runs of one ``POST /runs/batch``; larger batches are what ``POST /batches`` is for."""
PACK_ASIDE_BYTES = 1024 * 1024
"""A larger request is packed beside the event loop."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that may be registered."""

    run: RunDocument
    packed: Packed
    thread: ThreadDocument | None
    """The thread that is made with it, if any."""
    payload: Mapping[str, Any]
    after: int
    """A sequence number of its thread that all entries of the run are after."""

    def view(self) -> dict[str, Any]:
        """The run as clients see it; without a request that is too large to repeat."""
        return run_view(self.run, self.payload if is_shown(self.packed) else None)


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
    payload: Mapping[str, Any] | None = None
    """What it was started with; ``None`` where that has to be read."""
    after: int | None = None
    """A sequence number of its thread that all entries of the run are after; ``None`` where that has to be read."""

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
        quotas: Quotas,
        *,
        status: StartStatus = "auto",
        webhook_format: WebhookFormat = WebhookFormat.STANDARD,
    ) -> None:
        self._store = store
        self._states = states
        self._graphs = graphs
        self._producer = producer
        self._quotas = quotas
        self._status = status
        self._webhook_format = webhook_format
        """Of the webhooks of runs whose request names none."""

    async def answer(self, request: web.Request, thread_id: str | None) -> web.Response:
        """Start the run that a request asks for, and answer it: 202, or 200 for who cannot read a 202."""
        started = await self.start(request, thread_id)
        status, applied = accepted(request, self._status)
        return json_response(started.view, status=status, headers={**started.headers, **applied})

    async def start(self, request: web.Request, thread_id: str | None, *, streams: bool = False) -> Started:
        """Start the run that a request asks for; without a thread id the thread is made with the run.

        ``streams``: the request reads the run as a stream.
        """
        wanted, body = await read_body(request, RunCreate)
        if wanted.command is not None and wanted.command.model_dump(exclude_none=True):
            caller_of(request).require(Scope.APPROVALS_ANSWER)  # a command acts in place of the person who is asked
        if streams and wanted.stream_mode is None:
            wanted = wanted.model_copy(update={"stream_mode": "values"})
        started = await self._start(request, thread_id, wanted, body)
        return replace(started, cancel_on_disconnect=wanted.on_disconnect == "cancel")

    async def _start(self, request: web.Request, thread_id: str | None, wanted: RunCreate, body: Any) -> Started:
        key = run_key(request)
        digest = request_digest(request.path, body) if key is not None else None
        try:
            prepared = await self._prepare(request, wanted, body, thread_id, key)
        except RequestProblem:
            if (earlier := await self._earlier(request, key)) is None:
                raise
            return await self._replayed(earlier, digest)
        if digest is not None:
            prepared.run["idempotency_digest"] = digest
        try:
            await self._register(prepared)
        except (IdempotencyTaken, ThreadBusy) as refused:
            if (earlier := await self._earlier(request, key)) is not None:
                return await self._replayed(earlier, digest)
            if isinstance(refused, ThreadBusy):
                raise _busy(prepared.run["thread_id"]) from None
            raise
        return Started(prepared.run, prepared.view(), payload=prepared.payload, after=prepared.after)

    async def _earlier(self, request: web.Request, key: str | None) -> dict[str, Any] | None:
        """The run that an earlier request with this key started; ``None`` without a key."""
        return None if key is None else await self._store.run_of_key(tenant_of(request), key)

    async def start_batch(self, request: web.Request) -> web.Response:
        """Answer the request for several runs, each on a thread made for it: all are checked before one is registered."""
        bodies = await read_bodies(request, RunCreate, BATCH_LIMIT)
        prepared = [
            await self._prepare(request, wanted, body, None, None, number)
            for number, (wanted, body) in enumerate(bodies)
        ]
        await asyncio.gather(*(self._register(one) for one in prepared))
        return json_response([one.view() for one in prepared])

    async def _prepare(
        self,
        request: web.Request,
        wanted: RunCreate,
        body: Mapping[str, Any],
        thread_id: str | None,
        key: str | None,
        number: int = 0,
    ) -> Prepared:
        """Check a request and make its run's document; ``number``: of the body, where the request has several.

        Raises:
            RequestProblem: the run cannot be started.

        """
        tenant = tenant_of(request)
        self._quotas.starts(tenant)
        _require_supported(wanted, stateless=thread_id is None)
        require_webhook(wanted.webhook)
        graph = await self._graphs.resolve(wanted.assistant_id)
        new_thread = thread_id is None  # an id that a client chose may have been given another run already
        thread = await self._thread_for(request, thread_id, wanted, graph["_id"], number)
        if thread_id is not None and wanted.multitask_strategy == "reject" and await self._store.is_busy(thread_id):
            raise _busy(thread_id)
        payload = payload_of(body, wanted)
        await require_startable(self._store, self._states, thread, wanted, payload, new_thread=new_thread)
        await self._quotas.start(tenant, None if new_thread else thread["_id"])
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
            webhook_format=wanted.webhook_format or self._webhook_format,
            user=caller_of(request).auth_user,
        )
        if (first := _continued_chain(thread, wanted)) is not None:
            run["first_run_id"] = first
        if wanted.after_seconds:
            run["delayed"], run["start_at"] = True, run["created_at"] + timedelta(seconds=wanted.after_seconds)
        if "batch" in thread:
            run["batch"] = thread["batch"]
        if wanted.on_completion == "delete":
            run["ephemeral"] = thread["ephemeral"] = True
        return Prepared(run, packed, thread if new_thread else None, payload, int(thread.get("seq") or 0))

    async def _register(self, prepared: Prepared) -> None:
        """Make a run durable, ask the runs that it supersedes to end, and publish its start."""
        run, thread = prepared.run, prepared.thread
        if thread is not None:
            thread["last_run_id"] = run["_id"]
        await self._store.register(run, prepared.packed, thread)
        if run["multitask_strategy"] in SUPERSEDING:
            await self._end_superseded(run)
        if not run.get("delayed"):
            publish_start(self._producer, run, StartReason.REGISTERED, SOURCE)

    async def _end_superseded(self, run: RunDocument) -> None:
        """Ask the runs that this one supersedes to end. A failure loses nothing: workers derive it from what is stored, too."""
        try:
            ended = await self._store.end_superseded(run["thread_id"], now())
        except RequestProblem as problem:
            log.warning("run.superseding_left", run_id=run["_id"], thread_id=run["thread_id"], error=str(problem))
            return
        for one in ended:
            publish(self._producer, cancel_record(one, one.get("traceparent") or new_traceparent()))

    async def _thread_for(
        self, request: web.Request, thread_id: str | None, wanted: RunCreate, graph_id: str, number: int
    ) -> ThreadDocument:
        """The thread of a new run; without an id one that is yet to be written, together with the run."""
        tenant, auth = tenant_of(request), stamped(request, number)
        if thread_id is None:
            return _made(stored_id(tenant, new_id()), tenant, wanted, graph_id, auth)
        found: Any = await self._store.thread(thread_id, tenant)
        if found is not None:
            if not reach_of(request).covers(found):
                raise unknown_thread(thread_id)
            require_here(found)
            return cast("ThreadDocument", found)
        if wanted.if_not_exists != "create":
            raise unknown_thread(thread_id)
        if not is_thread_id(thread_id.removeprefix(qualifier(tenant))):
            raise invalid("path:thread_id", "must be 1 to 128 of A-Z a-z 0-9 . _ : -")
        made = _made(thread_id, tenant, wanted, graph_id, auth)
        await self._quotas.threads(tenant)
        if await self._store.create_thread(made):
            return made
        found = await self._store.thread(thread_id, tenant)  # another request made it meanwhile
        if found is None or not reach_of(request).covers(found):
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
        return Started(run, run_view(run, shown_payload(run), chains[run["_id"]]), replayed=True)


def _busy(thread_id: str) -> RequestProblem:
    return RequestProblem(
        "thread-busy",
        f'Thread {thread_id!r} has an active run and multitask_strategy is "reject". Wait for it, cancel it, or '
        'send multitask_strategy: "enqueue".',
    )


def _continued_chain(thread: Mapping[str, Any], wanted: RunCreate) -> str | None:
    """The first run of the chain that a request resumes; ``None`` for a request that begins a chain."""
    resumes = wanted.command is not None and wanted.command.resume is not None
    if not resumes or thread.get("status") != ThreadStatus.INTERRUPTED:
        return None
    return thread.get("first_run_id") or thread.get("ended_run_id")


def _made(thread_id: str, tenant: str, wanted: RunCreate, graph_id: str, auth: Mapping[str, Any]) -> ThreadDocument:
    thread = thread_document(thread_id, tenant, wanted.metadata, now())
    thread.update(auth)  # type: ignore[typeddict-item]
    thread["graph_id"], thread["assistant_id"] = graph_id, assistant_id_of(graph_id)
    return thread


def _require_supported(wanted: RunCreate, *, stateless: bool) -> None:
    require_metadata(wanted.metadata)
    command = wanted.command
    if command is not None and command.resume is None and command.update is None and command.goto is None:
        raise invalid("/command/resume", "null is no answer: an interrupt cannot be resumed with it")
    if wanted.on_completion == "delete" and not stateless:
        raise not_supported(
            "/on_completion",
            'on_completion "delete" deletes the thread that is made with a run: send the run to /runs without a thread, or '
            "delete this thread yourself when you need it no more.",
        )
