"""The HTTP contract of the operations on threads beside making and reading one: search, count, change, prune."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from perdure.schemas.bodies import Body, Metadata
from perdure.schemas.http import ThreadId
from perdure.schemas.state_http import SUPERSTEPS_LIMIT, Superstep

ThreadField = Literal[
    "thread_id",
    "created_at",
    "updated_at",
    "state_updated_at",
    "metadata",
    "status",
    "config",
    "context",
    "values",
    "interrupts",
    "ttl",
    "waits",
    "error",
    "stuck",
]
"""A field of a thread that ``select`` can name. ``context`` is the Agent Server's; threads here do not have it."""
SortField = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]
Alias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
ExtractPath = Annotated[
    str, StringConstraints(max_length=1024, pattern=r"^(values|metadata|config|interrupts)([.\[].*)?$")
]

VALUES_LIMIT: Final = 500
"""States that one search by ``values`` reads at most: states are not indexed by their values."""


MAX_TTL_MINUTES: Final = 100 * 366 * 24 * 60


class TimeToLive(Body):
    """When a thread, or its older states, are removed; also only the minutes."""

    ttl: float = Field(gt=0, le=MAX_TTL_MINUTES, description="Minutes from now on.")
    strategy: Literal["delete", "keep_latest"] | None = Field(
        default="delete", description="`delete`: the thread. `keep_latest`: its older states, once."
    )

    @model_validator(mode="before")
    @classmethod
    def _of_minutes(cls, given: Any) -> Any:
        return {"ttl": given} if isinstance(given, int | float) and not isinstance(given, bool) else given


class ThreadCreate(Body):
    """Make a thread."""

    thread_id: ThreadId | None = Field(default=None, description="Made by the server (UUIDv7) when absent.")
    metadata: Metadata | None = Field(default=None, description="At most 64 KiB as JSON.")
    if_exists: Literal["raise", "do_nothing"] | None = Field(
        default="raise", description="What to do when the thread id is taken: 409, or answer the thread as it is."
    )
    supersteps: list[Superstep] | None = Field(
        default=None,
        max_length=SUPERSTEPS_LIMIT,
        description="States that the thread is made with, oldest first; `metadata.graph_id` names the graph.",
    )
    ttl: TimeToLive | None = None


class ThreadCount(Body):
    """Which threads are counted: those that match all that is given."""

    metadata: Metadata | None = Field(
        default=None,
        description="Each key must have this value; of an object, each of its keys. `graph_id` and `assistant_id` match what is "
        "shown, also where the thread's run set them.",
    )
    values: dict[str, Any] | None = Field(
        default=None,
        description="Each key of the newest state must have this value; of an object, each of its keys. Refused where more than "
        f"{VALUES_LIMIT} threads match everything else.",
    )
    status: Literal["idle", "busy", "interrupted", "error"] | None = None


class ThreadSearch(ThreadCount):
    """Which threads, in which order, and what of them."""

    ids: list[ThreadId] | None = Field(default=None, max_length=1000)
    limit: int | None = Field(default=10, ge=1, le=1000)
    offset: int | None = Field(default=0, ge=0, le=100_000)
    sort_by: SortField | None = Field(default=None, description="`updated_at` when absent.")
    sort_order: Literal["asc", "desc", "ASC", "DESC"] | None = Field(default=None, description="`desc` when absent.")
    select: list[ThreadField] | None = Field(default=None, description="Only these fields of each thread.")
    extract: dict[Alias, ExtractPath] | None = Field(
        default=None,
        max_length=10,
        description="Single values by name, found by path (`values.messages[-1].content`), shown as `extracted`; null where "
        "a path leads nowhere.",
    )


class ThreadPatch(Body):
    """Change a thread's metadata and its time to live."""

    metadata: Metadata | None = Field(
        default=None, description="Keys that are added or replaced; the others stay. At most 64 KiB as JSON together."
    )
    ttl: TimeToLive | None = Field(default=None, description="Begins anew from now on.")


class ThreadPrune(Body):
    """Remove threads, or their older states."""

    thread_ids: list[ThreadId] = Field(max_length=1000)
    strategy: Literal["delete", "keep_latest"] | None = Field(
        default="delete",
        description="`keep_latest` keeps the newest state of each thread and what a continuation needs; `delete` keeps nothing.",
    )


class ThreadsPruned(BaseModel):
    """What was pruned."""

    pruned_count: int = Field(
        description="Threads; those that do not exist, are held, archived or active are left out."
    )
