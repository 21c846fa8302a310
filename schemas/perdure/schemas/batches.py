"""Events of batches, on ``perdure.notifications``: what is told of many threads at once.

Contract: whoever runs a batch publishes each of these once for its cause (the envelope's id is :attr:`BatchEvent.event_id`); the
notifier tells those who subscribed to the batch or to its tenant. ``thread_id`` is the batch's id: one batch is one partition.

Outside: running batches. They are no events of a thread, so they are not on ``perdure.events`` and not in a thread's history.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from pydantic import Field

from perdure.schemas.message import Message


class BatchEvent(Message):
    """What all events of batches say."""

    occurred_at: datetime
    assistant_id: str | None = None
    """Where all items are runs of one assistant."""
    total: int = Field(ge=0)
    """Items of the batch."""
    succeeded: int = Field(default=0, ge=0)
    failed: int = Field(default=0, ge=0)
    cancelled: int = Field(default=0, ge=0)
    metadata: dict[str, Any] = Field(default_factory=dict)
    """The batch's, as the client gave it."""

    @property
    def batch_id(self) -> str:
        """The batch."""
        return self.thread_id

    @property
    def event_id(self) -> str:
        """The deduplication key. This format is stored; never change it."""
        return f"batch:{self.thread_id}:{self.TYPE}"


class BatchFinished(BatchEvent):
    """Every item of the batch has ended. Once a batch."""

    TYPE: ClassVar[str] = "perdure.batch.finished"
    VERSION: ClassVar[int] = 1

    status: str
    """``completed``, ``failed`` (stopped by its threshold) or ``cancelled``."""
    started_at: datetime | None = None


class BatchThresholdReached(BatchEvent):
    """So many items failed that the batch was stopped or paused."""

    TYPE: ClassVar[str] = "perdure.batch.threshold_reached"
    VERSION: ClassVar[int] = 1

    threshold: float = Field(ge=0)
    """Failures that were allowed: a number of items, or a share when below 1."""
    action: str
    """What was done: ``paused``, ``cancelled`` or ``none``."""
    occurrence: int = Field(default=1, ge=1)
    """1 the first time; one more each time that a resumed batch reaches it again."""

    @property
    def event_id(self) -> str:
        """As the base's, and which time it is."""
        return f"{super().event_id}:{self.occurrence}"


NOTIFICATIONS: dict[tuple[str, int], type[Message]] = {
    (e.TYPE, e.VERSION): e for e in (BatchFinished, BatchThresholdReached)
}
