"""Subscriptions and deliveries as the gateway makes, changes and shows them (ADR 12).

Contract: each access within the store's time-out. Raises :class:`perdure.gateway.http.problems.RequestProblem` for what a request
asks and cannot have. A secret is in no view but the answer to the request that made it.

Outside: matching and sending (the notifier), which also decides whether a target's address may be reached.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.resources.targets import require_target
from perdure.gateway.stores.store import Store
from perdure.registry.deliveries import Deliveries, Notice, delivery_document, shown_target
from perdure.registry.runs import new_id
from perdure.registry.subscriptions import Subscriptions, new_secret, scope_key, valid_secrets
from perdure.schemas.notice_http import (
    LEAD_S,
    Delivery,
    SubscriptionCreate,
    SubscriptionFields,
    SubscriptionPatch,
    kinds_problem,
)
from perdure.schemas.notices import (
    ASSIGNED_TO,
    TEST,
    Channel,
    DeliveryDocument,
    NoticeKind,
    SubscriptionDocument,
    SubscriptionState,
)

T = TypeVar("T")
Document = dict[str, Any]

SHOWN: Final = tuple(name for name in Delivery.model_fields if name not in ("delivery_id", "target"))


class Notices:
    """Subscriptions and deliveries of all tenants. Belongs to one event loop."""

    def __init__(self, database: Database, store: Store) -> None:
        self._store = store
        self._subscriptions = Subscriptions(database, store.availability)
        self._deliveries = Deliveries(database, store.availability)

    async def subscribe(self, tenant: str, wanted: SubscriptionCreate) -> tuple[SubscriptionDocument, str | None]:
        """Make a subscription; it, and its secret if it has one."""
        require_target(wanted.channel, wanted.target)
        _require_kinds(wanted.kinds, wanted.channel, wanted.target)
        moment, secret = now(), new_secret() if wanted.channel is Channel.WEBHOOK else None
        subscription: SubscriptionDocument = {
            "_id": new_id(),
            "tenant": tenant,
            "scope": wanted.scope.value,
            "scope_id": wanted.scope_id,
            "scope_key": scope_key(tenant, wanted.scope, wanted.scope_id),
            "kinds": [kind.value for kind in wanted.kinds],
            "channel": wanted.channel.value,
            "target": wanted.target,
            "secrets": [{"secret": secret, "until": None}] if secret else [],
            "digest_s": wanted.digest_s,
            "quiet": wanted.quiet.model_dump(mode="json") if wanted.quiet else None,  # type: ignore[typeddict-item]
            "batch_items": bool(wanted.batch_items),
            "lead_s": LEAD_S if wanted.lead_s is None else wanted.lead_s,
            "description": wanted.description or "",
            "state": (SubscriptionState.PAUSED if wanted.paused else SubscriptionState.ACTIVE).value,
            "disabled_reason": None,
            "created_at": moment,
            "updated_at": moment,
        }
        await self._within(self._subscriptions.create(subscription))
        return subscription, secret

    async def require(self, subscription_id: str, tenant: str) -> Document:
        """A subscription.

        Raises:
            RequestProblem: ``unknown-subscription``.

        """
        return _known(subscription_id, await self._within(self._subscriptions.find(subscription_id, tenant)))

    async def page(self, tenant: str, fits: Mapping[str, Any], limit: int, after: str | None) -> list[Document]:
        """Subscriptions, oldest first, after the one with this id."""
        query: Document = {"tenant": tenant, **fits} | ({"_id": {"$gt": after}} if after is not None else {})
        return await self._within(self._subscriptions.page(query, limit))

    async def change(self, subscription_id: str, tenant: str, wanted: SubscriptionPatch) -> Document:
        """Change a subscription: only what was given."""
        before = await self.require(subscription_id, tenant)
        channel = Channel(before["channel"])
        if wanted.target is not None:
            require_target(channel, wanted.target)
        kinds = wanted.kinds or [NoticeKind(kind) for kind in before["kinds"]]
        _require_kinds(kinds, channel, wanted.target or before["target"])
        fields = changed_fields(wanted) | {"updated_at": now()}
        return _known(subscription_id, await self._within(self._subscriptions.change(subscription_id, tenant, fields)))

    async def rotate(self, subscription_id: str, tenant: str, grace_s: float) -> tuple[Document, str]:
        """Give a webhook a new secret; the subscription and the secret."""
        before = await self.require(subscription_id, tenant)
        if before["channel"] != Channel.WEBHOOK:
            raise RequestProblem(
                "no-secret", f"Subscription {subscription_id!r} is no webhook: nothing of it is signed with a secret."
            )
        fresh = new_secret()
        changed = await self._within(self._subscriptions.rotate(subscription_id, tenant, fresh, now(), grace_s))
        return _known(subscription_id, changed), fresh

    async def remove(self, subscription_id: str, tenant: str) -> None:
        """Remove a subscription."""
        if not await self._within(self._subscriptions.delete(subscription_id, tenant)):
            raise unknown_subscription(subscription_id)

    async def test(self, subscription_id: str, tenant: str) -> DeliveryDocument:
        """Send a test to a subscription's target; the delivery, pending."""
        subscription = await self.require(subscription_id, tenant)
        if subscription["target"] == ASSIGNED_TO:
            raise invalid("path:subscription_id", "its target is whoever is asked; a test has nobody to go to")
        moment = now()
        notice = Notice(
            kind=TEST,
            cause=f"test:{new_id()}",
            tenant=tenant,
            occurred_at=moment,
            data={"tenant": tenant, "subscription_id": subscription_id, "description": subscription["description"]},
        )
        delivery = delivery_document(
            notice, subscription | {"quiet": None}, subscription["target"], now=moment, due_at=moment
        )
        await self._within(self._deliveries.create(delivery))
        return delivery

    async def deliveries(
        self, tenant: str, fits: Mapping[str, Any], limit: int, after: tuple[datetime, str] | None
    ) -> list[Document]:
        """Deliveries, newest first, older than ``after``."""
        return await self._within(self._deliveries.page(tenant, fits, limit, after))

    async def delivery(self, delivery_id: str, tenant: str) -> Document:
        """A delivery with its attempts.

        Raises:
            RequestProblem: ``unknown-delivery``.

        """
        found = await self._within(self._deliveries.find(delivery_id, tenant))
        if found is None:
            raise RequestProblem(
                "unknown-delivery", f"There is no delivery {delivery_id!r}; GET /deliveries lists what there is."
            )
        return found

    async def redrive(self, delivery_id: str, tenant: str, by: str | None, *, force: bool) -> Document:
        """Send a dead delivery again; the delivery, pending.

        Raises:
            RequestProblem: ``unknown-delivery``, ``delivery-not-dead``.

        """
        before = await self.delivery(delivery_id, tenant)
        if not await self._within(self._deliveries.redrive(delivery_id, tenant, by, now(), force=force)):
            ended = before["state"] in ("delivered", "dropped")
            hint = "POST .../redrive?force=true sends it all the same." if ended else "It is still on its way."
            raise RequestProblem("delivery-not-dead", f"Delivery {delivery_id!r} is {before['state']}. {hint}")
        return await self.delivery(delivery_id, tenant)

    async def redrive_many(
        self, tenant: str, fits: Mapping[str, Any], limit: int, by: str | None
    ) -> tuple[list[str], bool]:
        """Send dead deliveries again, the oldest first; their ids, and whether there are more."""
        ids = await self._within(self._deliveries.dead_ids(tenant, fits, limit + 1))
        moment = now()
        sent = [
            one
            for one in ids[:limit]
            if await self._within(self._deliveries.redrive(one, tenant, by, moment, force=False))
        ]
        return sent, len(ids) > limit

    async def _within(self, work: Awaitable[T]) -> T:
        return await self._store.within(work)


