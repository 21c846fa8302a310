"""Batches over HTTP: what clients send, and what they see."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from perdure.schemas.bodies import Body, Metadata, RunConfig

ItemStatusName = Literal["waiting", "started", "interrupted", "succeeded", "failed", "cancelled"]
MAX_CONCURRENCY = 100_000
LINE_LIMIT = 1024 * 1024
"""Bytes of one item as JSON."""


class BatchItemCreate(BaseModel):
    """One item: a line of the upload. A field that is not known is an error: it is most likely misspelt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Any = Field(description="What the graph is started with; not null.")
    ref: str | None = Field(
        default=None, min_length=1, max_length=256, description="Your own name of the item; shown with its result."
    )
    metadata: Metadata | None = Field(
        default=None, description="Of its run, beside the batch's; 64 KiB as JSON at most."
    )
    config: RunConfig | None = Field(default=None, description="In place of the batch's.")
    context: dict[str, Any] | None = Field(default=None, description="In place of the batch's.")


class BatchOptions(Body):
    """How a batch is run. With an NDJSON upload these are query parameters, objects as JSON."""

    assistant_id: str = Field(min_length=1, max_length=256, description="A graph id, or the assistant id of a graph.")
    concurrency: int = Field(
        default=100,
        ge=1,
        le=MAX_CONCURRENCY,
        description="Items that run at once; those that wait for somebody do not count.",
    )
    max_attempts: int = Field(
        default=1,
        ge=1,
        le=100,
        description="A failed item is tried so many times; each goes on from the last checkpoint.",
    )
    failure_threshold: float | None = Field(
        default=None,
        ge=0,
        description="Failed items that are allowed, a number or, below 1, a share of all; one more pauses the batch.",
    )
    metadata: Metadata | None = Field(default=None, description="Of the batch and of its runs; 64 KiB as JSON at most.")
    config: RunConfig | None = None
    context: dict[str, Any] | None = None
    paused: bool = Field(default=False, description="Wait for a resume before the first item is started.")


class BatchCreate(BatchOptions):
    """Run a graph over many inputs."""

    items: list[Any] = Field(min_length=1, description="`BatchItemCreate` each; for many, upload NDJSON instead.")


class BatchRedrive(Body):
    """Start items again that ended without success."""

    statuses: list[Literal["failed", "cancelled"]] = Field(default=["failed"], min_length=1)


class BatchCounts(BaseModel):
    """Items by status."""

    waiting: int
    started: int
    interrupted: int = Field(description="Their agents wait for somebody: in progress.")
    succeeded: int
    failed: int
    cancelled: int


class Batch(BaseModel):
    """A batch."""

    batch_id: str
    assistant_id: str
    graph_id: str
    status: Literal["pending", "running", "paused", "cancelling", "completed", "cancelled"]
    pause_reason: str | None
    total: int
    ended: int = Field(description="Items that succeeded, failed or were cancelled.")
    counts: BatchCounts
    rate_per_s: float | None = Field(description="Items that ended, by second, over the last minutes.")
    eta_s: float | None = Field(description="Seconds until the rest has ended at that rate.")
    eta: datetime | None
    concurrency: int
    max_attempts: int
    failure_threshold: float | None
    redriving: bool
    metadata: Metadata
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class BatchPage(BaseModel):
    """Batches, newest first."""

    items: list[Batch]
    cursor: str | None = Field(description="For the next page; null on the last one.")


class BatchItem(BaseModel):
    """An item."""

    number: int
    ref: str | None
    status: ItemStatusName
    thread_id: str = Field(description="There once it is started.")
    run_id: str | None = Field(description="Of its newest attempt.")
    attempts: int
    metadata: Metadata
    error: dict[str, Any] | None
    started_at: datetime | None
    ended_at: datetime | None


class BatchItemPage(BaseModel):
    """Items in their order."""

    items: list[BatchItem]
    cursor: str | None = Field(description="For the next page; null on the last one.")
