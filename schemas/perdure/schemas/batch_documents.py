"""The documents of batches: ``batches`` and ``batch_items`` (ADR 14).

Contract: the status of an item is the truth; what a batch's document counts is derived from it. Items have keys by which they are
read in ranges (:func:`item_key`), and no other index: a batch of 100,000 costs one insert an item.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypedDict

BATCHES: Final = "batches"
BATCH_ITEMS: Final = "batch_items"

NUMBER_DIGITS: Final = 9


def item_key(batch_id: str, number: int) -> str:
    """The ``_id`` of an item: sorts by number. This format is stored; never change it."""
    return f"{batch_id}:{number:0{NUMBER_DIGITS}d}"


def item_range(batch_id: str, first: int, end: int) -> dict[str, Any]:
    """A query for the items ``first <= number < end``."""
    return {"_id": {"$gte": item_key(batch_id, first), "$lt": item_key(batch_id, end)}}


class BatchStatus(StrEnum):
    """Where a batch is."""

    UPLOADING = "uploading"
    """Its items are being stored: nobody sees it yet."""
    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    """No further item is started; those that were go on."""
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    """Every item has ended, however."""
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing goes on unless somebody redrives."""
        return self in (BatchStatus.COMPLETED, BatchStatus.CANCELLED)


class ItemStatus(StrEnum):
    """Where an item is."""

    WAITING = "waiting"
    STARTED = "started"
    INTERRUPTED = "interrupted"
    """Its agent waits for somebody or something: in progress, and it takes no place of those that run at once."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether it stays so unless somebody redrives it."""
        return self in (ItemStatus.SUCCEEDED, ItemStatus.FAILED, ItemStatus.CANCELLED)


ENDED_ITEMS: Final = tuple(status for status in ItemStatus if status.ended)
OPEN_ITEMS: Final = tuple(status for status in ItemStatus if not status.ended)


class Sample(TypedDict):
    """How many items had ended at a moment."""

    at: datetime
    ended: int


class RedriveOrder(TypedDict):
    """A redrive that was asked for and is not done yet."""

    id: str
    statuses: list[str]
    asked_at: datetime


class BatchDocument(TypedDict, total=False):
    """One batch; ``_id`` is its id."""

    _id: str
    tenant: str
    graph_id: str
    assistant_id: str
    graph_version: str | None
    metadata: dict[str, Any]
    """Of the batch and of all its runs."""
    defaults: bytes
    """Config and context of its runs, as JSON, packed by ``perdure.chassis.payload``; an item's own come first."""
    user: bytes
    """Who made the batch, as ``perdure.schemas.auth_user`` packs it: its runs act for them."""
    concurrency: int
    max_attempts: int
    failure_threshold: float | None
    """Failures that are allowed: a number of items, or a share of them when below 1."""
    status: str
    pause_reason: str | None
    total: int
    counts: dict[str, int]
    """Items by status: absolute numbers, as of the last turn of the scheduler that owns it."""
    forgiven: int
    """Failures before the last resume: they do not count against the threshold again."""
    reached: int
    """How often its threshold was reached."""
    finished: int
    """How often it finished: once, and once more after each redrive of a finished one."""
    samples: list[Sample]
    """For the rate, oldest first."""
    owner: str
    """The scheduler whose counts are written; another one that takes over writes itself here first."""
    open: bool
    """Whether the scheduler has to look at it; absent when not."""
    redrive: RedriveOrder
    outbox: list[dict[str, Any]]
    """Events that are not published yet: ``id``, ``type`` and ``body``."""
    idempotency_key: str
    idempotency_digest: str
    created_at: datetime
    updated_at: datetime
    touched_at: datetime
    """While it is uploaded: the last sign of life."""
    started_at: datetime
    ended_at: datetime


class ItemDocument(TypedDict, total=False):
    """One item; ``_id`` is :func:`item_key`."""

    _id: str
    batch: str
    number: int
    """1, 2, ... in the order of the upload."""
    ref: str
    """The client's own name of it."""
    status: str
    payload: bytes
    """Input, config and context, as JSON, packed by ``perdure.chassis.payload``; always inline."""
    metadata: dict[str, Any]
    attempt: int
    """Attempts begun; 0 before the first."""
    base: int
    """Attempts before the last redrive: they do not count against ``max_attempts``."""
    started_at: datetime
    """Of the last attempt; with it the run's id is derived."""
    claim: str
    """Token of the turn that began the last attempt."""
    run_id: str
    """The run that tells how it stands, where it is not the one that its last attempt began with."""
    retry_of: str
    """The run that the next attempt takes the place of."""
    error: dict[str, Any]
    ended_at: datetime
