"""Deliveries: what was told to whom, every attempt, and sending it again (ADR 12).

Outside: matching and sending (the notifier).
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from aiohttp import web

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.gateway.auth.caller import Signature, caller_of, tenant_of
from perdure.gateway.http.cursors import cursor_at, require_cursor_at
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.requests import query_bool, query_choice, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, CURSOR, FLAG, TEXT, Parameter, Route, page_of
from perdure.gateway.http.thread_ids import query_thread
from perdure.gateway.stores.store import Store
from perdure.registry.deliveries import Deliveries, shown_target
from perdure.schemas import notice_http
from perdure.schemas.notice_http import Delivery, RedriveDeliveries, RedriveDelivery
from perdure.schemas.notices import Channel, DeliveryState
from perdure.schemas.scopes import Scope

T = TypeVar("T")
Document = dict[str, Any]

PAGE = 50
MAX_PAGE = 1000
FILTERS = ("thread_id", "run_id", "subscription_id", "kind")
SHOWN: Final = tuple(name for name in Delivery.model_fields if name not in ("delivery_id", "target"))
CHANNEL = Parameter("channel", {"enum": ["webhook", "email", "slack"]})


class DeliveryStore:
    """Deliveries of all tenants, each access within the store's time-out. Belongs to one event loop."""

    def __init__(self, database: Database, store: Store) -> None:
        self._store = store
        self._deliveries = Deliveries(database, store.availability)

    async def page(
        self, tenant: str, fits: Mapping[str, Any], limit: int, after: tuple[datetime, str] | None
    ) -> list[Document]:
        """Deliveries, newest first, older than ``after``."""
        return await self._within(self._deliveries.page(tenant, fits, limit, after))

    async def require(self, delivery_id: str, tenant: str) -> Document:
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

    async def redrive(self, delivery_id: str, tenant: str, signature: Signature, *, force: bool) -> Document:
        """Send a dead delivery again; the delivery, pending.

        Raises:
            RequestProblem: ``unknown-delivery``, ``delivery-not-dead``.

        """
        before = await self.require(delivery_id, tenant)
        if not await self._within(self._redrive(delivery_id, tenant, signature, force=force)):
            ended = before["state"] in ("delivered", "dropped")
            hint = "POST .../redrive?force=true sends it all the same." if ended else "It is still on its way."
            raise RequestProblem("delivery-not-dead", f"Delivery {delivery_id!r} is {before['state']}. {hint}")
        return await self.require(delivery_id, tenant)

    async def redrive_many(
        self, tenant: str, fits: Mapping[str, Any], limit: int, signature: Signature
    ) -> tuple[list[str], bool]:
        """Send dead deliveries again, the oldest first; their ids, and whether there are more."""
        ids = await self._within(self._deliveries.dead_ids(tenant, fits, limit + 1))
        sent = [one for one in ids[:limit] if await self._within(self._redrive(one, tenant, signature, force=False))]
        return sent, len(ids) > limit

    async def _redrive(self, delivery_id: str, tenant: str, signature: Signature, *, force: bool) -> bool:
        by, on_behalf_of = signature
        return await self._deliveries.redrive(delivery_id, tenant, by, now(), force=force, on_behalf_of=on_behalf_of)

    async def _within(self, work: Awaitable[T]) -> T:
        return await self._store.within(work)


