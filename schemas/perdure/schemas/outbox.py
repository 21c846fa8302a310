"""Events as pure functions of stored documents.

A history entry is a document of the notebook with a ``seq``: a checkpoint (kind ``c``) or a transition of a run
(kind ``e``, ``event`` names which). :func:`event_of` turns an entry and its run's document into the event; the executor,
the sweep and the index rebuild all use it, so they cannot differ; the times are those that the database gives back, also for an
entry that was not read back. Fences (kind ``f``) are no events. Notes (kind ``n``, with ``after`` and ``note`` in place of ``seq``)
are events outside the owner's history (ADR 10).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from perdure.schemas.envelope import Record, encode
from perdure.schemas.events import (
    ApprovalEscalated,
    CheckpointSaved,
    Event,
    InterruptInfo,
    Note,
    NoticeDead,
    NoticeDelivered,
    RunCancelled,
    RunFailed,
    RunInterrupted,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    ThreadArchived,
    ThreadPruned,
    ThreadRecovered,
    ThreadRestored,
    ThreadStuck,
)
from perdure.schemas.moments import in_milliseconds

INTERRUPTS_LIMIT = 2 * 1024 * 1024
"""Bytes of JSON of all the values of the interrupts that one event carries: half of what its topic takes."""
FITTING = 32
"""Interrupts that always fit: each has 64 KiB at most when it is recorded."""
NAMES_KEPT = 100
ERROR_CHARS = 1_000

TRANSITIONS: dict[str, type[Event]] = {
    "started": RunStarted,
    "updated": CheckpointSaved,
    "interrupted": RunInterrupted,
    "success": RunSucceeded,
    "error": RunFailed,
    "timeout": RunTimedOut,
    "cancelled": RunCancelled,
}
"""By the entry's ``event``: ``started``, the run status that it ends in, or ``updated``: a command changed the state of a
checkpoint, whose id the entry names."""

NOTES: dict[str, type[Note]] = {
    "stuck": ThreadStuck,
    "recovered": ThreadRecovered,
    "escalated": ApprovalEscalated,
    "notice_delivered": NoticeDelivered,
    "notice_dead": NoticeDead,
    "archived": ThreadArchived,
    "restored": ThreadRestored,
    "pruned": ThreadPruned,
}
"""By the note's ``event``."""


def event_of(run: Mapping[str, Any], entry: Mapping[str, Any]) -> Event | None:
    """The event of one history entry; ``None`` for a fence.

    Args:
        run: The run's document (only what never changes after registration is read).
        entry: The notebook document, with ``kind``, ``seq`` (or ``after``), ``epoch``, ``at`` and ``ev``.

    """
    if entry["kind"] == "f":
        return None
    fields: dict[str, Any] = {
        "tenant": run["tenant"],
        "thread_id": run["thread_id"],
        "run_id": run["_id"],
        "graph_id": run["graph_id"],
        "assistant_id": run["assistant_id"],
        "graph_version": run.get("graph_version"),
        "metadata": run.get("metadata") or {},
        "seq": entry["after"] if entry["kind"] == "n" else entry["seq"],
        "epoch": entry["epoch"],
        "occurred_at": entry["at"],
        **entry["ev"],
    }
    for name, value in fields.items():
        if isinstance(value, datetime):
            fields[name] = in_milliseconds(value)
    if entry["kind"] == "n":
        return NOTES[entry["event"]].model_validate(fields | {"note": entry["note"]})
    if entry["kind"] == "e":
        if len(fields.get("interrupts") or ()) > FITTING:
            fields["interrupts"] = fitting(fields["interrupts"], INTERRUPTS_LIMIT)
        return TRANSITIONS[entry["event"]].model_validate(fields)
    return CheckpointSaved.model_validate(
        fields
        | {
            "checkpoint_id": entry["checkpoint_id"],
            "checkpoint_ns": entry["ns"],
            "parent_checkpoint_id": entry.get("parent"),
            "step": entry["step"],
        }
    )


def fitting(
    interrupts: Sequence[Mapping[str, Any]], limit: int, keep: Callable[[Any], bool] = lambda _: False
) -> list[Mapping[str, Any]]:
    """Interrupts that have at most ``limit`` bytes of JSON in total: the largest values are replaced by a note of their size.

    An interrupt's ``response_schema`` counts with its value and goes with it. Values for which ``keep`` is true are never
    replaced. Of the same interrupts always the same ones are.
    """
    sizes = [_size(one["value"]) + _size(one.get("response_schema")) for one in interrupts]
    total, replaced = sum(sizes), set[int]()
    for number in sorted(range(len(sizes)), key=lambda n: (-sizes[n], n)):
        if total <= limit:
            break
        if not keep(interrupts[number]["value"]):
            replaced.add(number)
            total -= sizes[number]
    return [
        {**one, "value": omitted(_size(one["value"])), "response_schema": None} if number in replaced else one
        for number, one in enumerate(interrupts)
    ]


def _size(value: Any) -> int:
    return 0 if value is None else len(orjson.dumps(value, default=str))


def omitted(size: int) -> str:
    """What stands in an event in place of a value of so many bytes."""
    return f"<{size} bytes: too large for an event; see the thread's state>"


def lightened(event: Event) -> Event:
    """An event without its large parts, for when Kafka refuses it whole: where it is in the history, and what happened, remain."""
    light: dict[str, Any] = {"metadata": {}} if event.metadata else {}
    if isinstance(event, CheckpointSaved):
        light |= {"text": "", "text_truncated": True, "channels": (), "nodes": event.nodes[:NAMES_KEPT]}
    if isinstance(event, RunInterrupted):
        values = [one.model_dump() for one in event.interrupts]
        light["interrupts"] = tuple(InterruptInfo.model_validate(one) for one in fitting(values, 0))
    if (error := getattr(event, "error", None)) is not None:
        light["error"] = error.model_copy(update={"message": error.message[:ERROR_CHARS], "traceback": ""})
    if len(following := getattr(event, "next", ())) > NAMES_KEPT:
        light["next"] = following[:NAMES_KEPT]
    return event.model_copy(update=light)


def record_of(run: Mapping[str, Any], event: Event, source: str) -> Record:
    """The Kafka record of a run's event; the same, but for ``source``, whoever publishes it."""
    return encode(
        event,
        id=event.event_id,
        source=source,
        correlation_id=run["_id"],
        causation_id=f"{run['_id']}:start",
        traceparent=run.get("traceparent"),
        time=event.occurred_at,
    )
