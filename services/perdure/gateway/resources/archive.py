"""The gateway's part in retention: legal holds, asking for threads back, what a thread takes up (ADR 15).

Contract: each change is one compare-and-set on the thread's document. The gateway never touches the archive store: a thread that is
asked back is brought by the scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from perdure.archive.sources import Owner, sizes
from perdure.chassis.clock import now
from perdure.chassis.mongo import Database, from_now
from perdure.gateway.auth.caller import Signature, caller_of, tenant_of
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.requests import read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, Route
from perdure.gateway.resources.named import being_purged, require_known
from perdure.gateway.stores.store import Store
from perdure.schemas import archive_http
from perdure.schemas.archive_http import HoldRequest, RestoreRequest
from perdure.schemas.documents import THREADS, ArchiveState, HoldMark
from perdure.schemas.scopes import Scope

Document = dict[str, Any]

SOMEBODY: Final = "somebody over HTTP"


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

    async def want_back(self, thread_id: str, tenant: str, signature: Signature) -> bool:
        """Ask for an archived thread; false when it is not archived, or was asked for already."""
        query = {"_id": thread_id, "tenant": tenant, "archive.state": ArchiveState.ARCHIVED.value}
        wanted = {
            "archive.state": ArchiveState.RESTORING.value,
            "archive.restore_by": {"$literal": signature.by or SOMEBODY},
            "archive.restore_on_behalf_of": {"$literal": signature.on_behalf_of},
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


class ArchiveResource:
    """Archived threads: legal holds, bringing them back, what a thread takes up."""

    def __init__(self, store: Store, archive: Archive) -> None:
        self._store = store
        self._archive = archive

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "PUT", "/threads/{thread_id}/hold", self.hold, "holdThread",
                "Put a thread under legal hold: it is neither archived nor purged", "Archive", {200: archive_http.Hold},
                archive_http.HoldRequest, problems=(*BODY, "unknown-thread"), scope=Scope.ARCHIVE_HOLD,
            ),
            Route(
                "DELETE", "/threads/{thread_id}/hold", self.release, "releaseThread", "End a legal hold", "Archive",
                {204: "Ended."}, problems=("unknown-thread",), scope=Scope.ARCHIVE_HOLD,
            ),
            Route(
                "POST", "/threads/{thread_id}/restore", self.restore, "restoreThread",
                "Bring a thread back from the archive; it is there when `GET /threads/{thread_id}` answers 200", "Archive",
                {202: archive_http.Archived}, archive_http.RestoreRequest,
                problems=(*BODY, "unknown-thread", "thread-not-archived"), scope=Scope.ARCHIVE_RESTORE,
            ),
            Route(
                "GET", "/threads/{thread_id}/storage", self.storage, "getThreadStorage",
                "What a thread takes up, in the database or in the archive", "Archive", {200: archive_http.ThreadStorage},
                problems=("unknown-thread",), scope=Scope.THREADS_READ,
            ),
        )
        # fmt: on

    async def hold(self, request: web.Request) -> web.Response:
        """``PUT /threads/{thread_id}/hold``."""
        wanted, _ = await read_body(request, HoldRequest)
        thread_id = str((await require_known(self._store, request))["_id"])
        by, on_behalf_of = caller_of(request).must_sign(wanted.by)
        mark: HoldMark = {"by": by, "on_behalf_of": on_behalf_of, "reason": wanted.reason, "at": now()}
        if not await self._archive.hold(thread_id, tenant_of(request), mark):
            raise RequestProblem(
                "unknown-thread", f"Thread {thread_id!r} is being purged, or is gone: it cannot be held."
            )
        return json_response(mark)

    async def release(self, request: web.Request) -> web.Response:
        """``DELETE /threads/{thread_id}/hold``."""
        thread_id = str((await require_known(self._store, request))["_id"])
        await self._archive.hold(thread_id, tenant_of(request), None)
        return web.Response(status=204)

    async def restore(self, request: web.Request) -> web.Response:
        """``POST /threads/{thread_id}/restore``: 202; the scheduler brings it back."""
        wanted, _ = await read_body(request, RestoreRequest)
        thread_id = str((await require_known(self._store, request))["_id"])
        await self._archive.want_back(thread_id, tenant_of(request), caller_of(request).signs(wanted.by))
        mark: Any = (await require_known(self._store, request)).get("archive")
        if mark is None or mark["state"] != ArchiveState.RESTORING:
            raise RequestProblem("thread-not-archived", _not_archived(thread_id, mark))
        headers = {"Location": f"/threads/{thread_id}", "Retry-After": "1"}
        return json_response(archived_view(mark), status=202, headers=headers)

    async def storage(self, request: web.Request) -> web.Response:
        """``GET /threads/{thread_id}/storage``."""
        thread = await require_known(self._store, request)
        return json_response(await self._archive.storage(thread))


def archived_view(mark: Mapping[str, Any]) -> Document:
    """A mark as clients see it."""
    return {name: mark.get(name) for name in ("state", "object", "bytes", "sha256", "at")}


def _not_archived(thread_id: str, mark: Any) -> str:
    if mark is None:
        return f"Thread {thread_id!r} is not archived; there is nothing to bring back."
    if mark["state"] == ArchiveState.PURGING:
        return being_purged(thread_id)
    return f"Thread {thread_id!r} is on its way ({mark['state']}) at this moment. Ask again in a moment."
