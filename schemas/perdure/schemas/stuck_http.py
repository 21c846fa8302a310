"""HTTP shapes of who is stuck."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from perdure.schemas.events import StuckCode


class LastError(BaseModel):
    """What went wrong last in a thread."""

    model_config = ConfigDict(frozen=True)

    type: str
    message: str
    node: str | None = None
    at: datetime | None = None


class StuckThread(BaseModel):
    """A thread that stands still, or stood still."""

    model_config = ConfigDict(frozen=True)

    thread_id: str
    run_id: str
    tenant: str
    graph: str
    node: str | None = Field(description="Where it stands; null when that is several nodes, or none yet.")
    nodes: list[str]
    code: StuckCode
    reason: str = Field(description="For people: where, since when, what was expected, what to do.")
    since: datetime = Field(description="The last sign of progress.")
    expected_by: datetime | None = Field(description="When it should have gone on.")
    noticed_at: datetime
    recovered_at: datetime | None = Field(description="When it went on; null: not yet.")
    wait_id: str | None = Field(description="Of `wait_overdue`: which wait.")
    last_error: LastError | None = Field(description="The last error of the thread until then.")
    metadata: dict[str, Any]


class StuckPage(BaseModel):
    """Stuck threads, the one that was noticed last first."""

    items: list[StuckThread]
    total: int
    cursor: str | None = Field(description="`cursor` of the next page; null at the end.")
