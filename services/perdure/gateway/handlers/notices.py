"""Subscriptions and deliveries: make, see, change, try; look at what was sent, and send it again."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
from aiohttp import web

from perdure.gateway.context import CONTEXT
from perdure.gateway.http.problems import invalid
from perdure.gateway.http.requests import query_bool, query_choice, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.notices import Notices, delivery_detail, delivery_view, subscription_view
from perdure.schemas.notice_http import (
    RedriveDeliveries,
    RedriveDelivery,
    RotateSecret,
    SubscriptionCreate,
    SubscriptionPatch,
)
from perdure.schemas.notices import Channel, DeliveryState, Scope, SubscriptionState

Document = dict[str, Any]

PAGE = 50
MAX_PAGE = 1000
FILTERS = ("thread_id", "run_id", "subscription_id", "kind")


async def subscribe(request: web.Request) -> web.Response:
    """``POST /subscriptions``."""
    wanted, _ = await read_body(request, SubscriptionCreate)
    made, secret = await _notices(request).subscribe(tenant_of(request), wanted)
    return json_response(subscription_view(made) | {"secret": secret}, status=201)


async def list_subscriptions(request: web.Request) -> web.Response:
    """``GET /subscriptions``."""
    limit = query_int(request, "limit", PAGE, low=1, high=MAX_PAGE)
    fits: Document = {"scope_id": request.query["scope_id"]} if "scope_id" in request.query else {}
    choices = {"scope": Scope, "channel": Channel, "state": SubscriptionState}
    for name, members in choices.items():
        if (value := query_choice(request, name, [one.value for one in members])) is not None:
            fits[name] = value
    found = await _notices(request).page(tenant_of(request), fits, limit + 1, request.query.get("cursor"))
    cursor = found[limit - 1]["_id"] if len(found) > limit else None
    return json_response({"items": [subscription_view(one) for one in found[:limit]], "cursor": cursor})


async def get_subscription(request: web.Request) -> web.Response:
    """``GET /subscriptions/{subscription_id}``."""
    return json_response(subscription_view(await _notices(request).require(*_subscription(request))))


async def patch_subscription(request: web.Request) -> web.Response:
    """``PATCH /subscriptions/{subscription_id}``."""
    wanted, _ = await read_body(request, SubscriptionPatch)
    return json_response(subscription_view(await _notices(request).change(*_subscription(request), wanted)))


async def delete_subscription(request: web.Request) -> web.Response:
    """``DELETE /subscriptions/{subscription_id}``."""
    await _notices(request).remove(*_subscription(request))
    return web.Response(status=204)


async def rotate_secret(request: web.Request) -> web.Response:
    """``POST /subscriptions/{subscription_id}/rotate-secret``."""
    wanted, _ = await read_body(request, RotateSecret)
    changed, secret = await _notices(request).rotate(*_subscription(request), wanted.grace_s)
    return json_response(subscription_view(changed) | {"secret": secret})


async def test_subscription(request: web.Request) -> web.Response:
    """``POST /subscriptions/{subscription_id}/test``: 202 with the delivery to look at."""
    delivery = await _notices(request).test(*_subscription(request))
    return json_response(delivery_view(delivery), status=202, headers={"Location": f"/deliveries/{delivery['_id']}"})


async def list_deliveries(request: web.Request) -> web.Response:
    """``GET /deliveries``."""
    limit = query_int(request, "limit", PAGE, low=1, high=MAX_PAGE)
    fits: Document = {name: request.query[name] for name in FILTERS if name in request.query}
    for name, members in {"state": DeliveryState, "channel": Channel}.items():
        if (value := query_choice(request, name, [one.value for one in members])) is not None:
            fits[name] = value
    after = _read_cursor(request.query["cursor"]) if "cursor" in request.query else None
    found = await _notices(request).deliveries(tenant_of(request), fits, limit + 1, after)
    cursor = _cursor(found[limit - 1]) if len(found) > limit else None
    return json_response({"items": [delivery_view(one) for one in found[:limit]], "cursor": cursor})


async def get_delivery(request: web.Request) -> web.Response:
    """``GET /deliveries/{delivery_id}``."""
    delivery = await _notices(request).delivery(request.match_info["delivery_id"], tenant_of(request))
    return json_response(delivery_detail(delivery))


async def redrive(request: web.Request) -> web.Response:
    """``POST /deliveries/{delivery_id}/redrive``."""
    force = query_bool(request, "force")
    wanted, _ = await read_body(request, RedriveDelivery)
    id_, tenant = request.match_info["delivery_id"], tenant_of(request)
    return json_response(delivery_view(await _notices(request).redrive(id_, tenant, wanted.by, force=force)))


async def redrive_many(request: web.Request) -> web.Response:
    """``POST /deliveries/redrive``: dead ones that fit, the oldest first."""
    wanted, _ = await read_body(request, RedriveDeliveries)
    fits = wanted.model_dump(mode="json", exclude={"by", "limit"}, exclude_none=True)
    sent, more = await _notices(request).redrive_many(tenant_of(request), fits, wanted.limit, wanted.by)
    return json_response({"redriven": sent, "more": more})


def _notices(request: web.Request) -> Notices:
    return request.app[CONTEXT].notices


def _subscription(request: web.Request) -> tuple[str, str]:
    return request.match_info["subscription_id"], tenant_of(request)


def _cursor(last: Mapping[str, Any]) -> str:
    place = orjson.dumps([last["created_at"].isoformat(), last["_id"]])
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def _read_cursor(text: str) -> tuple[datetime, str]:
    try:
        at, id_ = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        created_at = datetime.fromisoformat(at)
    except (ValueError, TypeError, binascii.Error) as error:
        raise invalid("query:cursor", "is not a cursor that this list gave") from error
    return created_at, str(id_)
