"""Subscriptions and deliveries over HTTP: what clients and operators ask for, and what they see."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, Field, field_validator, model_validator

from perdure.schemas.bodies import Body
from perdure.schemas.notices import (
    APPROVALS,
    BATCHES,
    RUN_ENDS,
    Channel,
    DeliveryState,
    NoticeKind,
    Scope,
    SubscriptionState,
    WebhookFormat,
)

SHOWN_TARGET = "Of a URL the host and the beginning of its SHA-256; the whole URL only in the answer that creates the subscription."
REDRIVE_LIMIT = 1000
"""Deliveries that one request redrives at most."""
LEAD_S = 3600.0
GRACE_S = 86400.0
DIGEST_LIMIT_S = 7 * 86400
Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Kinds = Annotated[list[NoticeKind], Field(min_length=1, max_length=len(NoticeKind))]


class Quiet(Body):
    """When nobody wants to be told: what falls into it is told at its end."""

    timezone: str = Field(default="UTC", max_length=64, description="IANA name.")
    start: Clock = Field(description="HH:MM, local time; included.")
    end: Clock = Field(description="HH:MM; not included. Before start: of the next day.")
    urgent: list[NoticeKind] = Field(default_factory=list, description="Kinds that are told all the same.")

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{name!r} is no IANA time zone, such as Europe/Berlin") from error
        return name

    @model_validator(mode="after")
    def _has_length(self) -> Self:
        if self.start == self.end:
            raise ValueError("start and end must differ; pause the subscription to be told nothing at all")
        return self


class SubscriptionFields(Body):
    """What may be changed later."""

    kinds: Kinds | None = Field(default=None, description="What is told.")
    target: str | None = Field(
        default=None,
        min_length=1,
        max_length=2048,
        description="Of webhook and slack: a URL. Of email: an address, or `assigned_to`: whoever the question is assigned to.",
    )
    format: WebhookFormat | None = Field(
        default=None,
        description="Of a webhook. standard: Standard Webhooks. langgraph: the run with its values, as the LangGraph Agent Server "
        "posts it at the end of a run.",
    )
    digest_s: float | None = Field(
        default=None, ge=10, le=DIGEST_LIMIT_S, description="Notices within so many seconds are told at once."
    )
    quiet: Quiet | None = None
    lead_s: float | None = Field(
        default=None, ge=0, le=30 * 86400, description="A question is called expiring so long before; 3600."
    )
    batch_items: bool | None = Field(
        default=None,
        description="Of a tenant or an assistant: whether the ends of a batch's items are told one by one as well; false. "
        "What is told of the batch tells of all of them.",
    )
    description: str | None = Field(default=None, max_length=1024)
    paused: bool | None = Field(default=None, description="Take nothing new; false resumes, also a disabled one.")


class SubscriptionCreate(SubscriptionFields):
    """Subscribe."""

    scope: Scope
    scope_id: str | None = Field(
        default=None, min_length=1, max_length=256, description="The thread, run, assistant (or graph) or batch."
    )
    kinds: Kinds = Field(description="What is told.")
    channel: Channel
    target: str = Field(min_length=1, max_length=2048, description="See SubscriptionFields.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.scope is Scope.TENANT) is (self.scope_id is not None):
            raise ValueError(f"scope {self.scope.value!r} {'takes no' if self.scope_id else 'needs a'} scope_id")
        if self.scope is Scope.BATCH and not set(self.kinds) <= BATCHES:
            raise ValueError(f"a batch has the kinds {', '.join(sorted(BATCHES))}")
        if self.scope in (Scope.THREAD, Scope.RUN) and set(self.kinds) & BATCHES:
            raise ValueError(f"{', '.join(sorted(BATCHES))} are told of a batch, an assistant or a tenant")
        return self


class SubscriptionPatch(SubscriptionFields):
    """Change a subscription: only the fields that are given. ``digest_s: null`` and ``quiet: null`` take them away."""


class RotateSecret(Body):
    """Replace the signing secret."""

    grace_s: float = Field(
        default=GRACE_S, ge=0, le=30 * 86400, description="How long the old one signs beside the new one."
    )


class Subscription(BaseModel):
    """A subscription."""

    subscription_id: str
    scope: Scope
    scope_id: str | None
    kinds: list[NoticeKind]
    channel: Channel
    target: str = Field(description=SHOWN_TARGET)
    format: WebhookFormat = WebhookFormat.STANDARD
    digest_s: float | None
    quiet: Quiet | None
    lead_s: float
    batch_items: bool
    description: str
    state: SubscriptionState
    disabled_reason: str | None
    secrets: int = Field(description="Secrets that sign at this moment; of a webhook.")
    created_at: datetime
    updated_at: datetime


class SubscriptionWithSecret(Subscription):
    """A subscription and its newest secret, which is shown this once."""

    secret: str | None = Field(description="Of a webhook: `whsec_...`, as Standard Webhooks libraries take it.")


class SubscriptionPage(BaseModel):
    """Subscriptions, oldest first."""

    items: list[Subscription]
    cursor: str | None = Field(description="For the next page; null on the last one.")


class Attempt(BaseModel):
    """One attempt to deliver."""

    number: int
    at: datetime
    latency_ms: float
    status: int | None = Field(description="An HTTP status or an SMTP code; null without an answer.")
    outcome: Literal["delivered", "retry", "dead", "dropped"]
    reason: str
    instance: str


class Delivery(BaseModel):
    """One notice to one subscription."""

    delivery_id: str = Field(description="Also the message id that the receiver sees, the same in every attempt.")
    state: DeliveryState
    subscription_id: str
    kind: str
    channel: Channel
    target: str = Field(description=SHOWN_TARGET)
    thread_id: str | None
    run_id: str | None
    event_id: str
    occurred_at: datetime
    created_at: datetime
    due_at: datetime | None = Field(description="Of a pending one: when it is tried next.")
    give_up_at: datetime
    tried: int
    reason: str | None = Field(description="Why the last attempt failed, or why it is dead or dropped.")
    ended_at: datetime | None
    digest: str | None = Field(description="The delivery that tells it together with others.")
    redrives: int
    redriven_at: datetime | None
    redriven_by: str | None
    redriven_on_behalf_of: str | None = Field(
        description="In whose name a known caller redrove it, as the caller said."
    )
    expires_at: datetime | None = Field(description="When it is removed.")


class DeliveryDetail(Delivery):
    """A delivery, what it tells and every attempt (the last 50)."""

    data: dict[str, Any]
    attempts: list[Attempt]


class DeliveryPage(BaseModel):
    """Deliveries, newest first."""

    items: list[Delivery]
    cursor: str | None = Field(description="For the next page; null on the last one.")


class RedriveDelivery(Body):
    """Who asks for it."""

    by: str | None = Field(
        default=None,
        max_length=256,
        description="Kept with the delivery. A known caller is recorded in its place, and this as `on_behalf_of`.",
    )


class RedriveDeliveries(RedriveDelivery):
    """Redrive dead deliveries, the oldest first. What is left out does not matter."""

    thread_id: str | None = None
    subscription_id: str | None = None
    kind: str | None = None
    channel: Channel | None = None
    limit: int = Field(default=100, ge=1, le=REDRIVE_LIMIT)


class RedrivenDeliveries(BaseModel):
    """What became of the deliveries that a redrive found."""

    redriven: list[str]
    more: bool = Field(description="Whether dead deliveries that fit were left for another request.")


def format_problem(wanted: str, kinds: Collection[NoticeKind], channel: Channel, digest_s: float | None) -> str | None:
    """Why notices cannot be told in this format; ``None`` if they can."""
    if wanted != WebhookFormat.LANGGRAPH:
        return None
    if channel is not Channel.WEBHOOK:
        return f"langgraph is a format of webhooks, not of {channel.value}"
    if not set(kinds) <= RUN_ENDS:
        return f"langgraph tells the ends of runs only: {', '.join(sorted(RUN_ENDS))}"
    return "langgraph tells one run at a time: leave digest_s out" if digest_s else None


def kinds_problem(kinds: list[NoticeKind], channel: Channel, target: str, assigned: str) -> str | None:
    """Why these kinds cannot go to this target; ``None`` if they can."""
    if channel is Channel.EMAIL and target == assigned and not set(kinds) <= APPROVALS:
        return f"{assigned} is known of questions only: {', '.join(sorted(APPROVALS))}"
    return None
