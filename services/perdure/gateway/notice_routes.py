"""The rows of the route table about subscriptions and deliveries."""

from __future__ import annotations

from perdure.gateway.handlers import notices
from perdure.gateway.http.route import BODY, CURSOR, FLAG, TEXT, Parameter, Route, page_of
from perdure.schemas import notice_http

CHANNEL = Parameter("channel", {"enum": ["webhook", "email", "slack"]})

# fmt: off
NOTICES: tuple[Route, ...] = (
    Route(
        "POST", "/subscriptions", notices.subscribe, "createSubscription", "Be told what happens; the secret is shown once",
        "Notices", {201: notice_http.SubscriptionWithSecret}, notice_http.SubscriptionCreate, problems=BODY,
    ),
    Route(
        "GET", "/subscriptions", notices.list_subscriptions, "listSubscriptions", "Subscriptions, oldest first",
        "Notices", {200: notice_http.SubscriptionPage},
        parameters=(
            page_of(50, 1000), CURSOR, Parameter("scope", {"enum": ["thread", "run", "assistant", "batch", "tenant"]}),
            Parameter("scope_id", TEXT), CHANNEL, Parameter("state", {"enum": ["active", "paused", "disabled"]}),
        ),
    ),
    Route(
        "GET", "/subscriptions/{subscription_id}", notices.get_subscription, "getSubscription", "A subscription",
        "Notices", {200: notice_http.Subscription}, problems=("unknown-subscription",),
    ),
    Route(
        "PATCH", "/subscriptions/{subscription_id}", notices.patch_subscription, "updateSubscription",
        "Change, pause or resume a subscription", "Notices", {200: notice_http.Subscription},
        notice_http.SubscriptionPatch, problems=(*BODY, "unknown-subscription"),
    ),
    Route(
        "DELETE", "/subscriptions/{subscription_id}", notices.delete_subscription, "deleteSubscription",
        "Remove a subscription; what was not delivered yet is dropped", "Notices", {204: "Removed."},
        problems=("unknown-subscription",),
    ),
    Route(
        "POST", "/subscriptions/{subscription_id}/rotate-secret", notices.rotate_secret, "rotateSubscriptionSecret",
        "A new signing secret, shown once; the old one signs beside it for a while", "Notices",
        {200: notice_http.SubscriptionWithSecret}, notice_http.RotateSecret,
        problems=(*BODY, "unknown-subscription", "no-secret"),
    ),
    Route(
        "POST", "/subscriptions/{subscription_id}/test", notices.test_subscription, "testSubscription",
        "Send a test to its target", "Notices", {202: notice_http.Delivery}, problems=("unknown-subscription",),
    ),
    Route(
        "GET", "/deliveries", notices.list_deliveries, "listDeliveries", "Notices and what became of them, newest first",
        "Notices", {200: notice_http.DeliveryPage},
        parameters=(
            page_of(50, 1000), CURSOR,
            Parameter("state", {"enum": ["pending", "gathered", "delivered", "dead", "dropped"]}), CHANNEL,
            *(Parameter(name, TEXT) for name in ("thread_id", "run_id", "subscription_id", "kind")),
        ),
    ),
    Route(
        "GET", "/deliveries/{delivery_id}", notices.get_delivery, "getDelivery", "A notice and every attempt to deliver it",
        "Notices", {200: notice_http.DeliveryDetail}, problems=("unknown-delivery",),
    ),
    Route(
        "POST", "/deliveries/{delivery_id}/redrive", notices.redrive, "redriveDelivery",
        "Send a dead notice again, under the same message id", "Notices", {200: notice_http.Delivery},
        notice_http.RedriveDelivery, (Parameter("force", FLAG, "Also when it was delivered or dropped."),),
        (*BODY, "unknown-delivery", "delivery-not-dead"),
    ),
    Route(
        "POST", "/deliveries/redrive", notices.redrive_many, "redriveDeliveries", "Redrive dead notices, the oldest first",
        "Notices", {200: notice_http.RedrivenDeliveries}, notice_http.RedriveDeliveries, problems=BODY,
    ),
)
# fmt: on
