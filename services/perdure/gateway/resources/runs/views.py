"""What a run keeps of the request that started it, and runs as clients see them: pure functions.

Contract: no I/O. Documents are those of ``perdure.schemas.documents``; views have the shapes of ``perdure.schemas.http``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from perdure.gateway.stores.chains import chain_view
from perdure.registry.deliveries import shown_request
from perdure.registry.runs import new_traceparent
from perdure.schemas.documents import RunStatus
from perdure.schemas.http import RunCreate

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

_TRACEPARENT = re.compile(r"^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent_of(header: str | None) -> str:
    """The caller's W3C ``traceparent`` if it is valid, else a new one (sampled)."""
    if header is not None and _TRACEPARENT.fullmatch(header):
        return header
    return new_traceparent()


def payload_of(body: Mapping[str, Any], request: RunCreate) -> Document:
    """What the run's document keeps of the request, as JSON; beside a command no input, which the Agent Server ignores as well."""
    payload = {name: value for name in PAYLOAD_FIELDS if (value := body.get(name)) is not None}
    if request.command is None:
        payload.pop("command", None)
    else:
        payload.pop("input", None)
    if request.checkpoint is not None and request.checkpoint.checkpoint_id is not None:
        payload.setdefault("checkpoint_id", request.checkpoint.checkpoint_id)
    if request.stream_mode is not None:
        modes = [request.stream_mode] if isinstance(request.stream_mode, str) else list(request.stream_mode)
        payload["stream"] = {"modes": modes, "subgraphs": bool(request.stream_subgraphs)}
    return payload


def run_view(run: Mapping[str, Any], kwargs: Any, chain: Mapping[str, Any] | None = None) -> Document:
    """A run as clients see it.

    Args:
        run: Its document.
        kwargs: Its payload, or ``None`` where it is too large to repeat.
        chain: Where it leads to, by ``perdure.gateway.stores.chains``; not needed while it is active.

    """
    return {
        "run_id": run["_id"],
        "thread_id": run["thread_id"],
        "assistant_id": run["assistant_id"],
        "graph_id": run["graph_id"],
        "created_at": run["created_at"],
        "updated_at": run["updated_at"],
        "status": shown_status(run["status"]),
        "perdure_status": run["status"],
        "metadata": run.get("metadata") or {},
        "kwargs": shown_request(kwargs),
        "multitask_strategy": run.get("multitask_strategy", "enqueue"),
        "error": run.get("error"),
        "cancel_requested_at": run.get("cancel_requested_at"),
        "started_at": run.get("started_at"),
        "ended_at": run.get("ended_at"),
        **(chain or chain_view(run)),
    }


def shown_status(status: str) -> str:
    """A run's status among those that the Agent Server knows: what was cancelled is ``interrupted`` there."""
    return RunStatus.INTERRUPTED.value if status == RunStatus.CANCELLED else status


def locations(run: Mapping[str, Any]) -> dict[str, str]:
    """The headers that say where a run is."""
    path = f"/threads/{run['thread_id']}/runs/{run['_id']}"
    return {"Location": path, "Content-Location": path}
