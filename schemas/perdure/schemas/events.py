"""Events: past tense, on ``perdure.events``, one for every state transition of a thread.

Contract: ``seq`` grows by one within a thread (a gap is a fence left by a recovery, see ADR 1); the event id is
``<thread_id>:<seq>``, so a repeat has the same id. A :class:`Note` has no number of its own: its id is
``<thread_id>:<seq>n<note>``. Every event is a pure function of stored documents
(``perdure.schemas.outbox``) and can be produced again from them.

Outside: payloads larger than the bounds below. The full state is in the checkpoint that ``checkpoint_id`` names.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from perdure.schemas.message import Message

TEXT_LIMIT = 16_384
"""Characters of changed state text that an event carries at most."""
NOTES_PER_SEQ = 1024
"""Notes after one sequence number, at most: ``seq * NOTES_PER_SEQ + note`` orders a thread's events. Stored; never change it."""
POISON = "perdure.poison"
"""``ErrorInfo.type`` of a run that was parked: it crashed its workers again and again, or cannot be read."""


class ErrorInfo(BaseModel):
    """A failure as data."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str
    """Dotted name of the exception class, or of our own error."""
    message: str
    """At most 4,000 characters."""
    node: str | None = None
    """The node that failed, where known."""
    traceback: str | None = None
    """The end of the traceback, at most 8,000 characters."""


class InterruptInfo(BaseModel):
    """One interrupt that a run waits at."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    value: Any = None
    """What the node passed to ``interrupt()``, as JSON; replaced by a note when it exceeds 64 KiB."""
    response_schema: dict[str, Any] | None = Field(default=None, exclude_if=lambda schema: schema is None)
    """JSON Schema of the answer, where the node gave ``interrupt(..., response_schema=)`` one; left out where there is none, and
    where value and schema together exceed 64 KiB."""


class Event(Message):
    """What all events say."""

    run_id: str
    graph_id: str
    assistant_id: str
    graph_version: str | None = None
    seq: int = Field(ge=0)
    """Position in the thread's history."""
    epoch: int = Field(ge=0)
    """How often the run had been claimed when this happened."""
    occurred_at: datetime
    metadata: dict[str, Any] = Field(default_factory=dict)
    """The metadata of run and thread, as the client gave it."""
    quiet: bool = False
    """True where nobody is notified: a client changed a state (ADR 33), and no graph ran."""

    @property
    def event_id(self) -> str:
        """``<thread_id>:<seq>``: the deduplication key. This format is stored; never change it."""
        return f"{self.thread_id}:{self.seq}"


class RunStarted(Event):
    """A worker claimed the run (again when ``epoch`` > 1)."""

    TYPE: ClassVar[str] = "perdure.run.started"
    VERSION: ClassVar[int] = 1

    worker_id: str
    expected_by: datetime | None = None
    """When the first superstep should have ended; ``None`` from a worker that did not say."""
    next: tuple[str, ...] = ()
    """The nodes of that superstep; empty before a thread's first checkpoint."""


class CheckpointSaved(Event):
    """One superstep is durable, or what a command updated at a checkpoint that is there (``source`` is ``update``)."""

    TYPE: ClassVar[str] = "perdure.checkpoint.saved"
    VERSION: ClassVar[int] = 1

    checkpoint_id: str
    checkpoint_ns: str = ""
    parent_checkpoint_id: str | None = None
    step: int
    source: str
    """``input``, ``loop``, ``update`` or ``fork``, as LangGraph names it."""
    nodes: tuple[str, ...] = ()
    """The nodes that ran in this superstep."""
    next: tuple[str, ...] = ()
    """The nodes that run next; empty at the end."""
    channels: tuple[str, ...] = ()
    """The channels that changed."""
    text: str = ""
    """The changed part of the state as text, cut at ``TEXT_LIMIT`` characters."""
    text_truncated: bool = False
    duration_ms: float | None = Field(default=None, ge=0)
    """Since the checkpoint before it in this execution."""
    expected_by: datetime | None = None
    """When the next checkpoint should be there at the latest; past it, the thread is stuck (ADR 10)."""


class RunInterrupted(Event):
    """The run waits; nothing of it stays in memory."""

    TYPE: ClassVar[str] = "perdure.run.interrupted"
    VERSION: ClassVar[int] = 1

    checkpoint_id: str | None = None
    next: tuple[str, ...] = ()
    interrupts: tuple[InterruptInfo, ...] = ()
    expected_by: datetime | None = None
    """The earliest time at which the clock ends one of its waits; ``None``: it may wait for ever."""


class RunSucceeded(Event):
    """The graph came to its end."""

    TYPE: ClassVar[str] = "perdure.run.succeeded"
    VERSION: ClassVar[int] = 1

    checkpoint_id: str | None = None
    steps: int = 0


class RunFailed(Event):
    """The run ended with an error; its last checkpoint is kept and a new run can go on from it."""

    TYPE: ClassVar[str] = "perdure.run.failed"
    VERSION: ClassVar[int] = 1

    checkpoint_id: str | None = None
    next: tuple[str, ...] = ()
    error: ErrorInfo


class RunTimedOut(Event):
    """The run ended because a node, a superstep or the run itself exceeded its time limit."""

    TYPE: ClassVar[str] = "perdure.run.timed_out"
    VERSION: ClassVar[int] = 1

    checkpoint_id: str | None = None
    next: tuple[str, ...] = ()
    error: ErrorInfo


