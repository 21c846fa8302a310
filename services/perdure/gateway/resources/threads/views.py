"""Threads as clients see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perdure.gateway.resources.threads.living import ttl_view
from perdure.schemas.documents import ThreadStatus

Document = dict[str, Any]

GRAPH_FIELDS: Final = ("graph_id", "assistant_id")
"""Stored beside the metadata and shown as metadata, where the client's own metadata does not have the key."""


def thread_view(
    thread: Mapping[str, Any], *, busy: bool, state: Mapping[str, Any] | None, ttl: bool = False
) -> Document:
    """A thread as clients see it, with the values and interrupts of its newest state, and its time to live if asked for."""
    metadata = dict(thread.get("metadata") or {})
    for name in GRAPH_FIELDS:
        if thread.get(name):
            metadata.setdefault(name, thread[name])
    interrupts = {task["id"]: task["interrupts"] for task in state["tasks"] if task["interrupts"]} if state else {}
    return {
        "thread_id": thread["_id"],
        "created_at": thread["created_at"],
        "updated_at": thread.get("updated_at") or thread["created_at"],
        "state_updated_at": state["created_at"] if state else None,
        "metadata": metadata,
        "status": thread_status(thread, busy=busy),
        "config": {},
        "values": state["values"] if state else None,
        "interrupts": interrupts,
        "waits": state["waits"] if state else [],
        "error": thread.get("error"),
        "stuck": stuck_view(thread["stuck"]) if thread.get("stuck") else None,
        **({"ttl": ttl_view(thread)} if ttl else {}),
    }


def thread_status(thread: Mapping[str, Any], *, busy: bool) -> str:
    """A thread's status as clients see it; ``busy``: a run of it is pending or running, which its document does not say."""
    return ThreadStatus.BUSY.value if busy else thread.get("status") or ThreadStatus.IDLE.value


def stuck_view(mark: Mapping[str, Any]) -> Document:
    """Why a thread is stuck, as clients see it."""
    return {name: mark.get(name) for name in ("code", "reason", "node", "since", "expected_by", "run_id", "noticed_at")}
