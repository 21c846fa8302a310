"""The HTTP contract of the gateway: request and response bodies.

Shapes follow the LangGraph Agent Server. Request models say what is accepted; a field that the Agent Server knows and that
changes nothing here is accepted and ignored, a field whose meaning we cannot honour is refused by the gateway, not here.
Response models document what is sent (the gateway writes plain dictionaries of these shapes).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from perdure.schemas.bodies import Body, Metadata, NodeName, RunConfig
from perdure.schemas.notices import WebhookFormat

THREAD_ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$"

ThreadId = Annotated[str, StringConstraints(pattern=THREAD_ID_PATTERN)]
"""A UUID, or 1 to 128 of ``A-Z a-z 0-9 . _ : -``."""
CheckpointId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]+$")]
CheckpointNs = Annotated[str, StringConstraints(max_length=2048, pattern=r"^[^\x00-\x1f]*$")]


class Send(BaseModel):
    """One task for a node, with its own input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: NodeName
    input: Any = None


class Command(BaseModel):
    """Resume an interrupted thread, change its state, or direct it to nodes. At least one of the three."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resume: Any = Field(default=None, description="The answer to the interrupt, or answers by interrupt id.")
    update: Any = Field(default=None, description="An update of the state: an object, or a list of [channel, value].")
    goto: NodeName | Send | list[NodeName | Send] | None = None


class CheckpointRef(Body):
    """Names a checkpoint of a thread."""

    thread_id: str | None = None
    checkpoint_ns: CheckpointNs | None = None
    checkpoint_id: CheckpointId | None = None
    checkpoint_map: dict[str, Any] | None = None


MAX_DELAY_S = 10 * 365 * 86_400


STREAM_MODES = frozenset(
    {"values", "updates", "messages", "messages-tuple", "custom", "tasks", "checkpoints", "debug", "events"}
)
"""What a stream may be asked to tell."""
StreamMode = Literal[
    "values", "updates", "messages", "messages-tuple", "custom", "tasks", "checkpoints", "debug", "events"
]


class RunCreate(Body):
    """Start a run. ``input`` starts or continues, ``command`` resumes; with neither the thread goes on where it is.

    Beside a ``command`` an ``input`` is ignored.
    """

    assistant_id: str = Field(min_length=1, max_length=256, description="A graph id, or the assistant id of a graph.")
    input: Any = None
    command: Annotated[Command | None, BeforeValidator(lambda given: None if given == {} else given)] = Field(
        default=None, description="An empty object is none."
    )
    metadata: Metadata | None = Field(default=None, description="At most 64 KiB as JSON.")
    config: RunConfig | None = None
    context: dict[str, Any] | None = None
    checkpoint: CheckpointRef | None = None
    checkpoint_id: CheckpointId | None = None
    webhook: str | None = Field(default=None, pattern=r"^https?://", max_length=2048)
    webhook_format: WebhookFormat | None = Field(
        default=None, description="Of its body; PERDURE_GATEWAY_WEBHOOK_FORMAT (standard) by default."
    )
    interrupt_before: Literal["*"] | list[NodeName] | None = None
    interrupt_after: Literal["*"] | list[NodeName] | None = None
    stream_mode: StreamMode | list[StreamMode] | None = Field(
        default=None, description="What streams of the run tell. A stream without it tells `values`."
    )
    stream_subgraphs: bool | None = Field(default=None, description="Whether streams of the run tell its subgraphs.")
    stream_resumable: bool | None = Field(
        default=None, description="Every stream can be read again from any of its events, whatever is asked for."
    )
    multitask_strategy: Literal["enqueue", "reject", "interrupt", "rollback"] | None = Field(
        default="enqueue",
        description="Active runs of the thread go first, refuse this run, are cancelled, or are undone.",
    )
    if_not_exists: Literal["create", "reject"] | None = Field(
        default="reject", description="Whether a thread that does not exist is made."
    )
    after_seconds: float | None = Field(
        default=None, ge=0, le=MAX_DELAY_S, description="Start that much later; the run is pending until then."
    )
    feedback_keys: list[str] | None = Field(default=None, description="Accepted; no feedback links are made.")
    on_disconnect: Literal["cancel", "continue"] | None = Field(
        default=None, description="Whether the run is cancelled when the client that waits for its values goes away."
    )
    on_completion: Literal["delete", "keep"] | None = Field(
        default=None,
        description="Of a run without a thread: delete deletes its thread a minute after its end. Threads are kept by default.",
    )
    durability: Literal["sync", "async", "exit"] | None = Field(
        default=None, description="Every superstep is durable before the next one, whatever is asked for."
    )
    checkpoint_during: bool | None = Field(
        default=None, description="Accepted, as durability: every superstep is stored."
    )
    langsmith_tracer: dict[str, Any] | None = Field(
        default=None, description="Accepted; no run is traced to LangSmith."
    )
    strict_resume: bool | None = Field(
        default=None, description="Accepted; a resume of a thread that waits for nothing is always refused."
    )


class RunsCancel(Body):
    """Which runs are cancelled: all with a status, or some runs of a thread."""

    status: Literal["pending", "running", "all"] | None = None
    thread_id: str | None = None
    run_ids: list[str] | None = Field(default=None, max_length=1000)


class HistoryRequest(Body):
    """Which past states of a thread."""

    limit: int = Field(default=10, ge=1, le=1000)
    before: CheckpointId | dict[str, Any] | None = Field(
        default=None, description="A checkpoint id, a checkpoint, or a config whose configurable names one."
    )
    metadata: Metadata | None = None
    checkpoint: CheckpointRef | None = None


class StateAtCheckpoint(Body):
    """The state at a checkpoint, also of a subgraph."""

    checkpoint: CheckpointRef
    subgraphs: bool = False


class SignalCreate(Body):
    """Send a signal."""

    payload: Any = Field(default=None, description="Any JSON, at most 512 KiB.")


class ApprovalAnswer(Body):
    """Answer a question."""

    answer: Any = Field(description="Any JSON that fits the question's `answer_schema`, at most 512 KiB.")
    by: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        pattern=r"^[^\x00-\x1f]+$",
        description="Who answers, as you know them. Required where the gateway asks nobody who calls; else the caller is recorded "
        "as `by`, and this as `on_behalf_of`.",
    )
    action_digest: str | None = Field(
        default=None, description="The `action_digest` that the person saw: refused if the question has another one."
    )


class Interrupt(BaseModel):
    """What a node passed to ``interrupt()``."""

    id: str
    value: Any
    response_schema: dict[str, Any] | None = Field(
        default=None, description="What an answer must fit, where `ask_human` or `interrupt` said so; else left out."
    )


class Wait(BaseModel):
    """What a sleeping agent waits for, where no person is asked: the clock, a signal, a validation."""

    wait_id: str
    interrupt_id: str
    node: str
    kind: Literal["timer", "event", "validation"]
    due_at: datetime | None = Field(description="When the clock ends it; null where only its signal or verdict does.")
    events: list[str] = Field(description="Names of the signals that end it.")


class Thread(BaseModel):
    """A thread and the values of its newest state."""

    thread_id: str
    created_at: datetime
    updated_at: datetime
    state_updated_at: datetime | None
    metadata: Metadata
    status: Literal["idle", "busy", "interrupted", "error"]
    config: dict[str, Any]
    values: Any = Field(description="Null before the first checkpoint.")
    interrupts: dict[str, list[Interrupt]] = Field(description="Questions to people, by task id.")
    waits: list[Wait] = Field(description="What else it waits for: the clock, a signal, a validation.")
    error: Any = None
    stuck: dict[str, Any] | None = Field(
        default=None,
        description="While the thread is stuck: `code`, `reason`, `node`, `since`, `expected_by`, `run_id`, `noticed_at`.",
    )
    ttl: dict[str, Any] | None = Field(
        default=None,
        description="With `include=ttl`: `strategy`, `ttl_minutes` and `expires_at`; null without a time to live.",
    )


class Run(BaseModel):
    """A run."""

    run_id: str
    thread_id: str
    assistant_id: str
    graph_id: str
    created_at: datetime
    updated_at: datetime
    status: Literal["pending", "running", "interrupted", "success", "error", "timeout"] = Field(
        description="The Agent Server's statuses: `interrupted` also where the run was cancelled."
    )
    perdure_status: Literal["pending", "running", "interrupted", "success", "error", "timeout", "cancelled"] = Field(
        description="The same, but `cancelled` where the run was cancelled."
    )
    metadata: Metadata
    kwargs: dict[str, Any] | None = Field(
        description="What the run was started with; null in lists and acknowledgements when larger than 1 MiB."
    )
    multitask_strategy: str
    error: Any = None
    cancel_requested_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    first_run_id: str = Field(
        description="The first run of the chain that this run belongs to: itself, unless it continues one."
    )
    continued_by: str | None = Field(
        default=None, description="The run that continues this one: after a wait, a resume or a retry."
    )
    last_run_id: str = Field(description="The newest run of the chain: itself, unless another run continues it.")
    last_run_status: str = Field(description="The status of that run.")


class Checkpoint(BaseModel):
    """Names a checkpoint."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str | None
    checkpoint_map: dict[str, Any] | None = None


