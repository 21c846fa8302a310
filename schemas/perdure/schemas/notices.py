"""Notices: what people are told, and the documents of subscriptions and deliveries.

Contract: a notice is one thing that happened and that somebody subscribed to. Its delivery is one document, whose id is derived
from what happened and from the subscription (``perdure.registry.deliveries``), so that an event that is read twice is told once.

Outside: sending (``perdure.notifier``), and the HTTP shapes (``perdure.schemas.notice_http``).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypedDict

SUBSCRIPTIONS: Final = "subscriptions"
DELIVERIES: Final = "deliveries"


class NoticeKind(StrEnum):
    """What may be subscribed to."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    PAUSED = "paused"
    """A run stopped at a break point (``interrupt_before``, ``interrupt_after``)."""
    APPROVAL_WANTED = "approval_wanted"
    APPROVAL_EXPIRING = "approval_expiring"
    STUCK = "stuck"
    RECOVERED = "recovered"
    BATCH_FINISHED = "batch_finished"
    BATCH_THRESHOLD = "batch_threshold"


TEST: Final = "test"
"""The kind of a delivery that was asked for to try a subscription."""
DIGEST: Final = "digest"
"""The kind of a delivery that tells several notices at once."""

TYPES: Final[dict[str, str]] = {
    NoticeKind.COMPLETED: "run.completed",
    NoticeKind.FAILED: "run.failed",
    NoticeKind.CANCELLED: "run.cancelled",
    NoticeKind.TIMED_OUT: "run.timed_out",
    NoticeKind.PAUSED: "run.paused",
    NoticeKind.APPROVAL_WANTED: "approval.wanted",
    NoticeKind.APPROVAL_EXPIRING: "approval.expiring",
    NoticeKind.STUCK: "thread.stuck",
    NoticeKind.RECOVERED: "thread.recovered",
    NoticeKind.BATCH_FINISHED: "batch.finished",
    NoticeKind.BATCH_THRESHOLD: "batch.threshold_reached",
    TEST: "test",
    DIGEST: "digest",
}
"""The ``type`` of a webhook's body, by kind (Standard Webhooks: words with full stops). Receivers match it: never change it."""

APPROVALS: Final = frozenset({NoticeKind.APPROVAL_WANTED, NoticeKind.APPROVAL_EXPIRING})
BATCHES: Final = frozenset({NoticeKind.BATCH_FINISHED, NoticeKind.BATCH_THRESHOLD})
RUN_ENDS: Final = frozenset(
    {
        NoticeKind.COMPLETED,
        NoticeKind.FAILED,
        NoticeKind.CANCELLED,
        NoticeKind.TIMED_OUT,
        NoticeKind.PAUSED,
        NoticeKind.APPROVAL_WANTED,
    }
)
"""What the ``webhook`` of a run is told."""


class Scope(StrEnum):
    """What a subscription is about."""

    THREAD = "thread"
    RUN = "run"
    ASSISTANT = "assistant"
    BATCH = "batch"
    TENANT = "tenant"


class Channel(StrEnum):
    """How a notice travels."""

    WEBHOOK = "webhook"
    EMAIL = "email"
    SLACK = "slack"


ASSIGNED_TO: Final = "assigned_to"
"""The e-mail target that stands for whoever a question is assigned to."""


class WebhookFormat(StrEnum):
    """What the body of a webhook looks like."""

    STANDARD = "standard"
    """``type``, ``timestamp`` and ``data``, as Standard Webhooks writes it."""
    LANGGRAPH = "langgraph"
    """The run itself with its values, as the LangGraph Agent Server posts it when a run has ended."""


class SubscriptionState(StrEnum):
    """Whether a subscription takes notices."""

    ACTIVE = "active"
    PAUSED = "paused"
    """Somebody muted it: nothing new is taken; what was taken before is still sent."""
    DISABLED = "disabled"
    """Its receiver said that it is gone (410); ``disabled_reason`` says so."""


class DeliveryState(StrEnum):
    """What became of a delivery. It is never lost: it ends as one of the last three, or goes on being tried."""

    PENDING = "pending"
    """It will be sent (again) at ``due_at``."""
    GATHERED = "gathered"
    """It waits to be told with others: ``digest`` names the delivery that does."""
    DELIVERED = "delivered"
    DEAD = "dead"
    """Given up; ``reason`` says why. It may be redriven."""
    DROPPED = "dropped"
    """There was nothing to tell any more; ``reason`` says why."""


