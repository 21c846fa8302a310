"""API keys over HTTP: make, list and revoke those of the caller's tenant.

Contract: nobody makes a key that may do more than the maker. The first key cannot be made here while the gateway asks for keys;
``perdure keys create`` makes it on the database.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from aiohttp import web

from perdure.gateway.auth.caller import caller_of, tenant_of
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.requests import read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, Route
from perdure.gateway.stores.store import Store
from perdure.registry.api_keys import ApiKeys, key_view, new_key
from perdure.schemas import key_http
from perdure.schemas.key_http import KeyCreate
from perdure.schemas.scopes import Scope, UnknownScope, scopes_of

T = TypeVar("T")


class KeysResource:
    """API keys: make, list, revoke."""

    def __init__(self, store: Store, keys: ApiKeys) -> None:
        self._store = store
        self._keys = keys

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/keys", self.create, "createKey", "Make an API key; it is shown once", "Keys",
                {201: key_http.ApiKeyWithSecret}, key_http.KeyCreate, problems=BODY, scope=Scope.KEYS_MANAGE,
            ),
            Route(
                "GET", "/keys", self.list_keys, "listKeys", "API keys, oldest first", "Keys", {200: key_http.ApiKeys},
                scope=Scope.KEYS_MANAGE,
            ),
            Route(
                "POST", "/keys/{key_id}/revoke", self.revoke, "revokeKey",
                "Revoke an API key; gateways refuse it within three seconds", "Keys", {200: key_http.ApiKey},
                problems=("unknown-key",), scope=Scope.KEYS_MANAGE,
            ),
        )
        # fmt: on

    async def create(self, request: web.Request) -> web.Response:
        """``POST /keys``."""
        wanted, _ = await read_body(request, KeyCreate)
        caller = caller_of(request)
        try:
            scopes = scopes_of(wanted.scopes)
        except UnknownScope as error:
            raise invalid("/scopes", str(error)) from error
        if beyond := sorted(scope for scope in scopes if not caller.may(scope)):
            raise RequestProblem(
                "scope-missing", f"{caller.subject} lacks {', '.join(beyond)} and cannot give it away."
            )
        document, text = new_key(
            tenant=caller.tenant,
            name=wanted.name,
            scopes=scopes,
            created_by=caller.subject,
            expires_at=wanted.expires_at,
        )
        await self._within(self._keys.create(document))
        return json_response(key_view(document) | {"key": text}, status=201)

    async def list_keys(self, request: web.Request) -> web.Response:
        """``GET /keys``."""
        found = await self._within(self._keys.list(tenant_of(request)))
        return json_response({"items": [key_view(key) for key in found]})

    async def revoke(self, request: web.Request) -> web.Response:
        """``POST /keys/{key_id}/revoke``."""
        key_id, caller = request.match_info["key_id"], caller_of(request)
        found: Any = await self._within(self._keys.revoke(key_id, caller.tenant, caller.subject))
        if found is None:
            raise RequestProblem("unknown-key", f"There is no key {key_id!r}; GET /keys lists what there is.")
        return json_response(key_view(found))

    async def _within(self, work: Awaitable[T]) -> T:
        return await self._store.within(work)