class RunCancelled(Event):
    """The run was cancelled by request."""

    TYPE: ClassVar[str] = "perdure.run.cancelled"
    VERSION: ClassVar[int] = 1

    checkpoint_id: str | None = None
    next: tuple[str, ...] = ()


class Note(Event):
    """What happened to a thread outside its owner's history: nobody's sequence number is used.

    ``seq`` is the newest that was known, ``note`` counts the notes after it. A note sorts after its ``seq`` and before the next.
    """

    note: int = Field(ge=1, lt=NOTES_PER_SEQ)

    @property
    def event_id(self) -> str:
        """``<thread_id>:<seq>n<note>``. This format is stored; never change it."""
        return f"{self.thread_id}:{self.seq}n{self.note}"


class StuckCode(StrEnum):
    """Why a thread counts as stuck (ADR 10)."""

    OVERDUE = "overdue"
    """It runs, and its next checkpoint should have been there by ``expected_by``."""
    UNCLAIMED = "unclaimed"
    """Its run is pending and no worker takes it."""
    WAIT_OVERDUE = "wait_overdue"
    """The clock should have ended its wait."""
    POISON = "poison"
    """Its run crashed its workers again and again and was parked."""


class ThreadStuck(Note):
    """The thread should have gone on and has not."""

    TYPE: ClassVar[str] = "perdure.thread.stuck"
    VERSION: ClassVar[int] = 1

    code: StuckCode
    reason: str
    """For people: which node, how long, what was expected, what to do. At most 4,000 characters."""
    next: tuple[str, ...] = ()
    """The nodes where it stands."""
    since: datetime
    """The last sign of progress."""
    expected_by: datetime | None = None


class ThreadRecovered(Note):
    """A thread that was stuck went on."""

    TYPE: ClassVar[str] = "perdure.thread.recovered"
    VERSION: ClassVar[int] = 1

    code: StuckCode
    """Why it had been stuck."""
    stuck_since: datetime
    status: str
    """The status that it has now: ``running``, or how its last run ended."""
    next: tuple[str, ...] = ()


class ApprovalEscalated(Note):
    """A question expired without an answer and went to the next person."""

    TYPE: ClassVar[str] = "perdure.approval.escalated"
    VERSION: ClassVar[int] = 1

    wait_id: str
    question: str
    asked: str | None = None
    """Who had been asked."""
    assigned_to: str | None = None
    """Who is asked now."""
    escalations: int = Field(ge=1)
    """How many times it has gone to the next person."""
    next: tuple[str, ...] = ()
    expected_by: datetime | None = None
    """When this person's time is over; ``None``: never."""


class NoticeNote(Note):
    """What became of a notice about this thread (ADR 12). It says nothing about where the thread stands."""

    delivery_id: str
    subscription_id: str
    kind: str
    """``perdure.schemas.notices.NoticeKind``, ``digest`` or ``test``."""
    channel: str
    """``webhook``, ``email`` or ``slack``."""
    target: str
    """Where it went, without what is secret in it."""
    attempts: int = Field(ge=0)


class NoticeDelivered(NoticeNote):
    """Somebody was told."""

    TYPE: ClassVar[str] = "perdure.notice.delivered"
    VERSION: ClassVar[int] = 1


class NoticeDead(NoticeNote):
    """Somebody could not be told; the notice is kept and can be redriven."""

    TYPE: ClassVar[str] = "perdure.notice.dead"
    VERSION: ClassVar[int] = 1

    reason: str
    """Why, for people. At most 2,000 characters."""


class ThreadArchived(Note):
    """The thread is in the archive (ADR 15). It says where the thread stood, so that it is found as before."""

    TYPE: ClassVar[str] = "perdure.thread.archived"
    VERSION: ClassVar[int] = 1

    object: str
    """The key of its object in the archive store."""
    object_bytes: int = Field(ge=0)
    status: str
    """How its last run ended, as :class:`perdure.schemas.documents.RunStatus` names it."""
    checkpoint_id: str | None = None
    next: tuple[str, ...] = ()
    error: ErrorInfo | None = None


class ThreadRestored(Note):
    """The thread came back from the archive and can go on."""

    TYPE: ClassVar[str] = "perdure.thread.restored"
    VERSION: ClassVar[int] = 1

    by: str
    """Who asked for it."""
    status: str
    checkpoint_id: str | None = None
    next: tuple[str, ...] = ()
    error: ErrorInfo | None = None


class ThreadPruned(Note):
    """Older states of the thread are removed (ADR 33). It says nothing about where the thread stands."""

    TYPE: ClassVar[str] = "perdure.thread.pruned"
    VERSION: ClassVar[int] = 1

    removed: tuple[tuple[int, int], ...]
    """The sequence numbers of the removed checkpoints, as spans: first and last of each."""


class ThreadDeleted(Note):
    """The thread was deleted, with everything of it: nothing of it is told after this, unless its id is used again.

    No document of the store holds this note: it is published, as the last one of its thread, before the thread's own document goes.
    """

    TYPE: ClassVar[str] = "perdure.thread.deleted"
    VERSION: ClassVar[int] = 1


EVENTS: dict[tuple[str, int], type[Message]] = {
    (e.TYPE, e.VERSION): e
    for e in (
        RunStarted,
        CheckpointSaved,
        RunInterrupted,
        RunSucceeded,
        RunFailed,
        RunTimedOut,
        RunCancelled,
        ThreadStuck,
        ThreadRecovered,
        ApprovalEscalated,
        NoticeDelivered,
        NoticeDead,
        ThreadArchived,
        ThreadRestored,
        ThreadPruned,
        ThreadDeleted,
    )
}
