"""Changing states: registers the update, waits for the worker that makes it, says what came of it (ADR 33).

Contract: an update that was answered with a checkpoint is durable and was made once; one that was refused changed nothing. Where
this gateway cannot say which, it says so (``update-pending``), names the run that decides, and never sends the update again by
itself. The run's document is what is waited for: it is right also while Kafka is slow or away.

Outside: making the update (``perdure.agent_step.updating``); the gateway imports no user code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.payload import Packed, pack
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.resources.named import require_here, unknown_checkpoint, unknown_thread
from perdure.gateway.resources.states.reader import States
from perdure.gateway.stores.commands import SOURCE
from perdure.gateway.stores.graphs import ServedGraphs
from perdure.gateway.stores.store import IdempotencyTaken, Store
from perdure.gateway.stores.workers import Workers
from perdure.gateway.streams.watch import RunWatch
from perdure.registry.runs import new_traceparent, publish_start, run_document
from perdure.schemas.commands import StartReason
from perdure.schemas.documents import GraphDocument, RunDocument, RunKind, RunStatus, ThreadStatus
from perdure.schemas.problem import InvalidField
from perdure.schemas.state_updates import CANCELLED, MOVED_ON, NO_CHECKPOINT

Document = dict[str, Any]

ATTEMPTS: Final = 3
"""How often an update is tried that another run overtook each time."""
PACK_ASIDE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Update:
    """What a client asks for.

    Attributes:
        supersteps: Of each superstep its updates: ``values`` or ``command``, and ``as_node``.
        checkpoint_ns: The namespace of the state; the root's is empty.
        checkpoint_id: The checkpoint to change; ``None``: the newest.
        checkpoint_map: As LangGraph gave it to the client.
        key: The idempotency key, with the digest of the request.
        nbytes: About how large the request is.
        user: Who asks, as runs have it.

    """

    supersteps: list[list[Document]]
    checkpoint_ns: str = ""
    checkpoint_id: str | None = None
    checkpoint_map: Document | None = None
    key: tuple[str, str] | None = None
    nbytes: int = 0
    user: bytes | None = None

    def after(self, run_id: str) -> Update:
        """The update to ask for when the run of its key has not made it.

        Its key names that run, so that of several repeats one asks, and no request's own key is like it: those have no line break.
        """
        return self if self.key is None else replace(self, key=(f"{self.key[0]}\n{run_id}", self.key[1]))

    def payload(self) -> Document:
        """What the run's document keeps of it."""
        given = {
            "supersteps": self.supersteps,
            "checkpoint_ns": self.checkpoint_ns,
            "checkpoint_id": self.checkpoint_id,
            "checkpoint_map": self.checkpoint_map,
        }
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True, slots=True)
class Updated:
    """What came of an update: the checkpoint that it made."""

    checkpoint: Document
    replayed: bool = False
    """An earlier request with the same key made it."""


