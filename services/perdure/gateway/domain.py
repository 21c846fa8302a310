"""What the gateway decides, as pure functions: ids, documents, digests and views.

Contract: no I/O. Documents are those of ``perdure.schemas.documents``; views
have the shapes of ``perdure.schemas.http``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import orjson

from perdure.gateway.chains import chain_view
from perdure.registry.runs import assistant_id_of, new_traceparent
from perdure.schemas.documents import RunStatus, ThreadStatus
from perdure.schemas.http import THREAD_ID_PATTERN, RunCreate

Document = dict[str, Any]

METADATA_LIMIT = 64 * 1024
METADATA_DEPTH = 32
PAYLOAD_LIMIT = 512 * 1024
"""Bytes of JSON of a signal's payload, or of an answer."""
PAYLOAD_DEPTH = 64
ACTIVE = [RunStatus.PENDING.value, RunStatus.RUNNING.value]
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
_INT64 = range(-(2**63), 2**63)


def is_thread_id(text: str) -> bool:
    """Whether ``text`` may name a thread."""
    return _THREAD_ID.fullmatch(text) is not None


def traceparent_of(header: str | None) -> str:
    """The caller's W3C ``traceparent`` if it is valid, else a new one (sampled)."""
    if header is not None and _TRACEPARENT.fullmatch(header):
        return header
    return new_traceparent()


def request_digest(path: str, body: Any) -> str:
    """Digest of what a request asks for: the path and the body, whatever the order of its keys (32 hex digits)."""
    canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(path.encode() + b"\0" + canonical, digest_size=16).hexdigest()


def metadata_problem(metadata: Mapping[str, Any]) -> str | None:
    """Why this metadata cannot be stored; ``None`` if it can."""
    if len(orjson.dumps(metadata)) > METADATA_LIMIT:
        return f"larger than {METADATA_LIMIT} bytes as JSON; put large values into the input"
    return _value_problem(metadata, METADATA_DEPTH)


def payload_problem(payload: Any) -> str | None:
    """Why this payload or answer cannot be stored, whatever its size; ``None`` if it can."""
    return _value_problem(payload, PAYLOAD_DEPTH)


def _value_problem(value: Any, limit: int, depth: int = 0) -> str | None:
    if depth == limit:
        return f"nested deeper than {limit} levels"
    if isinstance(value, dict):
        if any("\0" in key for key in value):
            return "a key holds a NUL character"
        return next((found for item in value.values() if (found := _value_problem(item, limit, depth + 1))), None)
    if isinstance(value, list):
        return next((found for item in value if (found := _value_problem(item, limit, depth + 1))), None)
    if type(value) is int and value not in _INT64:
        return f"{value} does not fit into 64 bits; write it as a string"
    return None


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
        chain: Where it leads to, by :class:`perdure.gateway.chains.Chains`; not needed while it is active.

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


def graph_view(graph: Mapping[str, Any]) -> Document:
    """A registered graph as clients see it."""
    return {
        "graph_id": graph["_id"],
        "assistant_id": assistant_id_of(graph["_id"]),
        "version": graph.get("version"),
        "nodes": list(graph.get("nodes") or ()),
        "input_schema": graph.get("input_schema"),
        "output_schema": graph.get("output_schema"),
        "updated_at": graph.get("updated_at"),
    }


def assistant_view(graph: Mapping[str, Any]) -> Document:
    """A registered graph in the Agent Server's shape of an assistant."""
    return {
        "assistant_id": assistant_id_of(graph["_id"]),
        "graph_id": graph["_id"],
        "name": graph["_id"],
        "description": None,
        "config": graph.get("config") or {},
        "context": {},
        "metadata": {"created_by": "system"},
        "version": 1,
        "created_at": graph.get("updated_at"),
        "updated_at": graph.get("updated_at"),
    }
