"""Changing threads: metadata, time to live, copies, deleting, pruning (ADR 31, ADR 33).

Contract: a thread that was deleted is gone for every reader when the answer is sent. One compare-and-set on its document decides;
the scheduler then ends its run and removes what belongs to the thread, wherever that is (``perdure.archive.removing``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from perdure.archive.pruning import Pruner
from perdure.archive.removing import HIDING, removal
from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.gateway.auth.caller import tenant_of
from perdure.gateway.auth.reach import reach_of
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.requests import read_body, require_metadata
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, TEXT, Parameter, Route
from perdure.gateway.http.thread_ids import own_thread_id
from perdure.gateway.resources.named import THREAD, being_purged, require_here, require_known, require_thread
from perdure.gateway.resources.states import States
from perdure.gateway.resources.threads.living import ttl_mark
from perdure.gateway.resources.threads.views import thread_view
from perdure.gateway.stores.quotas import Quotas
from perdure.gateway.stores.store import Store
from perdure.registry.runs import new_id
from perdure.registry.threads import thread_document
from perdure.schemas import http, thread_http
from perdure.schemas.batch_documents import BATCHES
from perdure.schemas.documents import RUNS, THREADS, ArchiveState, ThreadDocument
from perdure.schemas.scopes import Scope
from perdure.schemas.state_documents import TtlMark
from perdure.schemas.thread_http import ThreadPatch, ThreadPrune

Document = dict[str, Any]

COPIED: Final = ("status", "head", "next", "interrupts", "questions_moved", "error", "graph_id", "assistant_id")
"""What a copy has of its source's document: where its states stand."""
MINIMAL: Final = "return=minimal"
PREFER = Parameter("Prefer", TEXT, "`return=minimal`: 204 without the thread.", "header")


class ThreadChanges:
    """The changes of threads' documents. Belongs to one event loop."""

    def __init__(self, database: Database, store: Store) -> None:
        self._threads = database[THREADS]
        self._runs = database[RUNS]
        self._batches = database[BATCHES]
        self._store = store

    async def merge(
        self, thread: Mapping[str, Any], metadata: Mapping[str, Any], stamp: Mapping[str, Any], ttl: TtlMark | None
    ) -> None:
        """Add or replace keys of a thread's metadata, and set its time to live anew if one is given.

        ``stamp``: what ``auth`` handlers put into the metadata.
        """
        merged = {"$mergeObjects": ["$metadata", {"$literal": dict(metadata)}]}
        change: list[Document] = [{"$set": {"metadata": merged, "updated_at": {"$literal": now()}}}]
        if stamp:
            change += [{"$set": {"auth": {"$mergeObjects": ["$auth", {"$literal": dict(stamp)}]}}}]
        if ttl is not None:
            change += [{"$unset": "ttl"}, {"$set": {"ttl": {"$literal": ttl}}}]
        await self._store.read(lambda: self._threads.update_one({"_id": thread["_id"]}, change))

    async def open_batch(self, thread: Mapping[str, Any]) -> str | None:
        """The batch that the thread is an item of, if the batch is not finished."""
        batch = thread.get("batch")
        if batch is None:
            return None
        found = await self._store.read(lambda: self._batches.find_one({"_id": batch["id"], "open": True}, {"_id": 1}))
        return None if found is None else str(found["_id"])

    async def remove(self, thread: Mapping[str, Any]) -> bool:
        """Mark a thread as removed, also again; false when it is under legal hold, or being purged."""
        query, change = removal(thread)
        done = await self._store.read(lambda: self._threads.update_one(query, change))
        if not done.matched_count:
            marked = {"_id": thread["_id"], "archive.state": ArchiveState.REMOVING.value}
            if await self._store.read(lambda: self._threads.find_one(marked, {"_id": 1})) is None:
                return False
        await self._store.read(lambda: self._runs.update_many({"thread_id": thread["_id"]}, HIDING))
        return True


