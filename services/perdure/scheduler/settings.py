"""Settings of the scheduler."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from perdure.chassis.settings import ServiceSettings
from perdure.chassis.signatures import SigningSettings


class SchedulerSettings(SigningSettings, ServiceSettings):
    """What an operator may set beside the shared settings. Times are in seconds."""

    sweep_interval_s: float = Field(default=1.0, gt=0)
    """Between two sweeps of the leader."""
    timer_interval_s: float = Field(default=0.1, gt=0, le=1)
    """Between two looks at the waits and schedules that are due, while any are; the scheduler rests while none is."""
    leader_ttl_s: float = Field(default=10.0, ge=1)
    """Another instance becomes leader after this many seconds without renewal."""
    lease_ttl_s: float = Field(default=10.0, ge=1)
    """The workers' lease; after an outage of the database the leader waits so long before it declares a worker dead."""
    publish_grace_s: float = Field(default=30.0, ge=0)
    """A registered run whose command may be unpublished is published again after so long."""
    crash_backoff_s: float = Field(default=2.0, ge=0)
    """Before a run is started again after its second crash; doubled with each further one."""
    stuck_interval_s: float = Field(default=5.0, gt=0)
    """Between two looks at who is stuck; a run younger than that is not looked at."""
    stuck_grace_s: float = Field(default=5.0, ge=0)
    """How much later than expected something may come: clocks differ."""
    stuck_wait_s: float = Field(default=60.0, gt=0)
    """A wait that the clock should have ended so long ago is stuck."""
    stuck_unclaimed_s: float = Field(default=60.0, gt=0)
    """A run that is pending for so long while no living worker serves its graph is stuck."""
    stuck_queued_s: float = Field(default=3600.0, gt=0)
    """A run that is pending for so long although workers live is stuck."""
    settle_grace_s: float = Field(default=15.0, ge=0)
    """The events of an ended run that Kafka has not acknowledged are published again after this many seconds."""
    batch_interval_s: float = Field(default=0.25, gt=0)
    """Between two looks at what ended in batches and what may start."""
    batch_runs_limit: int = Field(default=1000, ge=1)
    """Items of all batches together that run at once, whatever their concurrency."""
    batch_share: float = Field(default=0.8, gt=0, le=1)
    """The share of the living workers' open runs that batches may take; the rest is free for runs that somebody starts."""
    batch_patience_s: float = Field(default=0.3, gt=0)
    """When an item's run waits longer until a worker begins with it, no further item is started and fewer run at once."""
    batch_backoff_s: float = Field(default=2.0, ge=0)
    """Before a failed item is tried a second time; doubled with each further time, five minutes at most."""
    batch_upload_grace_s: float = Field(default=120.0, gt=0)
    """An upload that shows no sign of life for so long is removed with what it stored."""
    completed_delete_s: float = Field(default=60.0, ge=0)
    """A thread of a run with ``on_completion: "delete"`` is deleted this long after its end, so that it can be read until then."""
    retention_file: Path | None = None
    """How long ended threads are kept, as TOML or JSON (docs/retention.md); 30 days without one."""
    archive_interval_s: float = Field(default=60.0, gt=0)
    """Between two looks at which threads are to be archived."""
    archive_share: float = Field(default=0.25, gt=0, le=1)
    """The share of the time that archiving takes at most; it rests in between."""
    archive_lease_s: float = Field(default=60.0, ge=1)
    """What was begun on a thread and shows no sign of life for so long is taken over."""
