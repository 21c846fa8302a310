"""The gateway's part in retention: legal holds, asking for threads back, what a thread takes up (ADR 15).

Contract: each change is one compare-and-set on the thread's document. The gateway never touches the archive store: a thread that is
asked back is brought by the scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.archive.sources import Owner, sizes
from perdure.chassis.mongo import Database, from_now
from perdure.gateway.stores.store import Store
from perdure.schemas.documents import THREADS, ArchiveState, HoldMark

Document = dict[str, Any]


class Archive:
    """Threads' marks. Belongs to one event loop."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._threads = database[THREADS]
        self._store = store

    async def hold(self, thread_id: str, tenant: str, hold: HoldMark | None) -> bool:
        """Put a thread under legal hold, or end it; false when it is being purged, or gone."""
        change = {"$unset": {"hold": ""}} if hold is None else {"$set": {"hold": dict(hold)}}
        query = {"_id": thread_id, "tenant": tenant, "archive.state": {"$ne": ArchiveState.PURGING.value}}
        done = await self._store.read(lambda: self._threads.update_one(query, change))
        return bool(done.matched_count)

    async def want_back(self, thread_id: str, tenant: str, by: str) -> bool:
        """Ask for an archived thread; false when it is not archived, or was asked for already."""
        query = {"_id": thread_id, "tenant": tenant, "archive.state": ArchiveState.ARCHIVED.value}
        wanted = {
            "archive.state": ArchiveState.RESTORING.value,
            "archive.restore_by": {"$literal": by},
            "archive.expires_at": from_now(0),
        }
        done = await self._store.read(lambda: self._threads.update_one(query, [{"$set": wanted}]))
        return bool(done.matched_count)

    async def storage(self, thread: Mapping[str, Any]) -> Document:
        """What a thread takes up, as ``perdure.schemas.archive_http.ThreadStorage``."""
        mark = thread.get("archive")
        if mark is not None and ArchiveState(mark["state"]).lives:
            mark = None
        if mark is None:
            parts = await self._store.patiently(sizes(self._database, Owner(thread["tenant"], thread["_id"])))
        else:
            parts = {name: {"documents": n, "bytes": mark["raw_bytes"][name]} for name, n in mark["documents"].items()}
        return {
            "thread_id": thread["_id"],
            "total": {what: sum(part[what] for part in parts.values()) for what in ("documents", "bytes")},
            "parts": parts,
            "archive": None if mark is None else archived_view(mark),
            "hold": thread.get("hold"),
            "restored_at": thread.get("restored_at"),
        }


def archived_view(mark: Mapping[str, Any]) -> Document:
    """A mark as clients see it."""
    return {name: mark.get(name) for name in ("state", "object", "bytes", "sha256", "at")}