class ThreadChangesResource:
    """Threads: change, copy, delete, prune."""

    def __init__(self, store: Store, states: States, changes: ThreadChanges, pruner: Pruner, quotas: Quotas) -> None:
        self._store = store
        self._states = states
        self._changes = changes
        self._pruner = pruner
        self._quotas = quotas

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/threads/prune", self.prune, "pruneThreads", "Delete threads, or their older states", "Threads",
                {200: thread_http.ThreadsPruned}, thread_http.ThreadPrune, problems=BODY, scope=Scope.THREADS_WRITE,
            ),
            Route(
                "PATCH", "/threads/{thread_id}", self.patch, "updateThread",
                "Add or replace keys of a thread's metadata, set its time to live", "Threads",
                {200: http.Thread, 204: "Changed."}, thread_http.ThreadPatch, (PREFER,), (*BODY, *THREAD),
                scope=Scope.THREADS_WRITE,
            ),
            Route(
                "DELETE", "/threads/{thread_id}", self.delete, "deleteThread",
                "Delete a thread with everything of it; an active run is cancelled", "Threads", {204: "Deleted."},
                problems=(*THREAD, "thread-held", "thread-busy"), scope=Scope.THREADS_WRITE,
            ),
            Route(
                "POST", "/threads/{thread_id}/copy", self.copy, "copyThread",
                "Make a thread with the metadata and all states of another", "Threads", {200: http.Thread},
                problems=(*THREAD, "thread-busy"), scope=Scope.THREADS_WRITE,
            ),
        )
        # fmt: on

    async def patch(self, request: web.Request) -> web.Response:
        """``PATCH /threads/{thread_id}``."""
        wanted, _ = await read_body(request, ThreadPatch)
        thread = await require_thread(self._store, request)
        metadata = wanted.metadata or {}
        stamp = reach_of(request).stamp()
        metadata |= {**(thread.get("auth") or {}), **stamp} if metadata or stamp else {}
        require_metadata({**(thread.get("metadata") or {}), **metadata})
        await self._changes.merge(
            thread, metadata, stamp, ttl_mark(wanted.ttl, now()) if wanted.ttl is not None else None
        )
        if MINIMAL in request.headers.get("Prefer", ""):
            return web.Response(status=204)
        return json_response(await self._shown(await require_thread(self._store, request)))

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /threads/{thread_id}``."""
        thread = await require_known(self._store, request)
        if (batch := await self._changes.open_batch(thread)) is not None:
            raise RequestProblem(
                "thread-busy",
                f"Thread {thread['_id']!r} is an item of batch {batch!r}, which is not finished. Wait for it, or cancel the "
                f"batch with POST /batches/{batch}/cancel.",
            )
        if not await self._changes.remove(thread):
            raise _kept(await require_known(self._store, request))
        return web.Response(status=204)

    async def copy(self, request: web.Request) -> web.Response:
        """``POST /threads/{thread_id}/copy``."""
        source = await require_thread(self._store, request)
        thread_id = str(source["_id"])
        if await self._store.is_busy(thread_id):
            raise RequestProblem(
                "thread-busy",
                f"A run of thread {thread_id!r} is active: its states cannot be copied now. Wait or cancel it.",
            )
        await self._quotas.threads(tenant_of(request))
        made: ThreadDocument = thread_document(
            own_thread_id(request, new_id()), tenant_of(request), source.get("metadata"), now()
        )
        made.update({name: source[name] for name in COPIED if name in source})  # type: ignore[typeddict-item]
        if auth := {**(source.get("auth") or {}), **reach_of(request).stamp()}:
            made["auth"], made["metadata"] = auth, {**made["metadata"], **auth}
        await self._store.patiently(self._states.copy(thread_id, made["_id"]))
        await self._store.create_thread(made)
        return json_response(await self._shown(dict(made)), headers={"Location": f"/threads/{made['_id']}"})

    async def prune(self, request: web.Request) -> web.Response:
        """``POST /threads/prune``."""
        wanted, _ = await read_body(request, ThreadPrune)
        tenant = tenant_of(request)
        pruned = 0
        for thread_id in dict.fromkeys(wanted.thread_ids):
            thread = await self._store.thread(thread_id, tenant)
            if thread is not None and reach_of(request).covers(thread):
                latest = wanted.strategy == "keep_latest"
                pruned += await (self._keep_latest(thread) if latest else self._remove(thread))
        return json_response({"pruned_count": pruned})

    async def _remove(self, thread: Mapping[str, Any]) -> bool:
        return await self._changes.open_batch(thread) is None and await self._changes.remove(thread)

    async def _keep_latest(self, thread: Mapping[str, Any]) -> bool:
        try:
            require_here(thread)
        except RequestProblem:
            return False
        if "hold" in thread or await self._store.unsettled(thread["_id"]):
            return False
        await self._store.patiently(self._pruner.keep_latest(thread))
        return True

    async def _shown(self, thread: Mapping[str, Any]) -> Document:
        head = thread.get("head")
        busy, newest = await asyncio.gather(
            self._store.is_busy(thread["_id"]), self._store.patiently(self._states.newest(thread["_id"], floor=head))
        )
        return thread_view(thread, busy=busy, state=newest)


def _kept(thread: Mapping[str, Any]) -> RequestProblem:
    """Why a thread could not be removed."""
    hold = thread.get("hold")
    if hold is None:
        return RequestProblem("thread-archived", being_purged(thread["_id"]))
    return RequestProblem(
        "thread-held",
        f"Thread {thread['_id']!r} is under legal hold: {hold['reason']} ({hold['by']}). End the hold with DELETE "
        f"/threads/{thread['_id']}/hold before you delete the thread.",
    )
