"""What the gateway decides, as pure functions: ids, documents, digests and views.

Contract: no I/O. Documents are those of ``perdure.schemas.documents``; views
have the shapes of ``perdure.schemas.http``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from perdure.gateway.stores.chains import chain_view
from perdure.registry.runs import new_traceparent
from perdure.schemas.documents import ThreadStatus
from perdure.schemas.http import THREAD_ID_PATTERN, RunCreate

Document = dict[str, Any]

PAYLOAD_FIELDS = (
    "input",
    "command",
    "config",
    "context",
    "interrupt_before",
    "interrupt_after",
    "checkpoint_id",
    "webhook",
    "stream_mode",
    "stream_subgraphs",
    "stream_resumable",
    "durability",
)
"""What a run's payload keeps of the request; a field that is null is left out."""

_THREAD_ID = re.compile(THREAD_ID_PATTERN.removesuffix("$"))
_TRACEPARENT = re.compile(r"^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def is_thread_id(text: str) -> bool:
    """Whether ``text`` may name a thread."""
    return _THREAD_ID.fullmatch(text) is not None


def traceparent_of(header: str | None) -> str:
    """The caller's W3C ``traceparent`` if it is valid, else a new one (sampled)."""
    if header is not None and _TRACEPARENT.fullmatch(header):
        return header
    return new_traceparent()


def payload_of(body: Mapping[str, Any], request: RunCreate) -> Document:
    """What the run's document keeps of the request, as JSON."""
    payload = {name: value for name in PAYLOAD_FIELDS if (value := body.get(name)) is not None}
    if request.checkpoint is not None and request.checkpoint.checkpoint_id is not None:
        payload.setdefault("checkpoint_id", request.checkpoint.checkpoint_id)
    return payload


def run_view(run: Mapping[str, Any], kwargs: Any, chain: Mapping[str, Any] | None = None) -> Document:
    """A run as clients see it.

    Args:
        run: Its document.
        kwargs: Its payload, or ``None`` where it is too large to repeat.
        chain: Where it leads to, by :class:`perdure.gateway.stores.chains.Chains`; not needed while it is active.

    """
    return {
        "run_id": run["_id"],
        "thread_id": run["thread_id"],
        "assistant_id": run["assistant_id"],
        "graph_id": run["graph_id"],
        "created_at": run["created_at"],
        "updated_at": run["updated_at"],
        "status": run["status"],
        "metadata": run.get("metadata") or {},
        "kwargs": kwargs,
        "multitask_strategy": run.get("multitask_strategy", "enqueue"),
        "error": run.get("error"),
        "cancel_requested_at": run.get("cancel_requested_at"),
        "started_at": run.get("started_at"),
        "ended_at": run.get("ended_at"),
        **(chain or chain_view(run)),
    }


def thread_view(thread: Mapping[str, Any], *, busy: bool, state: Mapping[str, Any] | None) -> Document:
    """A thread as clients see it, with the values and interrupts of its newest state."""
    metadata = dict(thread.get("metadata") or {})
    for name in ("graph_id", "assistant_id"):
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
    }


def thread_status(thread: Mapping[str, Any], *, busy: bool) -> str:
    """A thread's status as clients see it; ``busy``: a run of it is pending or running, which its document does not say."""
    return ThreadStatus.BUSY.value if busy else thread.get("status") or ThreadStatus.IDLE.value


def stuck_view(mark: Mapping[str, Any]) -> Document:
    """Why a thread is stuck, as clients see it."""
    return {name: mark.get(name) for name in ("code", "reason", "node", "since", "expected_by", "run_id", "noticed_at")}
