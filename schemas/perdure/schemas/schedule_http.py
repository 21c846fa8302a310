"""The HTTP contract of schedules: our own shapes, and those of the Agent Server's crons, for the same documents (ADR 7)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from perdure.schemas.bodies import Body, Metadata, NodeName, RunConfig
from perdure.schemas.http import ThreadId
from perdure.schemas.moments import AwareMoment, Moment
from perdure.schemas.notices import WebhookFormat

CATCH_UP_LIMIT_S = 366 * 86400
OverlapName = Literal["skip", "queue", "cancel_other", "rollback_other", "allow"]


class RunFields(Body):
    """What the runs of a schedule are started with."""

    input: Any = None
    config: RunConfig | None = None
    context: dict[str, Any] | None = None
    webhook: str | None = Field(default=None, pattern=r"^https?://", max_length=2048)
    webhook_format: WebhookFormat | None = Field(default=None, description="Of its body; standard by default.")
    interrupt_before: Literal["*"] | list[NodeName] | None = None
    interrupt_after: Literal["*"] | list[NodeName] | None = None
    stream_mode: str | list[str] | None = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    durability: Literal["sync", "async", "exit"] | None = None


class ScheduleFields(RunFields):
    """What may be changed later."""

    cron: str | None = Field(
        default=None,
        max_length=256,
        description="Five fields (minute, hour, day of month, month, day of week), six with seconds first, or @hourly, "
        "@daily, @weekly, @monthly, @yearly.",
    )
    timezone: str | None = Field(default=None, max_length=64, description="IANA name; UTC when absent.")
    metadata: Metadata | None = Field(
        default=None, description="Of the schedule and of its runs; at most 64 KiB as JSON."
    )
    overlap: OverlapName | None = Field(
        default=None,
        description="What happens when the run before is not finished (active, or asleep at a wait). skip (the default): "
        "nothing is started; queue: the run waits its turn on the thread; cancel_other: the run before is cancelled; "
        "allow: both go on, each on its own thread.",
    )
    catch_up_s: float | None = Field(
        default=None, ge=0, le=CATCH_UP_LIMIT_S, description="Fire times missed by more seconds are not made up; 3600."
    )
    end_at: AwareMoment | None = Field(default=None, description="Nothing fires after it.")


class ScheduleCreate(ScheduleFields):
    """Make a schedule."""

    cron: str = Field(max_length=256, description="See ScheduleFields.")
    assistant_id: str = Field(min_length=1, max_length=256, description="A graph id, or the assistant id of a graph.")
    thread_id: ThreadId | None = Field(default=None, description="Where its runs go; null: a new thread for each.")
    paused: bool = False


class SchedulePatch(ScheduleFields):
    """Change a schedule: only the fields that are given. ``end_at: null`` takes the end away."""


class BackfillRequest(Body):
    """Fire the times of a past period, each once, also those that fell into a pause."""

    start: AwareMoment
    end: AwareMoment
    overlap: OverlapName | None = Field(default=None, description="In place of the schedule's own.")


class Schedule(BaseModel):
    """A schedule."""

    schedule_id: str
    assistant_id: str
    graph_id: str
    thread_id: str | None
    cron: str
    timezone: str
    payload: dict[str, Any] | None = Field(
        description="What its runs are started with; null where a list is too long for it."
    )
    metadata: Metadata
    overlap: OverlapName
    catch_up_s: float
    state: Literal["active", "paused", "ended"]
    next_at: datetime | None
    following: list[datetime] = Field(description="The fire times after that; at most four.")
    end_at: datetime | None
    created_at: datetime
    updated_at: datetime
    last_fired_at: datetime | None
    last_run_id: str | None
    last_thread_id: str | None
    fired: int
    skipped: int = Field(description="Fire times at which the run before was not finished.")
    missed: int = Field(description="Fire times that were missed and not made up.")
    making_up: int = Field(default=0, description="Fire times that were missed and wait for the run before them.")


class ScheduleFiring(BaseModel):
    """What came of one fire time."""

    at: datetime
    result: Literal["fired", "skipped", "fired_before"]
    run_id: str | None
    thread_id: str | None


class Backfilled(BaseModel):
    """What came of a backfill."""

    firings: list[ScheduleFiring]


class CronFields(RunFields):
    """The Agent Server's names."""

    schedule: str | None = Field(default=None, max_length=256)
    timezone: str | None = Field(default=None, max_length=64)
    end_time: Moment | None = Field(default=None, description="Without an offset: UTC.")
    metadata: Metadata | None = None
    enabled: bool | None = None
    on_run_completed: Literal["delete", "keep"] | None = Field(
        default=None, description="delete: the thread of each run is deleted a minute after its end. Kept by default."
    )


class CronCreate(CronFields):
    """Make a cron."""

    schedule: str = Field(max_length=256)
    assistant_id: str = Field(min_length=1, max_length=256)
    multitask_strategy: Literal["enqueue", "reject", "interrupt", "rollback"] | None = Field(
        default=None,
        description="Of a thread's cron: enqueue is queue, reject is skip, interrupt is cancel_other, rollback is "
        "rollback_other.",
    )


class CronPatch(CronFields):
    """Change a cron: only the fields that are given."""


class CronQuery(Body):
    """Which crons."""

    assistant_id: str | None = None
    thread_id: str | None = None
    enabled: bool | None = None
    metadata: Metadata | None = None


class CronSearch(CronQuery):
    """Which crons, and how they are shown."""

    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0)
    sort_by: (
        Literal["cron_id", "assistant_id", "thread_id", "created_at", "updated_at", "next_run_date", "end_time"] | None
    ) = None
    sort_order: Literal["asc", "desc"] | None = None
    select: list[str] | None = None


class Cron(BaseModel):
    """A schedule in the Agent Server's shape."""

    cron_id: str
    assistant_id: str
    thread_id: str | None
    on_run_completed: Literal["delete", "keep"] | None
    end_time: datetime | None
    schedule: str
    timezone: str | None
    created_at: datetime
    updated_at: datetime
    payload: dict[str, Any]
    user_id: None
    next_run_date: datetime | None
    metadata: Metadata
    enabled: bool
