"""The gateway's MongoDB adapter: registers threads and runs, reads them, requests cancellation.

Contract: a method returns when what it says is durable, and raises ``store-unavailable`` when the database does not answer within
``timeout_s`` seconds, at once while an outage is known. A write that was sent may then still happen: every write is keyed.
Reads and inserts of concurrent requests share round trips (``GroupRead``, ``GroupCommit``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, cast

from perdure.chassis.group_commit import DuplicateKey, GroupCommit
from perdure.chassis.group_read import GroupRead
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.chassis.payload import Packed
from perdure.gateway.http.problems import store_unavailable
from perdure.gateway.stores.chains import CONTINUED, chain_view
from perdure.gateway.stores.payloads import payloads_of, unpacked
from perdure.registry.superseding import ACTIVE, ask_to_end, cancel_change, superseded
from perdure.registry.superseding import FIELDS as SUPERSEDED_FIELDS
from perdure.schemas.documents import (
    GRAPHS,
    PAYLOADS,
    RUNS,
    THREADS,
    ArchiveState,
    CancelAction,
    GraphDocument,
    RunDocument,
    ThreadDocument,
    ThreadStatus,
)

T = TypeVar("T")
Document = dict[str, Any]


LISTED = {"deleted": None, "kind": None}
"""Filter: runs that lists show. A state update is found by its id only (ADR 33)."""
STALL_S = 2.0
"""A ping without an answer for longer counts as an outage, in seconds."""
PATIENCE = 10
CHAIN_FIELDS = dict.fromkeys(
    ("status", "first_seq", "first_run_id", "origin_run_id", "wait_id", "cancel_requested_at"), 1
)


class IdempotencyTaken(Exception):
    """Another run has this idempotency key; nothing was registered."""


class ThreadBusy(Exception):
    """A run that refuses to share its thread is active there already; nothing was registered."""


class _Overtaken(Exception):
    """Another run was started with ``reject`` after the same run."""


class Store:
    """Threads, runs, payloads and the graph registry. Belongs to one event loop."""

    def __init__(self, database: Database, availability: Availability, timeout_s: float) -> None:
        self.availability = availability
        self.timeout_s = timeout_s
        self._database = database
        self._threads = database[THREADS]
        self._runs = database[RUNS]
        self._payloads = database[PAYLOADS]
        self._graphs = database[GRAPHS]
        self._thread_commit = GroupCommit(self._threads, availability=availability)
        self.run_commit = GroupCommit(self._runs, availability=availability)
        """Shared with the waits, whose waking runs go the same way."""
        self._payload_commit = GroupCommit(self._payloads, availability=availability)
        self._thread_reads: GroupRead[str, Document] = GroupRead(self._by_id(self._threads), availability=availability)
        self._run_reads: GroupRead[str, Document] = GroupRead(self._by_id(self._runs), availability=availability)

    async def close(self) -> None:
        """Refuse new writes and wait for those that were submitted, at most the store's time-out."""
        commits = (self._thread_commit, self.run_commit, self._payload_commit)
        try:
            async with asyncio.timeout(self.timeout_s):
                await asyncio.gather(*(commit.close() for commit in commits))
        except TimeoutError:
            return  # whoever submitted was told 503

    async def within(self, work: Awaitable[T]) -> T:
        """Await ``work`` within the store's time-out.

        Raises:
            RequestProblem: ``store-unavailable``.

        """
        try:
            async with asyncio.timeout(self.timeout_s):
                return await work
        except TimeoutError:
            raise store_unavailable() from None

    async def patiently(self, work: Awaitable[T]) -> T:
        """Await work that moves many bytes: ten time-outs, but no longer than the database is known to answer.

        Raises:
            RequestProblem: ``store-unavailable``.

        """
        task = asyncio.ensure_future(work)
        try:
            for _ in range(PATIENCE):
                done, _ = await asyncio.wait({task}, timeout=self.timeout_s)
                if done:
                    return task.result()
                self.require_available()
            raise store_unavailable()
        finally:
            task.cancel()

    async def read(self, operation: Callable[[], Awaitable[T]]) -> T:
        """One operation on the database, repeated through an outage for as long as the time-out lasts.

        Raises:
            RequestProblem: ``store-unavailable``.

        """
        self.require_available()
        return await self.within(outlast(operation, self.availability))

    def require_available(self) -> None:
        """Raise ``store-unavailable`` while an outage is known."""
        if not self.availability.available:
            raise store_unavailable()

    async def ping(self) -> None:
        """Return when the database answers, however long it takes; a server that hangs counts as an outage."""
        asked = asyncio.ensure_future(outlast(lambda: self._database.command("ping"), self.availability))
        try:
            done, _ = await asyncio.wait({asked}, timeout=STALL_S)
            if not done:
                self.availability.lost()
                try:
                    await asyncio.wait({asked})
                finally:
                    self.availability.regained()
            asked.result()
        finally:
            asked.cancel()

    async def create_thread(self, thread: ThreadDocument) -> bool:
        """Register a thread; whether it is new."""
        self.require_available()
        return await self.within(self._insert_thread(thread))

    async def register(self, run: RunDocument, packed: Packed, thread: ThreadDocument | None) -> None:
        """Register a run, its payload's chunks and, if given, its new thread, in parallel.

        Raises:
            IdempotencyTaken: another run has its idempotency key.
            ThreadBusy: the run was asked for with ``reject``, and another such run of the thread is active.

        """
        self.require_available()
        bounded = self.patiently if packed.chunks else self.within
        await bounded(self._register(run, packed, thread))

    async def thread(self, thread_id: str, tenant: str) -> Document | None:
        """A thread of this tenant; one that is being removed is there no more."""
        found = await self._owned(self._thread_reads, thread_id, tenant)
        removed = found is not None and (found.get("archive") or {}).get("state") == ArchiveState.REMOVING
        return None if removed else found

    async def run(self, run_id: str, thread_id: str, tenant: str) -> Document | None:
        """A run of this thread and tenant."""
        found = await self.run_even_deleted(run_id, thread_id, tenant)
        return found if found is not None and not found.get("deleted") else None

    async def run_even_deleted(self, run_id: str, thread_id: str, tenant: str) -> Document | None:
        """A run of this thread and tenant, also one that clients do not see any more."""
        found = await self._owned(self._run_reads, run_id, tenant)
        return found if found is not None and found["thread_id"] == thread_id and not found.get("removing") else None

    async def run_of_key(self, tenant: str, key: str) -> Document | None:
        """The run that was registered with this idempotency key."""
        return await self.read(lambda: self._runs.find_one({"tenant": tenant, "idempotency_key": key}))

    async def is_busy(self, thread_id: str) -> bool:
        """Whether a run of the thread is pending or running."""
        query = {"thread_id": thread_id, "status": {"$in": ACTIVE}, "settled": False}
        return await self.read(lambda: self._runs.find_one(query, {"_id": 1})) is not None

    async def unsettled(self, thread_id: str) -> bool:
        """Whether a run of the thread has not told everything yet, or is not ended."""
        query = {"thread_id": thread_id, "settled": False}
        return await self.read(lambda: self._runs.find_one(query, {"_id": 1})) is not None

    async def busy_of(self, tenant: str, thread_ids: Sequence[str] | None = None) -> set[str]:
        """Ids of the tenant's threads that have a pending or running run; of ``thread_ids`` only, if given."""
        query: Document = {"tenant": tenant, "status": {"$in": ACTIVE}, "settled": False}
        if thread_ids is not None:
            query["thread_id"] = {"$in": list(thread_ids)}
        found = await self.read(lambda: self._runs.find(query, {"_id": 0, "thread_id": 1}).to_list(None))
        return {run["thread_id"] for run in found}

    async def thread_ids(self, tenant: str, clauses: Sequence[Document], limit: int) -> list[str]:
        """Ids of the tenant's threads that meet all clauses, archived threads too; at most ``limit``."""
        query: Document = {"tenant": tenant, "$and": list(clauses)}
        found = await self.read(lambda: self._threads.find(query, {"_id": 1}).limit(limit).to_list(None))
        return [thread["_id"] for thread in found]

    async def runs(
        self, thread_id: str, tenant: str, *, statuses: Sequence[str] | None, limit: int, offset: int
    ) -> list[Document]:
        """Runs of a thread without their payloads, newest first; ``statuses``: only in one of these."""
        query: Document = {"thread_id": thread_id, "tenant": tenant, **LISTED}
        if statuses is not None:
            query["status"] = {"$in": list(statuses)}
        return await self.read(
            lambda: self._runs.find(query, {"payload": 0}).sort("_id", -1).skip(offset).limit(limit).to_list(None)
        )

    async def chains(self, runs: Sequence[Mapping[str, Any]]) -> dict[str, Document]:
        """Where runs of one thread lead to (``perdure.gateway.stores.chains``), by run id; at most one query."""
        later: list[Document] = []
        if ended := [run for run in runs if run["status"] in CONTINUED]:
            oldest = min(run["_id"] for run in ended)
            query = {"thread_id": ended[0]["thread_id"], "_id": {"$gt": oldest}, **LISTED}
            later = await self.read(lambda: self._runs.find(query, CHAIN_FIELDS).to_list(None))
        return {run["_id"]: chain_view(run, later) for run in runs}

    async def at_rest(self, thread_ids: Sequence[str]) -> set[str]:
        """Those of the threads that have no active run and wait for nothing."""
        ids = {"$in": list(thread_ids)}
        waiting = {"_id": ids, "status": ThreadStatus.INTERRUPTED.value, "interrupts.0": {"$exists": True}}
        active = {"thread_id": ids, "status": {"$in": ACTIVE}, "settled": False}
        # Active runs first: a run that ends in between has brought its thread up to date, or is seen as active.
        busy = await self.read(lambda: self._runs.find(active, {"thread_id": 1}).to_list(None))
        parked = await self.read(lambda: self._threads.find(waiting, {"_id": 1}).to_list(None))
        return set(thread_ids) - {run["thread_id"] for run in busy} - {thread["_id"] for thread in parked}

    async def ended(self, run_ids: Sequence[str]) -> set[str]:
        """Those of the runs that are not active any more (or do not exist)."""
        query = {"_id": {"$in": list(run_ids)}, "status": {"$in": ACTIVE}}
        active = await self.read(lambda: self._runs.find(query, {"_id": 1}).to_list(None))
        return set(run_ids) - {found["_id"] for found in active}

    async def request_cancel(
        self,
        run_id: str,
        thread_id: str,
        tenant: str,
        moment: datetime,
        action: CancelAction = CancelAction.INTERRUPT,
    ) -> bool:
        """Ask for the end of an active run; false when it is not active. The first request's time is kept."""
        query = {"_id": run_id, "thread_id": thread_id, "tenant": tenant, "status": {"$in": ACTIVE}}
        result = await self.read(lambda: self._runs.update_one(query, cancel_change(action, moment)))
        return bool(result.matched_count)

    async def request_cancels(
        self,
        wanted: Mapping[str, Any],
        tenant: str,
        action: CancelAction,
        moment: datetime,
        visible: Sequence[str] | None = None,
    ) -> list[Document]:
        """Ask for the end of the active runs of a tenant that match; those runs, with what a ``CancelRun`` needs.

        ``visible``: only runs of these threads.
        """
        query: Document = {"status": {"$in": ACTIVE}, **wanted, "tenant": tenant, "settled": False}
        if visible is not None:
            query["$and"] = [{"thread_id": {"$in": list(visible)}}]
        fields = {"tenant": 1, "thread_id": 1, "traceparent": 1}
        found: list[Document] = await self.read(lambda: self._runs.find(query, fields).to_list(None))
        if found:
            await self.read(lambda: ask_to_end(self._runs, [run["_id"] for run in found], action, moment))
        return found

    async def end_superseded(self, thread_id: str, moment: datetime) -> list[Document]:
        """Ask for the end of the runs of a thread that a later one of its runs supersedes (ADR 32); those runs."""
        query = {"thread_id": thread_id, "settled": False, "status": {"$in": ACTIVE}}
        fields = dict.fromkeys((*SUPERSEDED_FIELDS, "tenant", "traceparent"), 1)
        found = superseded(await self.read(lambda: self._runs.find(query, fields).to_list(None)))
        for action, runs in found.items():
            ids = [run["_id"] for run in runs]
            await self.read(partial(ask_to_end, self._runs, ids, action, moment))
        return [run for runs in found.values() for run in runs]

    async def delete_run(self, run_id: str, thread_id: str, tenant: str) -> bool:
        """Hide a run that is not active from clients; false when it is active."""
        query = {"_id": run_id, "thread_id": thread_id, "tenant": tenant, "status": {"$nin": ACTIVE}}
        result = await self.read(lambda: self._runs.update_one(query, {"$set": {"deleted": True}}))
        return bool(result.matched_count)

    async def kwargs(self, run: Mapping[str, Any]) -> Any:
        """What a run was started with."""
        if not run.get("payload_chunks"):
            return await unpacked(run["payload"])
        ids = [f"{run['_id']}:{number}" for number in range(run["payload_chunks"])]
        found = await self.patiently(
            outlast(lambda: self._payloads.find({"_id": {"$in": ids}}).to_list(None), self.availability)
        )
        chunks = {chunk["_id"]: chunk["data"] for chunk in found}
        return await unpacked(b"".join(chunks[one] for one in ids))

    async def kwargs_of(self, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the runs of a page were started with, by run id: as much as a page shows."""
        return await payloads_of(self.read, self._runs, runs)

    async def graphs(self) -> list[GraphDocument]:
        """All registered graphs."""
        found = await self.read(lambda: self._graphs.find({}).to_list(None))
        return cast("list[GraphDocument]", found)

    async def _insert_thread(self, thread: ThreadDocument) -> bool:
        try:
            await self._thread_commit.write(inserts=[thread])
        except DuplicateKey:
            return False
        return True

    async def _register(self, run: RunDocument, packed: Packed, thread: ThreadDocument | None) -> None:
        if packed.chunks:
            chunks = packed.chunk_documents(run["_id"])
            await self._payload_commit.write(content=chunks, nbytes=sum(map(len, packed.chunks)))
        if thread is None:
            rejects = run["multitask_strategy"] == "reject"
            await (self._insert_rejecting(run) if rejects else self._insert_run(run))
            return
        made = asyncio.ensure_future(self._insert_thread(thread))
        try:
            await self._insert_run(run)
        except IdempotencyTaken:
            await made
            await self._threads.delete_one({"_id": thread["_id"], "tenant": thread["tenant"]})
            raise
        await made

    async def _insert_run(self, run: RunDocument) -> None:
        try:
            await self.run_commit.write(inserts=[run], nbytes=1024 + len(run["payload"]))
        except DuplicateKey as error:
            if "idempotency_key" in error.index:
                raise IdempotencyTaken from error
            if "rejects_after" in error.index:
                raise _Overtaken from error
            raise

    async def _insert_rejecting(self, run: RunDocument) -> None:
        """Insert a run that shares its thread with no other such run that is active."""
        started_so = {"thread_id": run["thread_id"], "rejects_after": {"$exists": True}}
        fields = {"status": 1}
        before: Any = await outlast(
            lambda: self._runs.find_one(started_so, fields, sort=[("_id", -1)]), self.availability
        )
        while before is None or before["status"] not in ACTIVE:
            run["rejects_after"] = f"{run['thread_id']}:{before['_id'] if before else ''}"
            try:
                return await self._insert_run(run)
            except _Overtaken:
                follower = {"rejects_after": run["rejects_after"]}
                before = await outlast(partial(self._runs.find_one, follower, fields), self.availability)
        raise ThreadBusy

    async def _owned(self, reads: GroupRead[str, Document], key: str, tenant: str) -> Document | None:
        self.require_available()
        found = await self.within(reads.get(key))
        return found if found is not None and found.get("tenant") == tenant else None  # an archive's slot has none

    @staticmethod
    def _by_id(collection: Any) -> Callable[[Sequence[str]], Awaitable[Mapping[str, Document]]]:
        async def fetch(ids: Sequence[str]) -> Mapping[str, Document]:
            found = await collection.find({"_id": {"$in": list(ids)}}).to_list(None)
            return {document["_id"]: document for document in found}

        return fetch
