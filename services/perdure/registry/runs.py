"""Registering a run: its document and its start command, the same whoever asks for it.

Contract: a run is registered by one insert; its payload's chunks, if any, are written before. Publishing the command is not waited
for: one that is lost is published again by the scheduler's sweep.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid5

import uuid_utils

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.payload import Packed
from perdure.chassis.telemetry import logger
from perdure.schemas.commands import CancelRun, StartReason, StartRun
from perdure.schemas.documents import RunDocument, RunStatus
from perdure.schemas.envelope import Record, encode
from perdure.schemas.topics import COMMANDS

log = logger(__name__)

ASSISTANT_NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""The Agent Server's: the assistant id of a graph is the same there and here."""


def new_id() -> str:
    """A UUIDv7: sorts by time."""
    return str(uuid_utils.uuid7())


@lru_cache(maxsize=4096)
def assistant_id_of(graph_id: str) -> str:
    """The assistant id of a graph."""
    return str(uuid5(ASSISTANT_NAMESPACE, graph_id))


def new_traceparent() -> str:
    """A new W3C ``traceparent`` (sampled)."""
    random = os.urandom(24).hex()
    return f"00-{random[:32]}-{random[32:]}-01"


def run_document(
    *,
    tenant: str,
    thread_id: str,
    graph_id: str,
    graph_version: str | None,
    packed: Packed,
    metadata: Mapping[str, Any],
    traceparent: str,
    moment: datetime,
    run_id: str | None = None,
    new_thread: bool = False,
    multitask_strategy: str = "enqueue",
    idempotency_key: str | None = None,
    webhook: str | None = None,
    webhook_format: str | None = None,
    user: bytes | None = None,
) -> RunDocument:
    """A new run, pending."""
    document: RunDocument = {
        "_id": run_id or new_id(),
        "tenant": tenant,
        "thread_id": thread_id,
        "assistant_id": assistant_id_of(graph_id),
        "graph_id": graph_id,
        "graph_version": graph_version,
        "metadata": dict(metadata),
        "multitask_strategy": multitask_strategy,
        "traceparent": traceparent,
        "payload": packed.inline,
        "payload_chunks": len(packed.chunks),
        "new_thread": new_thread,
        "created_at": moment,
        "updated_at": moment,
        "status": RunStatus.PENDING.value,
        "owner": None,
        "epoch": 0,
        "settled": False,
    }
    if idempotency_key is not None:
        document["idempotency_key"] = idempotency_key
    if user is not None:
        document["user"] = user
    if webhook is not None:
        document["webhook"] = webhook
        if webhook_format is not None:
            document["webhook_format"] = webhook_format
    return document


def first_run_of(run: Mapping[str, Any]) -> str:
    """The id of the first run of the chain that a run belongs to: the run that somebody started, before waits and retries."""
    first: str = run.get("first_run_id") or run.get("origin_run_id") or run["_id"]
    return first


def is_superseded(run: Mapping[str, Any]) -> bool:
    """True for a run that came to wake a thread which had continued already (ADR 6): internal, not reported to users."""
    cancelled = run.get("status") == RunStatus.CANCELLED
    return cancelled and bool(run.get("wait_id")) and not run.get("cancel_requested_at")


def retry_key(run_id: str) -> str:
    """The idempotency key of the run that takes the place of a failed one. Stored; never change it."""
    return f"retry:{run_id}"


def retry_document(failed: Mapping[str, Any], packed: Packed, moment: datetime) -> RunDocument:
    """A new run in place of a failed one: the same request, from the thread's last checkpoint; registered once for each."""
    document = run_document(
        tenant=failed["tenant"],
        thread_id=failed["thread_id"],
        graph_id=failed["graph_id"],
        graph_version=failed.get("graph_version"),
        packed=packed,
        metadata=failed.get("metadata") or {},
        traceparent=failed.get("traceparent") or new_traceparent(),
        moment=moment,
        multitask_strategy=failed.get("multitask_strategy", "enqueue"),
        idempotency_key=retry_key(failed["_id"]),
        user=failed.get("user"),
    )
    document["first_run_id"] = first_run_of(failed)
    document["resumes"] = [*failed.get("resumes", ()), failed["_id"]]
    if "wait_id" in failed:
        document["wait_id"] = failed["wait_id"]
    if "batch" in failed:
        document["batch"] = failed["batch"]
    return document


def start_record(
    run: Mapping[str, Any],
    reason: StartReason,
    source: str,
    *,
    run_id: str | None = None,
    causation_id: str | None = None,
) -> Record:
    """``StartRun`` of a run, or of another run of its thread.

    Args:
        run: Its document; of it: tenant, thread, epoch and trace.
        reason: Why.
        source: The service that asks.
        run_id: The run to start; ``run`` itself by default.
        causation_id: The message that led to this one.

    """
    started = run_id or run["_id"]
    command = StartRun(tenant=run["tenant"], thread_id=run["thread_id"], run_id=started, reason=reason)
    return encode(
        command,
        id=f"{started}:start:{reason}:{run['_id']}:{run['epoch']}",
        source=source,
        correlation_id=started,
        causation_id=causation_id,
        traceparent=run.get("traceparent"),
        time=now(),
    )


def publish_start(producer: Producer, run: Mapping[str, Any], reason: StartReason, source: str, **more: Any) -> None:
    """Queue the start of a run; never waits, never raises. ``more`` as for :func:`start_record`."""
    try:
        producer.produce(COMMANDS.name, start_record(run, reason, source, **more))
    except BufferError:
        log.warning("command.left_to_sweep", run_id=more.get("run_id") or run["_id"])


def publish_cancel(producer: Producer, run: Mapping[str, Any], source: str) -> None:
    """Queue the cancellation of a run; never waits, never raises. A worker sees one that is lost in the run's document."""
    command = CancelRun(tenant=run["tenant"], thread_id=run["thread_id"], run_id=run["_id"])
    record = encode(command, id=f"{run['_id']}:cancel", source=source, correlation_id=run["_id"], time=now())
    try:
        producer.produce(COMMANDS.name, record)
    except BufferError:
        log.warning("command.left_to_poll", run_id=run["_id"])