class SecretDocument(TypedDict):
    """A signing secret of a webhook."""

    secret: str
    """``whsec_`` and base64, as Standard Webhooks writes it."""
    until: datetime | None
    """It signs until then; ``None``: the newest, which has no end."""


class QuietHours(TypedDict):
    """When nobody wants to be told."""

    timezone: str
    """IANA name."""
    start: str
    """``HH:MM``, local time; included."""
    end: str
    """``HH:MM``; not included. Before ``start``: of the next day."""
    urgent: list[str]
    """Kinds that are told all the same."""


class SubscriptionDocument(TypedDict, total=False):
    """Who is told what, and how; ``_id`` is its id (ADR 12)."""

    _id: str
    tenant: str
    scope: str
    scope_id: str | None
    """The thread, run, assistant or batch; ``None`` of a tenant."""
    scope_key: str
    """``perdure.registry.subscriptions.scope_key``: what matching looks up."""
    kinds: list[str]
    channel: str
    target: str
    """A URL, or an e-mail address (or :data:`ASSIGNED_TO`)."""
    format: str
    """Of a webhook: :class:`WebhookFormat`; absent: standard."""
    secrets: list[SecretDocument]
    """Of a webhook, the newest first."""
    digest_s: float | None
    """Notices within so many seconds are told at once."""
    quiet: QuietHours | None
    lead_s: float
    batch_items: bool
    """Whether the ends of runs of batches' items are told, too; only of a tenant's or an assistant's. Absent: no."""
    """How long before a question expires it is called expiring."""
    description: str
    state: str
    disabled_reason: str | None
    created_at: datetime
    updated_at: datetime


class AttemptRecord(TypedDict, total=False):
    """One attempt to deliver."""

    number: int
    """1, 2, ..., redrives included."""
    at: datetime
    latency_ms: float
    status: int | None
    """What the receiver answered: an HTTP status or an SMTP code; ``None`` without an answer."""
    outcome: str
    """``delivered``, ``retry``, ``dead`` or ``dropped``."""
    reason: str
    instance: str
    """The notifier that tried."""


class DeliveryDocument(TypedDict, total=False):
    """One notice to one subscription; ``_id`` is its id and the message id that receivers see (ADR 12)."""

    _id: str
    tenant: str
    subscription_id: str
    """``run:<run id>`` where the ``webhook`` of a run is the subscription."""
    kind: str
    channel: str
    target: str
    """Where it goes; of a webhook or Slack URL the whole URL, which is shown without its path's end."""
    endpoint: str
    """What shares one breaker and one cap: ``host:port`` of a URL, ``smtp`` of e-mail."""
    event_id: str
    thread_id: str | None
    run_id: str | None
    seq: int | None
    """Of the event: the note about the delivery comes after it."""
    occurred_at: datetime
    data: dict[str, Any]
    """What is told, as JSON; bounded."""
    format: str
    """As the subscription's when the delivery was made; absent: standard."""
    wait_id: str | None
    """Of a question: it is told only while this wait is open."""
    question_due_at: datetime | None
    """When the question's time is over."""
    quiet: QuietHours | None
    digest: str | None
    """Of a gathered one: the delivery that tells it."""
    members: list[str]
    """Of a digest, once it was sent for the first time: what it tells."""
    created_at: datetime
    state: str
    due_at: datetime
    """Of a pending one: when it is sent, or, while it is claimed, when the claim ends. Absent otherwise."""
    give_up_at: datetime
    """When it is dead unless it was delivered."""
    patience_s: float
    """Seconds from when it is first due until then."""
    claim: str
    """Token of the last claim; a result counts only while it is still there."""
    attempts: list[AttemptRecord]
    """The last 50, oldest first."""
    tried: int
    """All attempts."""
    failures: int
    """Failed attempts since it was made or redriven: what the back-off counts."""
    reason: str | None
    """Of the last attempt that failed, or why it is dead or dropped."""
    ended_at: datetime
    redrives: int
    redriven_at: datetime
    redriven_by: str | None
    redriven_on_behalf_of: str | None
    """In whose name a known caller redrove it, as the caller said."""
    told: bool
    """False until the thread's history has the note about how it ended."""
    expires_at: datetime
    """When an ended one is removed."""
