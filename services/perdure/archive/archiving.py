"""Archiving one thread: pack, write, read back and verify, mark, delete (ADR 15).

Contract: what is deleted is exactly what was verified to be in the object, document by document and byte by byte; what came or
changed later stays and is there when the thread comes back. A crash at any point is finished by :meth:`Archiver.go_on`: until the
mark the attempt is undone, after it the deletion goes on. A run that comes before the mark, or at the same moment, wins: the
attempt is undone and nothing was deleted.

Outside: which threads (``candidates``), and when (``perdure.scheduler.archive``).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from bson.raw_bson import RawBSONDocument

from perdure.archive.errors import ArchiveDamagedError, ArchiveError, WorkLostError
from perdure.archive.living import ENDED, has_new_run, why_it_lives
from perdure.archive.packing import Manifest, pack, unpack
from perdure.archive.sources import RAW, SOURCES, documents, has_event, portions
from perdure.archive.store import ArchiveStore
from perdure.archive.telling import tell_archived
from perdure.archive.work import LEASE_S, Work, begin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database, server_time
from perdure.chassis.telemetry import logger
from perdure.registry.notes import Notes
from perdure.registry.runs import new_id, publish_start
from perdure.schemas.commands import StartReason
from perdure.schemas.documents import NOTEBOOK, RUNS, THREADS, ArchiveState

log = logger(__name__)

LOOK_S: Final = 1.0
"""While a thread is packed, it is looked so often whether a run of it came."""
START_FIELDS: Final = dict.fromkeys(("tenant", "thread_id", "epoch", "traceparent"), 1)
UNMARKED: Final = {"archive": {"$exists": False}, "hold": {"$exists": False}, "status": {"$in": list(ENDED)}}


class LivesError(ArchiveError):
    """The thread is not to be archived after all."""

    def __init__(self, thread_id: str, why: str) -> None:
        super().__init__(f"thread {thread_id} is not archived: {why}")
        self.why = why


class Archiver:
    """Archives threads.

    Args:
        db: Where they are.
        store: Where they go.
        producer: Where it is told, and pending runs are started.
        source: Who tells.
        lease_s: An attempt without a sign of life for so many seconds is taken over.

    """

    def __init__(
        self, db: Database, store: ArchiveStore, producer: Producer, source: str, lease_s: float = LEASE_S
    ) -> None:
        self._db = db
        self._store = store
        self._producer = producer
        self._source = source
        self._lease_s = lease_s
        self.notes = Notes(db, producer, source)

    async def archive(self, thread: Mapping[str, Any]) -> None:
        """Archive one thread, as its document was found.

        Raises:
            LivesError: it lives, or a run came meanwhile; everything is as before.
            WorkLostError: another process took over.
            ArchiveUnavailableError: the store does not answer; the attempt is undone later.

        """
        thread_id = thread["_id"]
        only = UNMARKED | {"seq": thread["seq"], "ended_run_id": thread["ended_run_id"]}
        mark = {"object": key_of(thread), "ended_run_id": thread["ended_run_id"]}
        work = await begin(self._db, thread, ArchiveState.PACKING, only, self._lease_s, **mark)
        if work is None:
            raise LivesError(thread_id, "it changed meanwhile, or another process archives it")
        async with work.held():
            try:
                await self._attempt_or_undo(work)
            except WorkLostError:
                await self._remove_unnamed(work)
                raise

    async def go_on(self, work: Work) -> None:
        """Finish, or undo, an attempt that another process left; in any state but ``restoring`` and ``purging``."""
        async with work.held():
            if work.state in (ArchiveState.MARKED, ArchiveState.DELETING):
                try:
                    await self.verify(work, work.mark["sha256"])
                    await self._finish(work)
                except (LivesError, ArchiveDamagedError) as error:
                    if work.state is not ArchiveState.MARKED:
                        raise
                    log.warning("archive.undone", thread_id=work.owner.thread_id, why=str(error))
                    await self.undo(work)
            else:
                await self.undo(work)

    async def write(self, work: Work) -> Manifest:
        """Pack the thread's documents into an object, straight into the store."""
        manifest = Manifest()
        document = {name: value for name, value in work.thread.items() if name != "archive"}
        await self._store.put(work.key, pack(work.owner, document, self._portions(work, manifest), manifest))
        return manifest

    async def verify(self, work: Work, sha256: str) -> None:
        """Read the object back, whole.

        Raises:
            ArchiveDamagedError: it is not what was written.

        """
        async for _ in unpack(work.key, self._store.read(work.key), sha256):
            work.require()

    async def mark(self, work: Work, manifest: Manifest) -> None:
        """Say in the thread's document where it is: from here on it takes no runs."""
        await work.advance(
            ArchiveState.MARKED,
            only={"archive.state": ArchiveState.PACKING.value, "seq": work.thread["seq"], "hold": {"$exists": False}},
            thread={"ended_run_id": None},
            at=await server_time(self._db),
            sha256=manifest.sha256,
            bytes=manifest.nbytes,
            documents=manifest.documents,
            raw_bytes=manifest.raw_bytes,
            states=manifest.states,
        )

    async def delete(self, work: Work) -> None:
        """Delete what the object holds, some documents in each transaction."""
        pieces = self._store.read(work.key)
        async for source, portion in portions(work.key, unpack(work.key, pieces, work.mark["sha256"])):
            await self._delete(work, source, portion)

    async def undo(self, work: Work) -> None:
        """Leave the thread as it was before the attempt, or as it came back: the slot, the object and the mark go."""
        if work.state is not ArchiveState.RELEASING:
            # Only the mark took the field away, and held the slot: else a run may have ended since and written its own.
            taken = work.state is not ArchiveState.PACKING
            await work.advance(
                ArchiveState.RELEASING, thread={"ended_run_id": work.mark["ended_run_id"]} if taken else {}
            )
        await work.give_slot_back()
        await self._start_pending(work)
        await self._store.delete(work.key)
        await work.end()

    async def _attempt_or_undo(self, work: Work) -> None:
        try:
            await self._attempt(work)
        except Exception:
            # Undone at once, so that nobody waits for the lease; once deleting has begun there is no way back.
            if work.state in (ArchiveState.PACKING, ArchiveState.MARKED):
                await self.undo(work)
            raise

    async def _attempt(self, work: Work) -> None:
        if not await work.take_slot():
            raise LivesError(work.owner.thread_id, "a run of it is running")
        if (why := await why_it_lives(self._db, work.thread)) is not None:
            raise LivesError(work.owner.thread_id, why)
        manifest = await self.write(work)
        await self.verify(work, manifest.sha256)
        try:
            await self.mark(work, manifest)
        except WorkLostError as error:
            raise LivesError(work.owner.thread_id, "it changed, or was put under legal hold, meanwhile") from error
        await self._finish(work)

    async def _remove_unnamed(self, work: Work) -> None:
        """Remove what we stored after another process had undone the attempt: keys are used once, so nobody will want it."""
        named = {"_id": work.owner.thread_id, "archive.object": work.key}
        if await self._db[THREADS].find_one(named, {"_id": 1}) is None:
            await self._store.delete(work.key)

    async def _portions(self, work: Work, manifest: Manifest) -> AsyncIterator[tuple[str, list[bytes]]]:
        """What is packed. It ends with an error as soon as a run of the thread comes."""
        looked = time.monotonic()
        for source in SOURCES:
            async for portion in documents(self._db, source, work.owner):
                yield source, [bytes(document.raw) for document in portion]
                if source == NOTEBOOK:
                    manifest.states += sum(map(has_event, portion))
                work.require()
                if time.monotonic() - looked >= LOOK_S:
                    await self._require_no_run(work)
                    looked = time.monotonic()

    async def _finish(self, work: Work) -> None:
        """Everything after the mark."""
        if work.state is ArchiveState.MARKED:
            await self._require_no_run(work)
            await work.advance(ArchiveState.DELETING)
        await tell_archived(self._db, self.notes, work.thread, work.mark)
        await self.delete(work)
        await work.advance(ArchiveState.ARCHIVED, idle=True)
        log.info("thread.archived", thread_id=work.owner.thread_id, object=work.key, bytes=work.mark["bytes"])

    async def _require_no_run(self, work: Work) -> None:
        if await has_new_run(self._db, work.owner.thread_id):
            raise LivesError(work.owner.thread_id, "a run of it came meanwhile")

    async def _start_pending(self, work: Work) -> None:
        """Start the run that came meanwhile; the scheduler's sweep does it if we die."""
        query = {"thread_id": work.owner.thread_id, "settled": False, "status": "pending"}
        for run in await self._db[RUNS].find(query, START_FIELDS).sort("created_at", 1).limit(1).to_list(None):
            publish_start(self._producer, run, StartReason.SWEPT, self._source)

    async def _delete(self, work: Work, source: str, portion: Sequence[RawBSONDocument]) -> None:
        """Delete the documents that are still as they were packed: one that changed since is not in the object."""
        packed = {document["_id"]: document.raw for document in portion}
        collection = self._db[source].with_options(codec_options=RAW)

        async def remove(session: Any) -> None:
            there = collection.find({"_id": {"$in": list(packed)}}, session=session)
            same = [one["_id"] async for one in there if one.raw == packed[one["_id"]]]
            await collection.delete_many({"_id": {"$in": same}}, session=session)

        await work.fenced(remove)


def key_of(thread: Mapping[str, Any]) -> str:
    """A new key for a thread's object: no two attempts share one, and no folder holds very many."""
    thread_id = thread["_id"]
    spread = hashlib.blake2b(thread_id.encode(), digest_size=1).hexdigest()
    return f"tenant-{thread['tenant']}/{spread}/{thread_id}@{thread['seq']}-{new_id()}.zst"
