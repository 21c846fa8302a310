"""Batches, their items and their results as clients see them: pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from perdure.chassis.clock import now
from perdure.registry.batch_progress import counted, ended_of, eta_s, rate_per_s
from perdure.registry.batches import newest_run_id, thread_id_of
from perdure.schemas.batch_documents import BatchStatus, ItemStatus
from perdure.schemas.thread_ids import shown_id

Document = dict[str, Any]


def batch_view(batch: Mapping[str, Any]) -> Document:
    """A batch as clients see it."""
    counts, moment = counted(batch["counts"]), now()
    running = batch["status"] in (BatchStatus.RUNNING, BatchStatus.CANCELLING)
    rate = rate_per_s(batch.get("samples") or (), counts, moment) if running else None
    left = eta_s(rate, counts) if running else None
    names = ("assistant_id", "graph_id", "status", "total", "concurrency", "max_attempts", "failure_threshold")
    return {
        "batch_id": batch["_id"],
        **{name: batch[name] for name in names},
        "pause_reason": batch.get("pause_reason"),
        "ended": ended_of(counts),
        "counts": counts,
        "rate_per_s": round(rate, 3) if rate is not None else None,
        "eta_s": round(left, 1) if left is not None else None,
        "eta": moment + timedelta(seconds=left) if left is not None and left < 10**9 else None,
        "redriving": "redrive" in batch,
        "metadata": batch.get("metadata") or {},
        "created_at": batch["created_at"],
        "started_at": batch.get("started_at"),
        "ended_at": batch.get("ended_at"),
    }


def item_view(batch: Mapping[str, Any], item: Mapping[str, Any]) -> Document:
    """An item as clients see it."""
    return {
        "number": item["number"],
        "ref": item.get("ref"),
        "status": item["status"],
        "thread_id": shown_id(thread_id_of(batch, item["number"])),
        "run_id": newest_run_id(item),
        "attempts": item["attempt"],
        "metadata": item.get("metadata") or {},
        "error": item.get("error"),
        "started_at": item.get("started_at"),
        "ended_at": item.get("ended_at"),
    }


def result_view(batch: Mapping[str, Any], item: Mapping[str, Any]) -> Document:
    """A line of the results, without the values."""
    view = item_view(batch, item)
    names = ("number", "ref", "status", "thread_id", "run_id", "attempts", "error")
    shown = {name: view[name] for name in names}
    if item["status"] == ItemStatus.SUCCEEDED:
        shown["error"] = None  # of an attempt before
    return {**shown, "values": None}


def location_of(batch: Mapping[str, Any]) -> dict[str, str]:
    """The headers that say where a batch is."""
    return {"Location": f"/batches/{batch['_id']}"}