class ThreadTask(BaseModel):
    """A task of the next superstep."""

    id: str
    name: str
    path: list[Any] = Field(
        description='`["__pregel_pull", node]`, or `["__pregel_push", index, false]` of a `Send`; empty where it is not known.'
    )
    error: str | None
    interrupts: list[Interrupt]
    checkpoint: Checkpoint | None = None
    state: ThreadState | None = None
    result: Any = Field(default=None, description="What the task wrote, by channel, once it has run.")


class ThreadState(BaseModel):
    """The state of a thread at one checkpoint."""

    values: Any
    next: list[str]
    tasks: list[ThreadTask]
    checkpoint: Checkpoint | None = Field(description="Null while the thread has no state.")
    metadata: Metadata
    created_at: str | None
    parent_checkpoint: Checkpoint | None
    interrupts: list[Interrupt] = Field(description="Questions to people.")
    waits: list[Wait] = Field(description="What else it waits for: the clock, a signal, a validation.")


class Signal(BaseModel):
    """A signal to a thread."""

    signal_id: str
    thread_id: str
    name: str
    state: Literal["free", "taken"] = Field(description="`free`: kept until a wait of its name comes.")
    delivered: bool = Field(description="Whether it ended a wait.")
    wait_id: str | None = Field(default=None, description="The wait that it ended or is about to end.")
    created_at: datetime
    payload: Any = Field(default=None, description="In lists only; null when larger than 64 KiB.")


