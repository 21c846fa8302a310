"""``perdure storage``: what a thread takes up."""

from __future__ import annotations

from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, ThreadArgument, Url
from perdure.cli.output import Output, fields, table

_FIELDS = {
    "thread": "thread_id",
    "documents": "total.documents",
    "bytes": "total.bytes",
    "archive": "archive.state",
    "object": "archive.object",
    "object bytes": "archive.bytes",
    "sha-256": "archive.sha256",
    "archived": "archive.at",
    "restored": "restored_at",
    "held by": "hold.by",
    "held for": "hold.reason",
}


def storage(thread: ThreadArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show what a thread takes up, in the database or in the archive."""
    with Gateway(url) as gateway:
        found = gateway.get("threads", thread, "storage")
    rows = [{"part": part, **size} for part, size in found["parts"].items() if size["documents"]]
    columns = {name: name for name in ("part", "documents", "bytes")}
    Output(as_json).result(found, fields(found, _FIELDS), table(rows, columns, "nothing is stored of it"))
