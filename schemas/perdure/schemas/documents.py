"""The documents of the store that more than one service reads: field names and meanings.

Collections: ``threads``, ``runs``, ``leaders``, ``graphs``, ``payloads``, ``waits``, ``signals``, ``reply_addresses`` (ADR 13)
and ``notebook``, the checkpoint store (ADR 3). Other modules of ``perdure.schemas`` have the documents of schedules
(``schedule_documents``), of notices (``notices``), of batches (``batch_documents``), effects (``effect_documents``), dead letters
(``deadletter_documents``), and of processes (``process_documents``).
Contract: BSON documents as typed dictionaries. ``status`` values are those of the LangGraph Agent Server, and ``cancelled``.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, NotRequired, TypedDict

from perdure.schemas.archive_documents import ArchiveMark
from perdure.schemas.state_documents import StateUpdateMark, TtlMark
from perdure.schemas.stuck_documents import CrashRecord, StuckMark

THREADS = "threads"
RUNS = "runs"
WORKERS = "workers"
LEADERS = "leaders"
SCHEDULERS = "schedulers"
SCHEDULES = "schedules"
GRAPHS = "graphs"
PAYLOADS = "payloads"
NOTEBOOK = "notebook"
WAITS = "waits"
SIGNALS = "signals"
EFFECTS = "effects"
NODE_TIMINGS = "node_timings"
DEAD_LETTERS = "dead_letters"
REPLY_ADDRESSES = "reply_addresses"


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


class RunKind(StrEnum):
    """What a run does."""

    UPDATE = "update"
    """It changes the thread's state for a client, without executing nodes; lists of runs leave it out (ADR 33)."""


class CancelAction(StrEnum):
    """What becomes of what a cancelled run has written."""

    INTERRUPT = "interrupt"
    """It stays: the thread stands at the run's last checkpoint."""
    ROLLBACK = "rollback"
    """It is undone and the run is deleted: the thread stands where it stood before the run (ADR 32)."""


class BatchMark(TypedDict, total=False):
    """Which item of a batch a thread or a run belongs to (ADR 14)."""

    id: str
    number: int
    attempt: int
    """Of a run: which attempt; absent where a client went on with the item's thread."""


class ThreadDocument(TypedDict, total=False):
    """One thread; ``_id`` is the thread id."""

    _id: str
    tenant: str
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, Any]
    auth: dict[str, Any]
    """What the project's ``auth`` handlers put into the metadata: their conditions are about this copy. Clients cannot write it."""
    status: str
    """As left by the last ended run; see :class:`ThreadStatus`."""
    seq: int
    """The last sequence number that an ended run used; the next run numbers from ``seq + 1``."""
    ended_run_id: str
    """The run whose end is at ``seq``."""
    first_run_id: str
    """The first run of the chain that this run ends (:attr:`RunDocument.first_run_id`, or the run itself)."""
    ended_first_seq: int
    """The first sequence number of that run: who takes it over because its own document does not say yet that it ended finds
    its end from here."""
    head: str | None
    """The newest root checkpoint id at the end of the last run; a lower bound while a run is active."""
    next: list[str]
    interrupts: list[dict[str, Any]]
    error: dict[str, Any] | None
    graph_id: str
    assistant_id: str
    last_run_id: str
    ephemeral: bool
    """True of a thread that the scheduler deletes some time after its last run has ended; absent: it is kept."""
    batch: BatchMark
    stuck: StuckMark
    """There while the thread is stuck."""
    archive: ArchiveMark
    """There while the thread is archived, or on its way to the archive or back (ADR 15)."""
    hold: HoldMark
    """There while the thread is under legal hold."""
    restored_at: datetime
    """When it last came back from the archive: its retention begins anew."""
    questions_moved: bool
    """True while a subgraph's state has been changed since the thread began to wait: LangGraph asks under other ids there."""
    ttl: TtlMark
    """There while the thread, or its older states, is to be removed at a time."""
    refused_run_id: str
    """The state update whose refusal is at ``seq``: it changed nothing else of this document (ADR 33)."""


class ArchiveState(StrEnum):
    """Where a thread is on its way to the archive and back (ADR 15)."""

    PACKING = "packing"
    """Its documents are copied; it lives, and a new run ends the attempt."""
    MARKED = "marked"
    """The copy was read back and verified; a run that came at the last moment still ends the attempt."""
    DELETING = "deleting"
    """What was copied is deleted."""
    ARCHIVED = "archived"
    """What is left of it here is this document."""
    RESTORING = "restoring"
    """Its documents are copied back."""
    RELEASING = "releasing"
    """It lives; what the attempt or the restore leaves behind is removed."""
    PURGING = "purging"
    """It is removed for good."""
    REMOVING = "removing"
    """A client deleted it: nobody sees it any more, and the scheduler removes what is left of it."""

    @property
    def lives(self) -> bool:
        """Whether the thread can be read and run."""
        return self in (ArchiveState.PACKING, ArchiveState.RELEASING)


