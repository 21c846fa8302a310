"""Bringing a thread back from the archive, identical (ADR 15).

Contract: the object is verified before anything is written. Every document is written back as the bytes that it was, unless one
with its id is there already; a crash is finished by :meth:`Restorer.go_on`. Then the thread takes runs again, and runs that came at
the last moment before it went are started. Its retention begins anew.

A run's idempotency key that was used again while the thread was away stays with the newer run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bson.raw_bson import RawBSONDocument

from perdure.archive.archiving import Archiver
from perdure.archive.packing import unpack
from perdure.archive.sources import RAW, portions
from perdure.archive.store import ArchiveStore
from perdure.archive.telling import tell_restored
from perdure.archive.work import LEASE_S, Work, begin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database, server_time
from perdure.chassis.telemetry import logger
from perdure.schemas.documents import RUNS, ArchiveState

log = logger(__name__)


class Restorer:
    """Brings threads back. Arguments as for :class:`Archiver`."""

    def __init__(
        self, db: Database, store: ArchiveStore, producer: Producer, source: str, lease_s: float = LEASE_S
    ) -> None:
        self._db = db
        self._store = store
        self._lease_s = lease_s
        self._archiver = Archiver(db, store, producer, source, lease_s)

    async def restore(self, thread: Mapping[str, Any], by: str) -> bool:
        """Bring one archived thread back; false when it is not archived, or another process brings it back.

        Raises:
            ArchiveDamagedError: its object is not what was written; nothing was changed.
            ArchiveUnavailableError: the store does not answer; it is tried again.

        """
        only = {"archive.state": ArchiveState.ARCHIVED.value}
        work = await begin(self._db, thread, ArchiveState.RESTORING, only, self._lease_s, restore_by=by)
        if work is None:
            return False
        await self.go_on(work)
        return True

    async def go_on(self, work: Work) -> None:
        """Bring a thread back, also what another process began."""
        async with work.held():
            await self._archiver.verify(work, work.mark["sha256"])
            await self.copy_back(work)
            await tell_restored(self._db, self._archiver.notes, work.thread, work.mark)
            back = {"ended_run_id": work.mark["ended_run_id"], "restored_at": await server_time(self._db)}
            await work.advance(ArchiveState.RELEASING, thread=back)
            await self._archiver.undo(work)
        log.info("thread.restored", thread_id=work.owner.thread_id, by=work.mark["restore_by"])

    async def copy_back(self, work: Work) -> None:
        """Write the documents that are not there."""
        pieces = self._store.read(work.key)
        async for source, portion in portions(work.key, unpack(work.key, pieces, work.mark["sha256"])):
            await self._write(work, source, portion)

    async def _write(self, work: Work, source: str, portion: Sequence[RawBSONDocument]) -> None:
        there = await self._present(source, portion)
        missing: list[Any] = [document for document in portion if document["_id"] not in there]
        if source == RUNS:
            missing = await self._without_used_keys(missing)
        if not missing:
            return

        async def insert(session: Any) -> None:
            await self._db[source].with_options(codec_options=RAW).insert_many(missing, session=session)

        await work.fenced(insert)

    async def _present(self, source: str, portion: Sequence[RawBSONDocument]) -> set[Any]:
        ids = [document["_id"] for document in portion]
        return {found["_id"] async for found in self._db[source].find({"_id": {"$in": ids}}, {"_id": 1})}

    async def _without_used_keys(self, runs: list[Any]) -> list[Any]:
        """Runs as they are to be written: without an idempotency key that another run has by now."""
        keyed = [run for run in runs if "idempotency_key" in run]
        query = {"$or": [{"tenant": run["tenant"], "idempotency_key": run["idempotency_key"]} for run in keyed]}
        fields = {"tenant": 1, "idempotency_key": 1}
        used = [one async for one in self._db[RUNS].find(query, fields)] if keyed else []
        taken = {(one["tenant"], one["idempotency_key"]) for one in used}
        written: list[Any] = []
        for run in runs:
            if (run["tenant"], run.get("idempotency_key")) in taken:
                log.warning("archive.idempotency_key_dropped", run_id=run["_id"], key=run["idempotency_key"])
                written.append({name: value for name, value in run.items() if name != "idempotency_key"})
            else:
                written.append(run)
        return written
