"""Who is stuck: hands the question to ``perdure.gateway.stuck``."""

from __future__ import annotations

from aiohttp import web

from perdure.chassis.errors import UnavailableError
from perdure.gateway import stuck
from perdure.gateway.context import CONTEXT
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.search.query import SearchProblem
from perdure.gateway.search.resource import RETRY_AFTER


async def list_stuck(request: web.Request) -> web.Response:
    """``GET /stuck``."""
    context, tenant = request.app[CONTEXT], tenant_of(request)
    try:
        given = stuck.check(request.query)
        if stuck.is_history(given):
            found = await stuck.in_history(context.opensearch, tenant, given)
        else:
            found = await context.marks.at_present(tenant, given)
    except UnavailableError as error:
        raise RequestProblem(
            "search-unavailable",
            f"The search index is away: {error.detail}. Without since and until, the database says who is stuck now.",
            headers=RETRY_AFTER,
        ) from error
    except SearchProblem as error:
        raise invalid(error.pointer, error.detail) from error
    return json_response(found)