class StateUpdates:
    """Changes states."""

    def __init__(
        self,
        store: Store,
        states: States,
        graphs: ServedGraphs,
        workers: Workers,
        producer: Producer,
        *,
        ended: RunWatch,
        timeout_s: float,
    ) -> None:
        self._store = store
        self._states = states
        self._graphs = graphs
        self._workers = workers
        self._producer = producer
        self._ended = ended
        self._timeout_s = timeout_s

    async def apply(self, thread: Mapping[str, Any], update: Update) -> Updated:
        """Change the state of a thread at rest.

        Raises:
            RequestProblem: ``thread-busy``, ``unknown-checkpoint``, ``no-graph``, ``unknown-graph``, ``no-worker``,
                ``update-refused``, ``idempotency-conflict``: nothing was changed. ``update-pending``: it may still be.
                ``update-unknown``: it may have been.

        """
        thread_id, tenant = str(thread["_id"]), str(thread["tenant"])
        while update.key is not None and (earlier := await self._store.run_of_key(tenant, update.key[0])) is not None:
            if (replayed := await self._replayed(earlier, update.key[1])) is not None:
                return replayed
            update = update.after(earlier["_id"])
        graph = await self._served_graph(thread)
        await self._require_checkpoint(thread_id, update)
        packed = await _packed(update)
        for _ in range(ATTEMPTS):
            run = await self._register(thread_id, tenant, graph, update, packed)
            if run is None:
                return await self.apply(thread, update)  # another request with this key came first
            ended = await self._wait(run)
            checkpoint = _checkpoint_of(ended)
            if checkpoint is not None:
                return Updated(checkpoint)
            if not _was_overtaken(ended):
                raise _refusal(ended)
            update = update.after(run["_id"])
        raise _not_made(thread_id, "each time a run of it came before the update")

    async def require_served(self, thread: Mapping[str, Any]) -> None:
        """Refuse what :meth:`apply` would refuse for the thread's graph.

        Raises:
            RequestProblem: ``no-graph``, ``unknown-graph``, ``no-worker``.

        """
        await self._served_graph(thread)

    async def _replayed(self, run: Mapping[str, Any], digest: str) -> Updated | None:
        """What came of an earlier request with the same key; ``None`` if its update was not made: a repeat makes it."""
        if run.get("idempotency_digest") != digest:
            raise RequestProblem(
                "idempotency-conflict",
                f"The Idempotency-Key was used for run {run['_id']!r} with another request. Use a new key for a new request.",
            )
        ended = await self._wait(run)
        checkpoint = _checkpoint_of(ended)
        if checkpoint is not None:
            return Updated(checkpoint, replayed=True)
        if _refused(ended).get("type") in (MOVED_ON, CANCELLED):
            return None
        raise _refusal(ended)

    async def _served_graph(self, thread: Mapping[str, Any]) -> GraphDocument:
        """The thread's graph, which living workers serve that all make updates."""
        metadata = thread.get("metadata") or {}
        named = thread.get("graph_id") or metadata.get("graph_id") or metadata.get("assistant_id")
        if not isinstance(named, str):
            raise RequestProblem(
                "no-graph",
                f"Thread {thread['_id']!r} belongs to no graph yet. Start a run on it first, or name the graph in its metadata: "
                '{"graph_id": ...}.',
            )
        graph = await self._graphs.resolve(named)
        serving = await self._workers.serving(graph["_id"])
        if not serving:
            raise RequestProblem(
                "no-worker",
                f"No living worker serves graph {graph['_id']!r}, whose code a state update needs. Nothing was changed; start an "
                "agent-step that serves it and try again.",
                headers={"Retry-After": "5"},
            )
        if not all(worker.get("updates") for worker in serving):
            raise RequestProblem(
                "no-worker",
                f"A worker of an earlier version, which makes no state updates, serves graph {graph['_id']!r}. Nothing was "
                "changed; upgrade every agent-step that serves it and try again.",
                headers={"Retry-After": "5"},
            )
        return graph

    async def _require_checkpoint(self, thread_id: str, update: Update) -> None:
        if update.checkpoint_id is not None and not await self._store.patiently(
            self._states.exists(thread_id, update.checkpoint_id, update.checkpoint_ns)
        ):
            raise unknown_checkpoint(thread_id, update.checkpoint_id)

    async def _register(
        self, thread_id: str, tenant: str, graph: GraphDocument, update: Update, packed: Packed
    ) -> RunDocument | None:
        """Register the update of a thread that is at rest now; ``None`` when its idempotency key is taken."""
        if await self._store.is_busy(thread_id):
            raise RequestProblem(
                "thread-busy",
                f"Thread {thread_id!r} has an active run. Wait for it or cancel it, then update the state.",
            )
        current = await self._store.thread(thread_id, tenant)
        if current is None:
            raise unknown_thread(thread_id)
        require_here(current)
        run = _document(current, graph, update, packed)
        try:
            await self._send(run, packed)
        except IdempotencyTaken:
            return None
        return run

    async def _send(self, run: RunDocument, packed: Packed) -> None:
        self._store.require_available()
        try:
            await self._store.register(run, packed, None)
        except RequestProblem as problem:
            raise _pending(run, "The database did not answer when the update was sent") from problem
        publish_start(self._producer, run, StartReason.REGISTERED, SOURCE)

    async def _wait(self, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """The run's document once the update has ended.

        Raises:
            RequestProblem: ``update-pending``.

        """
        done = await self._ended.wait(run["_id"], run["thread_id"], self._timeout_s)
        try:
            found = await self._store.run(run["_id"], run["thread_id"], run["tenant"])
        except RequestProblem as problem:
            raise _pending(run, "The database does not answer") from problem
        if found is None:
            raise unknown_thread(run["thread_id"])  # it was deleted meanwhile, with everything of it
        if not done and RunStatus(found["status"]).active:
            raise _pending(run, f"No worker ended it within {self._timeout_s:g} s")
        return found


async def _packed(update: Update) -> Packed:
    payload = update.payload()
    return await asyncio.to_thread(pack, payload) if update.nbytes > PACK_ASIDE_BYTES else pack(payload)


def _document(thread: Mapping[str, Any], graph: GraphDocument, update: Update, packed: Packed) -> RunDocument:
    run = run_document(
        tenant=thread["tenant"],
        thread_id=thread["_id"],
        graph_id=graph["_id"],
        graph_version=graph.get("version"),
        packed=packed,
        metadata=thread.get("metadata") or {},
        traceparent=new_traceparent(),
        moment=now(),
        idempotency_key=update.key[0] if update.key is not None else None,
        user=update.user,
    )
    run["kind"], run["at_seq"] = RunKind.UPDATE.value, thread.get("seq") or 0
    if update.key is not None:
        run["idempotency_digest"] = update.key[1]
    if thread.get("status") == ThreadStatus.INTERRUPTED and (first := thread.get("first_run_id")):
        run["first_run_id"] = first  # who resumes the thread later continues the chain that stands there
    return run


def _checkpoint_of(run: Mapping[str, Any]) -> Document | None:
    """The checkpoint that an update has made; ``None`` when it was refused."""
    made = (run.get("update") or {}).get("checkpoint")
    return None if made is None else {"thread_id": run["thread_id"], **made}


def _was_overtaken(run: Mapping[str, Any]) -> bool:
    return _refused(run).get("type") == MOVED_ON


def _refused(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """Why the worker did not make an update, as it recorded it; empty where it did not."""
    return (run.get("update") or {}).get("refused") or {}


def _refusal(run: Mapping[str, Any]) -> RequestProblem:
    """Why an update changed nothing, or that nobody knows whether it did."""
    reason, thread_id = _refused(run), run["thread_id"]
    if not reason:
        return _unknown(run)
    if reason["type"] == NO_CHECKPOINT:
        return RequestProblem("unknown-checkpoint", f"Nothing was changed: {reason['message']}.")
    if reason["type"] == CANCELLED:
        return _not_made(thread_id, "the update was cancelled before it was made")
    if reason["type"] == MOVED_ON:
        return _not_made(thread_id, "a run of it ended meanwhile")
    detail = f"{reason['type'].rpartition('.')[2]}: {reason['message']}"
    return RequestProblem(
        "update-refused",
        f"Graph {run['graph_id']!r} refuses the update, and nothing was changed: {detail}. Correct values or as_node.",
        (InvalidField(pointer="/as_node" if "as_node" in detail or "Node " in detail else "/values", detail=detail),),
    )


def _not_made(thread_id: str, why: str) -> RequestProblem:
    return RequestProblem(
        "thread-busy",
        f"The state of thread {thread_id!r} was not changed: {why}. Look at the thread, then send the update again.",
    )


def _unknown(run: Mapping[str, Any]) -> RequestProblem:
    path = f"/threads/{run['thread_id']}/runs/{run['_id']}"
    return RequestProblem(
        "update-unknown",
        f"The update, run {run['_id']!r}, ended as {run['status']}, and the worker did not record what it made: probably one of an "
        f"earlier version, which executed the graph in its place. Look at GET /threads/{run['thread_id']}/history before you send "
        "the update again, and upgrade every worker.",
        headers={"Location": path},
    )


def _pending(run: Mapping[str, Any], why: str) -> RequestProblem:
    path = f"/threads/{run['thread_id']}/runs/{run['_id']}"
    return RequestProblem(
        "update-pending",
        f"{why}: the update may still happen. GET {path} says what comes of it (success: it is made; error: refused; 404: it was "
        f"never registered), POST {path}/cancel takes it back. Do not send it again before you know, unless with the same "
        "Idempotency-Key.",
        headers={"Location": path},
    )
