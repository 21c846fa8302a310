"""The tenant of a request."""

from __future__ import annotations

import re

from aiohttp import web

from perdure.gateway.http.problems import invalid

TENANT_HEADER = "Perdure-Tenant"
DEFAULT_TENANT: web.AppKey[str] = web.AppKey("default_tenant", str)
"""The tenant of a request without the header; set by the composition root."""
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")


def tenant_of(request: web.Request) -> str:
    """The tenant of a request: the header ``Perdure-Tenant``, or the default.

    Raises:
        RequestProblem: ``invalid-request``: the header is no tenant's name.

    """
    named = request.headers.get(TENANT_HEADER)
    if named is None:
        return request.app[DEFAULT_TENANT]
    if not _TENANT.fullmatch(named):
        raise invalid(f"header:{TENANT_HEADER}", "must be 1 to 64 of A-Z a-z 0-9 . _ -")
    return named