class HoldMark(TypedDict):
    """A legal hold: the thread is neither archived nor purged."""

    by: str
    on_behalf_of: NotRequired[str | None]
    reason: str
    at: datetime


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
    rejects_after: str
    """Of a run that was started with ``reject``: its thread, and the run started so that it comes after (ended by then), as
    ``<thread id>:<run id, or nothing>``. Unique: of two starts at once that saw the same one end, one is registered."""
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
    ephemeral: bool
    """True where the thread that was made with this run is deleted once it has ended (:attr:`ThreadDocument.ephemeral`)."""
    created_at: datetime
    updated_at: datetime
    status: str
    owner: str | None
    """The worker incarnation that executes it; null unless ``running``."""
    claim: str
    """Token of the claim batch, so that a claimer can read back what it won."""
    epoch: int
    """How often it has been claimed; 0 before the first time."""
    unserved: bool
    """True while the run is pending and its command went to a worker that does not serve its graph (ADR 24)."""
    removing: bool
    """There while its thread is being removed: clients do not see it any more."""
    settled: bool
    """False until every event up to its end is acknowledged by Kafka (ADR 2)."""
    swept_at: datetime
    cancel_requested_at: datetime
    cancel_action: str
    """:class:`CancelAction`; absent: interrupt."""
    user: bytes
    """Whom it acts for, as ``perdure.schemas.auth_user`` packs it; absent where nobody was asked who calls."""
    stream_asked: dict[str, Any]
    """What readers asked for while another worker than the run's got their commands: ``modes`` and ``subgraphs``."""
    deleted: bool
    """True of a run that clients do not see any more: deleted by one, or undone."""
    kind: str
    """:class:`RunKind`; absent: executes the graph."""
    at_seq: int
    """Of a state update: the thread's ``seq`` when a client asked for it; refused if a run has ended since."""
    update: StateUpdateMark
    """Of a state update that has ended: what came of it."""
    delayed: bool
    """True while the run is pending and its time has not come; the scheduler takes it off by the database's clock."""
    start_at: datetime
    """Of a run with ``after_seconds``: its time, and its place in the thread's queue."""
    webhook: str
    """Where its end is told, and the ends of the runs that go on from it (ADR 12)."""
    webhook_format: str
    """``perdure.schemas.notices.WebhookFormat``; absent: standard."""
    origin_run_id: str
    """Of a run that wakes its thread: the run that somebody started, and that goes on in this one."""
    first_run_id: str
    """Of a run that continues another (wakes it from a wait, resumes it for a client, retries it): the first run of that chain."""
    wait_id: str
    """Of a run that wakes its thread: the wait that it ends."""
    resumes: list[str]
    """Of a run that somebody started in place of a failed one: that one, last, and those that it had taken the place of."""
    crashes: int
    """How many workers it lost since it last made progress (ADR 10)."""
    crash_head: str
    """The newest checkpoint when these were counted; empty: none."""
    crash_log: list[CrashRecord]
    """The last of them, oldest first."""
    not_before: datetime
    """It is not claimed earlier: the back-off after a crash."""
    parked: bool
    """It ended because it crashed its workers again and again, or cannot be read."""
    batch: BatchMark
    batch_noted: bool
    """False between the end of a batch's run and its item saying so; absent before and after."""
    parked_noted: bool
    """False until the scheduler has marked the thread of a parked run."""
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
    user: bytes
    """Of the run that stands here; the run that goes on acts for the same user."""
    origin_run_id: str
    """The run that somebody started and that stands here, however often it was woken before."""
    first_run_id: str
    """The first run of the chain that stands here; absent in documents of earlier versions."""
    batch: BatchMark
    kind: str
    status: str
    opened_at: datetime
    due_at: datetime
    """When the clock ends the wait or the question goes to the next person; absent without one, and once it is over."""
    events: list[str]
    question: dict[str, Any] | None
    """``perdure.schemas.waits.Question`` as JSON; of a plain interrupt its text alone (``perdure.registry.questions``)."""
    interrupt: dict[str, Any]
    """Of a plain interrupt: ``value`` and ``response_schema``. The node gets the bare answer, not a ``WaitOutcome``."""
    stream: dict[str, Any]
    """The stream modes of the run, where it was started with any: the run that goes on has the same."""
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


class ReplyAddressDocument(TypedDict):
    """An address that wakes a thread by mail; ``_id`` is the digest of its token (ADR 13)."""

    _id: str
    tenant: str
    thread_id: str
    recipient: str
    """To whom the mail went."""
    wait_id: str | None
    """The wait that the mail is about."""
    events: list[str]
    """The signals that end this wait; a reply becomes the first of them."""
    expires_at: datetime
    """Mail that comes later is ignored."""
    remove_at: datetime


class GraphDocument(TypedDict, total=False):
    """A graph that some worker serves; ``_id`` is the graph id."""

    _id: str
    version: str
    """Digest of the graph's structure."""
    nodes: list[str]
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    drawings: list[dict[str, Any]]
    """Nodes and edges as LangGraph draws them, by how many levels of subgraphs are opened."""
    config: dict[str, Any]
    asks_handlers: bool
    """Whether its project has ``auth`` handlers (ADR 43): a gateway that does not ask them starts no run of it."""
    updated_at: datetime