def changed_fields(wanted: SubscriptionFields) -> Document:
    """The document's fields that a request changes."""
    given = wanted.model_dump(mode="json", exclude_unset=True)
    paused = given.pop("paused", None)
    fields = {name: value for name, value in given.items() if value is not None or name in ("digest_s", "quiet")}
    if paused is not None:
        fields |= {"state": (SubscriptionState.PAUSED if paused else SubscriptionState.ACTIVE).value}
        fields |= {"disabled_reason": None}
    return fields


def subscription_view(subscription: Mapping[str, Any]) -> Document:
    """A subscription as clients see it."""
    names = (
        "scope", "scope_id", "kinds", "channel", "digest_s", "quiet", "lead_s", "description", "state", "disabled_reason",
        "created_at", "updated_at",
    )  # fmt: skip
    return {
        "subscription_id": subscription["_id"],
        **{name: subscription.get(name) for name in names},
        "batch_items": bool(subscription.get("batch_items")),
        "target": shown_target(subscription["channel"], subscription["target"]),
        "secrets": len(valid_secrets(subscription, now())),
    }


def delivery_view(delivery: Mapping[str, Any]) -> Document:
    """A delivery as clients see it in lists."""
    shown = {name: delivery.get(name) for name in SHOWN}
    target = shown_target(delivery["channel"], delivery["target"])
    return {"delivery_id": delivery["_id"], **shown, "target": target}


def delivery_detail(delivery: Mapping[str, Any]) -> Document:
    """A delivery with what it tells and its attempts."""
    return delivery_view(delivery) | {"data": delivery["data"], "attempts": delivery["attempts"]}


def unknown_subscription(subscription_id: str) -> RequestProblem:
    """No such subscription in the caller's tenant."""
    return RequestProblem(
        "unknown-subscription", f"There is no subscription {subscription_id!r}; GET /subscriptions lists them."
    )


def _known(subscription_id: str, found: Document | None) -> Document:
    if found is None:
        raise unknown_subscription(subscription_id)
    return found


def _require_kinds(kinds: list[NoticeKind], channel: Channel, target: str) -> None:
    if problem := kinds_problem(kinds, channel, target, ASSIGNED_TO):
        raise invalid("/kinds", problem)