class DeliveriesResource:
    """Deliveries: look at what was sent, and send it again."""

    def __init__(self, deliveries: DeliveryStore) -> None:
        self._deliveries = deliveries

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "GET", "/deliveries", self.list_deliveries, "listDeliveries", "Notices and what became of them, newest first",
                "Notices", {200: notice_http.DeliveryPage},
                parameters=(
                    page_of(50, 1000), CURSOR,
                    Parameter("state", {"enum": ["pending", "gathered", "delivered", "dead", "dropped"]}), CHANNEL,
                    *(Parameter(name, TEXT) for name in ("thread_id", "run_id", "subscription_id", "kind")),
                ), scope=Scope.DELIVERIES_READ,
            ),
            Route(
                "GET", "/deliveries/{delivery_id}", self.get_delivery, "getDelivery", "A notice and every attempt to deliver it",
                "Notices", {200: notice_http.DeliveryDetail}, problems=("unknown-delivery",),
                scope=Scope.DELIVERIES_READ,
            ),
            Route(
                "POST", "/deliveries/{delivery_id}/redrive", self.redrive, "redriveDelivery",
                "Send a dead notice again, under the same message id", "Notices", {200: notice_http.Delivery},
                notice_http.RedriveDelivery, (Parameter("force", FLAG, "Also when it was delivered or dropped."),),
                (*BODY, "unknown-delivery", "delivery-not-dead"), scope=Scope.DELIVERIES_WRITE,
            ),
            Route(
                "POST", "/deliveries/redrive", self.redrive_many, "redriveDeliveries", "Redrive dead notices, the oldest first",
                "Notices", {200: notice_http.RedrivenDeliveries}, notice_http.RedriveDeliveries, problems=BODY,
                scope=Scope.DELIVERIES_WRITE,
            ),
        )
        # fmt: on

    async def list_deliveries(self, request: web.Request) -> web.Response:
        """``GET /deliveries``."""
        limit = query_int(request, "limit", PAGE, low=1, high=MAX_PAGE)
        fits: Document = {name: request.query[name] for name in FILTERS if name in request.query}
        if (thread_id := query_thread(request)) is not None:
            fits["thread_id"] = thread_id
        for name, members in {"state": DeliveryState, "channel": Channel}.items():
            if (value := query_choice(request, name, [one.value for one in members])) is not None:
                fits[name] = value
        after = require_cursor_at(request.query["cursor"]) if "cursor" in request.query else None
        found = await self._deliveries.page(tenant_of(request), fits, limit + 1, after)
        cursor = cursor_at(found[limit - 1], "created_at") if len(found) > limit else None
        return json_response({"items": [delivery_view(one) for one in found[:limit]], "cursor": cursor})

    async def get_delivery(self, request: web.Request) -> web.Response:
        """``GET /deliveries/{delivery_id}``."""
        delivery = await self._deliveries.require(request.match_info["delivery_id"], tenant_of(request))
        return json_response(delivery_detail(delivery))

    async def redrive(self, request: web.Request) -> web.Response:
        """``POST /deliveries/{delivery_id}/redrive``."""
        force = query_bool(request, "force")
        wanted, _ = await read_body(request, RedriveDelivery)
        id_, tenant = request.match_info["delivery_id"], tenant_of(request)
        signature = caller_of(request).signs(wanted.by)
        return json_response(delivery_view(await self._deliveries.redrive(id_, tenant, signature, force=force)))

    async def redrive_many(self, request: web.Request) -> web.Response:
        """``POST /deliveries/redrive``: dead ones that fit, the oldest first."""
        wanted, _ = await read_body(request, RedriveDeliveries)
        fits = wanted.model_dump(mode="json", exclude={"by", "limit"}, exclude_none=True)
        signature = caller_of(request).signs(wanted.by)
        sent, more = await self._deliveries.redrive_many(tenant_of(request), fits, wanted.limit, signature)
        return json_response({"redriven": sent, "more": more})


def delivery_view(delivery: Mapping[str, Any]) -> Document:
    """A delivery as clients see it in lists."""
    shown = {name: delivery.get(name) for name in SHOWN}
    target = shown_target(delivery["channel"], delivery["target"])
    return {"delivery_id": delivery["_id"], **shown, "target": target}


def delivery_detail(delivery: Mapping[str, Any]) -> Document:
    """A delivery with what it tells and its attempts."""
    return delivery_view(delivery) | {"data": delivery["data"], "attempts": delivery["attempts"]}
