"""A thread's document as it is registered, and the mark of one that is deleted, the same whoever makes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from perdure.chassis.mongo import from_now
from perdure.schemas.documents import ArchiveState, ThreadDocument, ThreadStatus


def thread_document(
    thread_id: str, tenant: str, metadata: Mapping[str, Any] | None, moment: datetime
) -> ThreadDocument:
    """A new thread."""
    return {
        "_id": thread_id,
        "tenant": tenant,
        "created_at": moment,
        "updated_at": moment,
        "metadata": dict(metadata or {}),
        "status": ThreadStatus.IDLE.value,
        "seq": 0,
        "head": None,
        "next": [],
        "interrupts": [],
        "error": None,
    }


def removable(thread_id: str) -> dict[str, Any]:
    """The filter for a thread that may be deleted: neither under legal hold nor on its way out already."""
    leaving = [ArchiveState.PURGING.value, ArchiveState.REMOVING.value]
    return {"_id": thread_id, "hold": {"$exists": False}, "archive.state": {"$nin": leaving}}


def removal_mark() -> list[dict[str, Any]]:
    """The update that deletes a thread for every reader; the scheduler then removes what belongs to it (ADR 31)."""
    mark = {
        "state": ArchiveState.REMOVING.value,
        "at": from_now(0),
        "expires_at": from_now(0),
        "leftover": {"$ifNull": ["$archive.object", None]},
    }
    # By way of another field: $set would merge the mark into the one that is there.
    return [
        {"$set": {"removed": mark}},
        {"$unset": "archive"},
        {"$set": {"archive": "$removed"}},
        {"$unset": "removed"},
    ]


REMOVING_RUN = {"$set": {"removing": True}}
"""The update of the runs of a deleted thread: clients do not see them any more."""
