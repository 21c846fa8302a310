"""Before every handler: who calls, for which tenant, and whether the row of the route table permits the caller.

Contract: a request reaches a handler only with a caller that has the row's scope, or if the row says that it needs none. A path
that no row has is told to be missing only to callers. Each authenticator is asked in its order; the first that knows the kind of
credentials decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import urlencode

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from perdure.gateway.auth.caller import CALLER, TENANT_HEADER, Caller, open_caller
from perdure.gateway.auth.credentials import Authenticator, Credentials, Refusal
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.route import Page, Route
from perdure.gateway.http.thread_ids import QUALIFIER
from perdure.schemas.scopes import Exempt, Need, Scope
from perdure.schemas.thread_ids import TENANT_PATTERN, qualifier

LOGIN: Final = "/auth/login"
"""Where people sign in."""
_TENANT = re.compile(TENANT_PATTERN.removesuffix("$"))


class Policy(Protocol):
    """Decides whether callers must be known."""

    async def asks(self) -> bool:
        """Whether a request needs credentials now.

        Raises:
            RequestProblem: ``store-unavailable``: it is not known yet.

        """


class Authentication:
    """Makes the caller of each request."""

    def __init__(self, policy: Policy, chain: Sequence[Authenticator], tenant: str) -> None:
        """``chain``: in the order in which they are asked; ``tenant``: of requests where nobody is asked."""
        self._policy = policy
        self._chain = tuple(chain)
        self._open = open_caller(tenant)
        self._needs: Mapping[tuple[str, str], Need] = {}
        self._pages: frozenset[str] = frozenset()

    def install(self, app: web.Application, rows: Iterable[Route | Page]) -> None:
        """Stand before the handlers of these rows, inside the middlewares that are there already."""
        rows = tuple(rows)
        needs = {(row.method, row.path): row.scope for row in rows}
        self._pages = frozenset(row.path for row in rows if isinstance(row, Page))
        self._needs = {**{(hdrs.METH_HEAD, path): need for (_, path), need in needs.items()}, **needs}
        app.middlewares.append(self._authenticate)

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        need = self._need_of(request)
        if isinstance(need, Exempt):
            return await handler(request)
        try:
            caller = await self._caller_of(request)
        except RequestProblem as unknown:
            if unknown.status == HTTPStatus.UNAUTHORIZED and self._is_of_person(request):
                raise _to_sign_in(request) from unknown
            raise
        if need is not None:
            caller.require(need)
        request[CALLER] = acting = _for_tenant(caller, request.headers.get(TENANT_HEADER))
        request[QUALIFIER] = qualifier(acting.tenant)
        return await handler(request)

    def _need_of(self, request: web.Request) -> Need | None:
        """What the row of a request asks for; ``None`` where there is no row."""
        resource = request.match_info.route.resource
        return None if resource is None else self._needs.get((request.method, resource.canonical))

    def _is_of_person(self, request: web.Request) -> bool:
        """Whether somebody opened a page in a browser, who can sign in."""
        resource = request.match_info.route.resource
        is_page = resource is not None and resource.canonical in self._pages
        return is_page and request.method == hdrs.METH_GET and "text/html" in request.headers.get(hdrs.ACCEPT, "")

    async def _caller_of(self, request: web.Request) -> Caller:
        if not await self._policy.asks():
            return self._open
        credentials = Credentials.of(request)
        for authenticate in self._chain:
            found = await authenticate(credentials)
            if isinstance(found, Refusal):
                raise _Unknown(found.detail)
            if found is not None:
                return found
        raise _Unknown("This gateway asks who calls. Send an API key as x-api-key or as Authorization: Bearer.")


def _for_tenant(caller: Caller, named: str | None) -> Caller:
    """The caller, acting for the tenant that the header names.

    Raises:
        RequestProblem: ``invalid-request`` or ``tenant-refused``.

    """
    if named is None:
        return caller
    if not _TENANT.fullmatch(named):
        raise invalid(f"header:{TENANT_HEADER}", "must be 1 to 64 of A-Z a-z 0-9 . _ -")
    if named != caller.tenant and not caller.may(Scope.TENANTS_ANY):
        raise RequestProblem(
            "tenant-refused",
            f"{caller.subject} acts for the tenant {caller.tenant!r} only. Leave the header {TENANT_HEADER} out, or use a "
            f"caller with the scope {Scope.TENANTS_ANY}.",
        )
    return replace(caller, tenant=named)


class _Unknown(RequestProblem):
    """Nobody knows who calls."""

    def __init__(self, detail: str) -> None:
        super().__init__("not-authorized", detail, headers={hdrs.WWW_AUTHENTICATE: "Bearer"})


def _to_sign_in(request: web.Request) -> web.HTTPSeeOther:
    return web.HTTPSeeOther(f"{LOGIN}?{urlencode({'then': request.path_qs})}")
