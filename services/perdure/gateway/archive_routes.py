"""The rows of the route table about archived threads."""

from __future__ import annotations

from perdure.gateway.handlers import archive
from perdure.gateway.http.route import BODY, Route
from perdure.schemas import archive_http

# fmt: off
ARCHIVE: tuple[Route, ...] = (
    Route(
        "PUT", "/threads/{thread_id}/hold", archive.hold, "holdThread",
        "Put a thread under legal hold: it is neither archived nor purged", "Archive", {200: archive_http.Hold},
        archive_http.HoldRequest, problems=(*BODY, "unknown-thread"),
    ),
    Route(
        "DELETE", "/threads/{thread_id}/hold", archive.release, "releaseThread", "End a legal hold", "Archive",
        {204: "Ended."}, problems=("unknown-thread",),
    ),
    Route(
        "POST", "/threads/{thread_id}/restore", archive.restore, "restoreThread",
        "Bring a thread back from the archive; it is there when `GET /threads/{thread_id}` answers 200", "Archive",
        {202: archive_http.Archived}, archive_http.RestoreRequest,
        problems=(*BODY, "unknown-thread", "thread-not-archived"),
    ),
    Route(
        "GET", "/threads/{thread_id}/storage", archive.storage, "getThreadStorage",
        "What a thread takes up, in the database or in the archive", "Archive", {200: archive_http.ThreadStorage},
        problems=("unknown-thread",),
    ),
)
# fmt: on
