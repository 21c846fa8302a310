"""Subscriptions: who is told what, and where (ADR 12).

Contract: each access within the store's time-out. A secret is in no view but the answer to the request that made it.

Outside: matching and sending (the notifier), which also decides whether a target's address may be reached.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping
from typing import Any, Final, TypeVar

from aiohttp import web

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.gateway.auth.caller import caller_of, tenant_of
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.requests import query_choice, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, CURSOR, TEXT, Parameter, Route, page_of
from perdure.gateway.resources.deliveries import delivery_view
from perdure.gateway.resources.targets import require_target
from perdure.gateway.stores.quotas import Quotas
from perdure.gateway.stores.store import Store
from perdure.registry.deliveries import Deliveries, Notice, delivery_document, shown_target
from perdure.registry.runs import new_id
from perdure.registry.subscriptions import Subscriptions, new_secret, scope_key, valid_secrets
from perdure.schemas import notice_http
from perdure.schemas.notice_http import (
    LEAD_S,
    RotateSecret,
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
    Scope,
    SubscriptionDocument,
    SubscriptionState,
    WebhookFormat,
)
from perdure.schemas.scopes import Scope as CallerScope
from perdure.schemas.thread_ids import stored_id

T = TypeVar("T")
Document = dict[str, Any]

PAGE = 50
MAX_PAGE = 1000
CHANNEL = Parameter("channel", {"enum": ["webhook", "email", "slack"]})

ASKING: Final = frozenset({NoticeKind.APPROVAL_WANTED, NoticeKind.APPROVAL_EXPIRING})
"""Their notices carry links that answer the question."""


class SubscriptionStore:
    """Subscriptions of all tenants. Belongs to one event loop."""

    def __init__(
        self, database: Database, store: Store, quotas: Quotas, mail_to: Collection[str] | None = None
    ) -> None:
        self._store = store
        self._quotas = quotas
        self._mail_to = mail_to
        self._subscriptions = Subscriptions(database, store.availability)
        self._deliveries = Deliveries(database, store.availability)

    async def subscribe(self, tenant: str, wanted: SubscriptionCreate) -> tuple[SubscriptionDocument, str | None]:
        """Make a subscription; it, and its secret if it has one."""
        require_target(wanted.channel, wanted.target, self._mail_to)
        _require_kinds(wanted.kinds, wanted.channel, wanted.target)
        _require_format(wanted.format or WebhookFormat.STANDARD, wanted.kinds, wanted.channel, wanted.digest_s)
        await self._quotas.subscription(tenant)
        named = wanted.scope_id
        if named is not None and wanted.scope is Scope.THREAD:
            named = stored_id(tenant, named)
        moment, secret = now(), new_secret() if wanted.channel is Channel.WEBHOOK else None
        subscription: SubscriptionDocument = {
            "_id": new_id(),
            "tenant": tenant,
            "scope": wanted.scope.value,
            "scope_id": wanted.scope_id,
            "scope_key": scope_key(tenant, wanted.scope, named),
            "kinds": [kind.value for kind in wanted.kinds],
            "channel": wanted.channel.value,
            "target": wanted.target,
            "format": (wanted.format or WebhookFormat.STANDARD).value,
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
            require_target(channel, wanted.target, self._mail_to)
        kinds = wanted.kinds or [NoticeKind(kind) for kind in before["kinds"]]
        _require_kinds(kinds, channel, wanted.target or before["target"])
        fields = changed_fields(wanted) | {"updated_at": now()}
        after = before | fields
        _require_format(after.get("format", WebhookFormat.STANDARD), kinds, channel, after["digest_s"])
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
        self._quotas.test_notice(tenant)
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

    async def _within(self, work: Awaitable[T]) -> T:
        return await self._store.within(work)


class SubscriptionsResource:
    """Subscriptions: make, see, change, try, remove."""

    def __init__(self, subscriptions: SubscriptionStore) -> None:
        self._subscriptions = subscriptions

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/subscriptions", self.subscribe, "createSubscription", "Be told what happens; the secret is shown once",
                "Notices", {201: notice_http.SubscriptionWithSecret}, notice_http.SubscriptionCreate, problems=BODY,
                scope=CallerScope.SUBSCRIPTIONS_WRITE,
            ),
            Route(
                "GET", "/subscriptions", self.list_subscriptions, "listSubscriptions", "Subscriptions, oldest first",
                "Notices", {200: notice_http.SubscriptionPage},
                parameters=(
                    page_of(50, 1000), CURSOR, Parameter("scope", {"enum": ["thread", "run", "assistant", "batch", "tenant"]}),
                    Parameter("scope_id", TEXT), CHANNEL, Parameter("state", {"enum": ["active", "paused", "disabled"]}),
                ), scope=CallerScope.SUBSCRIPTIONS_READ,
            ),
            Route(
                "GET", "/subscriptions/{subscription_id}", self.get_subscription, "getSubscription", "A subscription",
                "Notices", {200: notice_http.Subscription}, problems=("unknown-subscription",),
                scope=CallerScope.SUBSCRIPTIONS_READ,
            ),
            Route(
                "PATCH", "/subscriptions/{subscription_id}", self.patch_subscription, "updateSubscription",
                "Change, pause or resume a subscription", "Notices", {200: notice_http.Subscription},
                notice_http.SubscriptionPatch, problems=(*BODY, "unknown-subscription"),
                scope=CallerScope.SUBSCRIPTIONS_WRITE,
            ),
            Route(
                "DELETE", "/subscriptions/{subscription_id}", self.delete_subscription, "deleteSubscription",
                "Remove a subscription; what was not delivered yet is dropped", "Notices", {204: "Removed."},
                problems=("unknown-subscription",), scope=CallerScope.SUBSCRIPTIONS_WRITE,
            ),
            Route(
                "POST", "/subscriptions/{subscription_id}/rotate-secret", self.rotate_secret, "rotateSubscriptionSecret",
                "A new signing secret, shown once; the old one signs beside it for a while", "Notices",
                {200: notice_http.SubscriptionWithSecret}, notice_http.RotateSecret,
                problems=(*BODY, "unknown-subscription", "no-secret"), scope=CallerScope.SUBSCRIPTIONS_WRITE,
            ),
            Route(
                "POST", "/subscriptions/{subscription_id}/test", self.send_test, "testSubscription",
                "Send a test to its target", "Notices", {202: notice_http.Delivery}, problems=("unknown-subscription",),
                scope=CallerScope.SUBSCRIPTIONS_WRITE,
            ),
        )
        # fmt: on

    async def subscribe(self, request: web.Request) -> web.Response:
        """``POST /subscriptions``."""
        wanted, _ = await read_body(request, SubscriptionCreate)
        if ASKING & set(wanted.kinds):
            caller_of(request).require(CallerScope.SUBSCRIPTIONS_APPROVALS)
        made, secret = await self._subscriptions.subscribe(tenant_of(request), wanted)
        return json_response(subscription_view(made) | {"target": made["target"], "secret": secret}, status=201)

    async def list_subscriptions(self, request: web.Request) -> web.Response:
        """``GET /subscriptions``."""
        limit = query_int(request, "limit", PAGE, low=1, high=MAX_PAGE)
        fits: Document = {"scope_id": request.query["scope_id"]} if "scope_id" in request.query else {}
        choices = {"scope": Scope, "channel": Channel, "state": SubscriptionState}
        for name, members in choices.items():
            if (value := query_choice(request, name, [one.value for one in members])) is not None:
                fits[name] = value
        found = await self._subscriptions.page(tenant_of(request), fits, limit + 1, request.query.get("cursor"))
        cursor = found[limit - 1]["_id"] if len(found) > limit else None
        return json_response({"items": [subscription_view(one) for one in found[:limit]], "cursor": cursor})

    async def get_subscription(self, request: web.Request) -> web.Response:
        """``GET /subscriptions/{subscription_id}``."""
        return json_response(subscription_view(await self._subscriptions.require(*_named(request))))

    async def patch_subscription(self, request: web.Request) -> web.Response:
        """``PATCH /subscriptions/{subscription_id}``."""
        wanted, _ = await read_body(request, SubscriptionPatch)
        if not caller_of(request).may(CallerScope.SUBSCRIPTIONS_APPROVALS):
            before = await self._subscriptions.require(*_named(request))
            if ASKING & {*map(NoticeKind, before["kinds"]), *(wanted.kinds or ())}:
                caller_of(request).require(CallerScope.SUBSCRIPTIONS_APPROVALS)
        return json_response(subscription_view(await self._subscriptions.change(*_named(request), wanted)))

    async def delete_subscription(self, request: web.Request) -> web.Response:
        """``DELETE /subscriptions/{subscription_id}``."""
        await self._subscriptions.remove(*_named(request))
        return web.Response(status=204)

    async def rotate_secret(self, request: web.Request) -> web.Response:
        """``POST /subscriptions/{subscription_id}/rotate-secret``."""
        wanted, _ = await read_body(request, RotateSecret)
        changed, secret = await self._subscriptions.rotate(*_named(request), wanted.grace_s)
        return json_response(subscription_view(changed) | {"secret": secret})

    async def send_test(self, request: web.Request) -> web.Response:
        """``POST /subscriptions/{subscription_id}/test``: 202 with the delivery to look at."""
        delivery = await self._subscriptions.test(*_named(request))
        return json_response(
            delivery_view(delivery), status=202, headers={"Location": f"/deliveries/{delivery['_id']}"}
        )


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
        "format": subscription.get("format", WebhookFormat.STANDARD.value),
        "target": shown_target(subscription["channel"], subscription["target"]),
        "secrets": len(valid_secrets(subscription, now())),
    }


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


def _require_format(wanted: str, kinds: list[NoticeKind], channel: Channel, digest_s: float | None) -> None:
    if problem := notice_http.format_problem(wanted, kinds, channel, digest_s):
        raise invalid("/format", problem)


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["subscription_id"], tenant_of(request)
