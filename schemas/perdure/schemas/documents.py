"""The documents of the store that more than one service reads: field names and meanings.

Collections: ``threads``, ``runs``, ``workers``, ``leaders``, ``graphs``, ``payloads``, ``waits``, ``signals``, ``effects`` and
``notebook`` (ADR 3).
Contract: BSON documents as typed dictionaries. ``status`` values are those of the LangGraph Agent Server, and ``cancelled``.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, TypedDict

THREADS = "threads"
RUNS = "runs"
WORKERS = "workers"
LEADERS = "leaders"
GRAPHS = "graphs"
PAYLOADS = "payloads"
NOTEBOOK = "notebook"
WAITS = "waits"
SIGNALS = "signals"
EFFECTS = "effects"


class RunStatus(StrEnum):
    """Where a run is. Only agent-step moves a run, except from nothing to ``pending`` (gateway)."""

    PENDING = "pending"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"

    @property
    def active(self) -> bool:
        """Whether the run still has work to do."""
        return self in (RunStatus.PENDING, RunStatus.RUNNING)


class ThreadStatus(StrEnum):
    """What a client sees. ``busy`` is never stored: a thread is busy while a run of it is pending or running."""

    IDLE = "idle"
    BUSY = "busy"
    INTERRUPTED = "interrupted"
    ERROR = "error"


class ThreadDocument(TypedDict, total=False):
    """One thread; ``_id`` is the thread id."""

    _id: str
    tenant: str
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, Any]
    status: str
    """As left by the last ended run; see :class:`ThreadStatus`."""
    seq: int
    """The last sequence number that an ended run used; the next run numbers from ``seq + 1``."""
    head: str | None
    """The newest root checkpoint id at the end of the last run; a lower bound while a run is active."""
    next: list[str]
    interrupts: list[dict[str, Any]]
    error: dict[str, Any] | None
    graph_id: str
    assistant_id: str
    last_run_id: str


class RunDocument(TypedDict, total=False):
    """One run; ``_id`` is the run id."""

    _id: str
    tenant: str
    thread_id: str
    assistant_id: str
    graph_id: str
    graph_version: str | None
    metadata: dict[str, Any]
    multitask_strategy: str
    traceparent: str | None
    idempotency_key: str
    idempotency_digest: str
    """Of the request that registered it: the same key with another request is an error."""
    payload: bytes
    """The request (input, command, config, ...) as JSON, packed by ``perdure.chassis.payload``."""
    payload_chunks: int
    """When > 0 the payload is in that many documents of ``payloads``."""
    new_thread: bool
    """The thread was made with this run: nothing is stored for it before."""
    created_at: datetime
    updated_at: datetime
    status: str
    owner: str | None
    """The worker incarnation that executes it; null unless ``running``."""
    claim: str
    """Token of the claim batch, so that a claimer can read back what it won."""
    epoch: int
    """How often it has been claimed; 0 before the first time."""
    settled: bool
    """False until every event up to its end is acknowledged by Kafka (ADR 2)."""
    swept_at: datetime
    cancel_requested_at: datetime
    wait_id: str
    """Of a run that wakes its thread: the wait that it ends."""
    started_at: datetime
    first_seq: int
    ended_seq: int
    ended_at: datetime
    head: str | None
    next: list[str]
    interrupts: list[dict[str, Any]]
    error: dict[str, Any] | None
    steps: int


class WaitStatus(StrEnum):
    """A projection for queries: which outcome a wait had is decided by the run that wakes it (ADR 6)."""

    OPEN = "open"
    ANSWERED = "answered"
    CLOSED = "closed"
    """Its thread went on another way."""


class WaitDocument(TypedDict, total=False):
    """One wait of a thread; ``_id`` is ``perdure.schemas.waits.wait_id``."""

    _id: str
    tenant: str
    thread_id: str
    interrupt_id: str
    run_id: str
    """The run that ended at this wait."""
    graph_id: str
    graph_version: str | None
    assistant_id: str
    metadata: dict[str, Any]
    traceparent: str | None
    nodes: list[str]
    """Where the thread stands."""
    kind: str
    status: str
    opened_at: datetime
    due_at: datetime
    """When the clock ends the wait or the question goes to the next person; absent without one, and once it is over."""
    events: list[str]
    question: dict[str, Any] | None
    """``perdure.schemas.waits.Question`` as JSON."""
    assigned_to: str | None
    escalations: int
    """How many times the question went to the next person."""
    validation: dict[str, Any] | None
    """``perdure.schemas.waits.ValidationRequest`` as JSON."""
    requested_at: datetime
    """When the validation was last put to the validator."""
    outcome: dict[str, Any]
    """``perdure.schemas.waits.WaitOutcome`` as JSON, once it is over."""
    woken_by: str
    """The run that went on."""
    ended_at: datetime


class SignalDocument(TypedDict, total=False):
    """One signal to a thread; ``_id`` is its id. Kept until a wait takes it."""

    _id: str
    tenant: str
    thread_id: str
    name: str
    payload: bytes
    """As JSON, packed by ``perdure.chassis.payload``; always inline."""
    created_at: datetime
    state: str
    """``free`` or ``taken``."""
    taken_by: str | None
    """The wait that it ended or is about to end."""
    offered: bool
    """False until it was shown to the waits that were open when it came (ADR 6)."""
    digest: str
    """Of the request that sent it: the same key with another request is an error."""


class WorkerDocument(TypedDict, total=False):
    """One incarnation of an agent-step process; ``_id`` is the incarnation id."""

    _id: str
    host: str
    pid: int
    state: str
    """``alive``, ``dead`` (lease expired) or ``gone`` (left in order)."""
    expires_at: datetime
    """By the database's clock."""
    started_at: datetime
    graphs: list[str]


class GraphDocument(TypedDict, total=False):
    """A graph that some worker serves; ``_id`` is the graph id."""

    _id: str
    version: str
    """Digest of the graph's structure."""
    nodes: list[str]
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    config: dict[str, Any]
    updated_at: datetime