class SignalPage(BaseModel):
    """Signals of a thread, oldest first."""

    signals: list[Signal]
    cursor: str | None = Field(description="`after` of the next page; null at the end.")


class MailAccepted(Signal):
    """A mail that became a signal to its thread."""

    accepted: Literal[True]


class MailIgnored(BaseModel):
    """A mail that changes nothing: it need not be sent again."""

    accepted: Literal[False]
    reason: Literal["automatic", "unknown-address", "expired", "question-needs-link", "replayed"]
    detail: str


class ApprovalOutcome(BaseModel):
    """How a question ended."""

    kind: Literal["answer", "due", "signal", "verdict"]
    at: datetime
    by: str | None = None
    answer: Any = Field(default=None, description="Null also when larger than 64 KiB: the waking run has it.")
    signal: str | None = Field(default=None, description="The signal that came first.")


class Approval(BaseModel):
    """A question to a person."""

    approval_id: str
    thread_id: str
    run_id: str = Field(description="The run that asked.")
    graph_id: str
    assistant_id: str
    nodes: list[str]
    question: str
    details: dict[str, Any]
    action: Any = Field(default=None, description="The exact act that a yes allows.")
    action_digest: str | None
    answer_schema: dict[str, Any] | None
    interrupt: Interrupt | None = Field(
        default=None, description="Of a plain `interrupt()`: what the node passed to it."
    )
    events: list[str] = Field(description="Names of signals that end the wait as well.")
    assigned_to: str | None
    escalate_to: list[str]
    escalations: int = Field(description="How many times it went to the next person.")
    opened_at: datetime
    expires_at: datetime | None = Field(description="When it goes to the next person or expires.")
    status: Literal["open", "answered", "expired", "closed"]
    outcome: ApprovalOutcome | None
    ended_at: datetime | None
    waking_run_id: str | None = Field(description="The run that went on with the outcome.")
    metadata: Metadata


class ApprovalPage(BaseModel):
    """Questions, oldest first."""

    approvals: list[Approval]
    cursor: str | None = Field(description="`after` of the next page; null at the end.")


class Alive(BaseModel):
    """The process lives."""

    ok: bool


class Readiness(BaseModel):
    """Whether the service can do its work, and every condition for it."""

    ready: bool
    conditions: dict[str, bool]
    reported: dict[str, bool] = Field(description="Conditions that readiness does not depend on.")
    warnings: list[str] = Field(
        description="What makes accepted runs wait, such as a graph that no living worker serves."
    )


class Info(BaseModel):
    """What answers here."""

    version: str
    flags: dict[str, Any]
