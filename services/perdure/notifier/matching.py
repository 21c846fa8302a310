"""Who is told what: notices and subscriptions to deliveries. Pure.

Contract: of one notice and one subscription comes at most one delivery, with an id derived from both. A subscription does not get
what happened before it was made, give or take ``SKEW``: the two times are of two machines' clocks, and a subscription that is made
right before a run must not miss its end. A notice that cannot be planned for one subscription is planned for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from perdure.notifier.domain import Told
from perdure.notifier.timing import after_quiet, expiring_at, window_of
from perdure.registry.deliveries import Notice, delivery_document, delivery_id, ended
from perdure.registry.runs import first_run_of, is_superseded
from perdure.registry.subscriptions import is_address, scope_key, scope_keys
from perdure.schemas.documents import RunDocument
from perdure.schemas.notices import (
    ASSIGNED_TO,
    DIGEST,
    RUN_ENDS,
    Channel,
    DeliveryDocument,
    DeliveryState,
    NoticeKind,
    Scope,
    SubscriptionDocument,
    WebhookFormat,
)

SKEW: Final = timedelta(seconds=5)
GATHERING: Final = timedelta(seconds=1)
"""How long after its window a digest is sent: who gathered last may still be storing."""
OF_RUN: Final = "run:"
"""Subscriptions that are the ``webhook`` of a run have ids that begin so."""


@dataclass(slots=True)
class Plan:
    """What a batch of events leads to: deliveries, and the digests that gather some of them."""

    deliveries: list[DeliveryDocument] = field(default_factory=list)
    digests: dict[str, DeliveryDocument] = field(default_factory=dict)
    failed: list[tuple[Notice, Exception]] = field(default_factory=list)
    """Notices of which not every delivery could be planned, once for each that could not."""


def keys_of(told: Told, run: Mapping[str, Any] | None) -> set[str]:
    """The scopes that a subscription to this may have; a run that goes on from another counts as that one, too."""
    ids = dict(told.ids)
    if run is not None:
        ids[Scope.RUN] = ids[Scope.RUN] | {first_run_of(run), run.get("origin_run_id") or run["_id"]}
    return scope_keys(told.notice.tenant, ids)


def webhook_of(origin: Mapping[str, Any]) -> SubscriptionDocument:
    """The ``webhook`` of a run as a subscription: it is in the run's document and needs none of its own."""
    subscription: SubscriptionDocument = {
        "_id": f"{OF_RUN}{origin['_id']}",
        "tenant": origin["tenant"],
        "scope": Scope.RUN.value,
        "scope_key": scope_key(origin["tenant"], Scope.RUN, origin["_id"]),
        "kinds": sorted(RUN_ENDS),
        "channel": Channel.WEBHOOK.value,
        "target": origin["webhook"],
        "created_at": origin["created_at"],
    }
    if "webhook_format" in origin:
        subscription["format"] = origin["webhook_format"]
    return subscription


def _webhook_owner(run: RunDocument | None, runs: Mapping[str, RunDocument]) -> RunDocument | None:
    """The run whose ``webhook`` is told: the run itself, the run that it woke, or the first of its chain; ``None`` without any."""
    if run is None:
        return None
    for run_id in (run["_id"], run.get("origin_run_id"), first_run_of(run)):
        owner = runs.get(run_id or "")
        if owner is not None and owner.get("webhook"):
            return owner
    return None


def fits(notice: Notice, subscription: SubscriptionDocument) -> bool:
    """Whether this subscription is told this notice, given that its scope fits.

    The ``webhook`` of a run is told every end of it: it was given before the run began, whatever the clocks of two machines say.
    """
    if notice.kind not in subscription["kinds"]:
        return False
    of_run = subscription["_id"].startswith(OF_RUN)
    return of_run or notice.occurred_at >= subscription["created_at"] - SKEW


def told_as_batch(notice: Notice, run: Mapping[str, Any] | None, subscription: SubscriptionDocument) -> bool:
    """Whether the end of a batch item's run is left to what is told of the batch.

    Who subscribed to a whole tenant or assistant would get one message an item, unless the subscription asks for that. Who
    subscribed to the thread or the run gets it. Questions and stuck threads are always told: the batch waits for somebody.
    """
    of_item = run is not None and "batch" in run and notice.kind in RUN_ENDS
    return of_item and subscription["scope"] in (Scope.TENANT, Scope.ASSISTANT) and not subscription.get("batch_items")


def in_format(notice: Notice, subscription: Mapping[str, Any]) -> Notice:
    """A notice as a subscription's format tells it: the Agent Server's tells the end of a run once, however much the run asks."""
    asks = notice.kind == NoticeKind.APPROVAL_WANTED
    if subscription.get("format") != WebhookFormat.LANGGRAPH or not asks or notice.run_id is None:
        return notice
    return replace(notice, cause=f"interrupted:{notice.run_id}", wait_id=None, question_due_at=None)


def add(plan: Plan, notice: Notice, subscription: SubscriptionDocument, now: datetime, patience_s: float) -> None:
    """Add the delivery of a notice that fits."""
    target, problem = target_of(notice, subscription)
    due_at = now
    if notice.kind == NoticeKind.APPROVAL_EXPIRING and notice.question_due_at is not None:
        lead_s = subscription.get("lead_s") or 0.0
        due_at = max(now, expiring_at(notice.occurred_at, notice.question_due_at, lead_s))
    due_at = after_quiet(due_at, subscription.get("quiet"), notice.kind)
    delivery = delivery_document(notice, subscription, target, now=now, due_at=due_at, patience_s=patience_s)
    if problem is not None:
        delivery |= ended(DeliveryState.DEAD, now, tellable=notice.seq is not None)  # type: ignore[typeddict-item]
        delivery["reason"] = problem
        del delivery["due_at"]
    elif subscription.get("digest_s") and notice.kind != NoticeKind.APPROVAL_EXPIRING:
        digest = digest_for(delivery, subscription, now, patience_s)
        plan.digests[digest["_id"]] = digest
        gather(delivery, digest)
    plan.deliveries.append(delivery)


def gather(delivery: DeliveryDocument, digest: DeliveryDocument) -> None:
    """Let a digest tell a delivery."""
    delivery["state"], delivery["digest"] = DeliveryState.GATHERED.value, digest["_id"]
    del delivery["due_at"]


def digest_for(
    like: Mapping[str, Any], subscription: Mapping[str, Any], now: datetime, patience_s: float
) -> DeliveryDocument:
    """The digest of the window that ``now`` falls into, for what goes where ``like`` goes."""
    number, end = window_of(now, subscription["digest_s"])
    notice = Notice(
        kind=DIGEST,
        cause=f"digest:{like['target']}:{number}",
        tenant=like["tenant"],
        occurred_at=end,
        data={"tenant": like["tenant"], "window_s": subscription["digest_s"]},
    )
    due_at = after_quiet(end + GATHERING, subscription.get("quiet"), DIGEST)
    return delivery_document(notice, subscription, like["target"], now=now, due_at=due_at, patience_s=patience_s)


def target_of(notice: Notice, subscription: SubscriptionDocument) -> tuple[str, str | None]:
    """Where a notice goes, and why it cannot go there if it cannot."""
    if subscription["channel"] != Channel.EMAIL or subscription["target"] != ASSIGNED_TO:
        return subscription["target"], None
    asked = notice.assigned_to
    if asked is None:
        return ASSIGNED_TO, "the question is assigned to nobody; give assigned_to, or subscribe an address"
    if not is_address(asked):
        return asked[:256], f"the question is assigned to {asked[:100]!r}, which is no e-mail address"
    return asked, None


def plan_of(
    told: Sequence[Told],
    subscriptions: Sequence[SubscriptionDocument],
    runs: Mapping[str, RunDocument],
    now: datetime,
    patience_s: float,
) -> Plan:
    """The deliveries that a batch of notices leads to.

    Args:
        told: Notices and their ids.
        subscriptions: Those that are active and whose scope fits one of them (:func:`keys_of`).
        runs: By id: the runs of the notices, and the runs that these go on from.
        now: The time.
        patience_s: How long a delivery is tried.

    """
    by_key: dict[str, list[SubscriptionDocument]] = {}
    for subscription in subscriptions:
        by_key.setdefault(subscription["scope_key"], []).append(subscription)
    plan, planned = Plan(), set[str]()
    for one in told:
        notice, run = one.notice, runs.get(one.notice.run_id or "")
        if notice.kind == NoticeKind.CANCELLED and run is not None and is_superseded({**run, "status": "cancelled"}):
            continue
        found = [subscription for key in keys_of(one, run) for subscription in by_key.get(key, ())]
        if (owner := _webhook_owner(run, runs)) is not None:
            found.append(webhook_of(owner))
        if run is not None:
            notice = replace(notice, data={**notice.data, "first_run_id": first_run_of(run)})
        for subscription in found:
            told_so = in_format(notice, subscription)
            id_ = delivery_id(notice.tenant, told_so.cause, subscription["_id"])
            try:
                if id_ not in planned and fits(notice, subscription) and not told_as_batch(notice, run, subscription):
                    planned.add(id_)
                    add(plan, told_so, subscription, now, patience_s)
            except (
                Exception
            ) as error:  # one notice that cannot be told must not keep the others from those who wait for them
                plan.failed.append((notice, error))
    return plan
