"""Search over past states: hands the question to ``perdure.gateway.search``."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from perdure.chassis.circuit import WATCH_S
from perdure.chassis.errors import UnavailableError
from perdure.gateway.context import CONTEXT
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.search import SearchBehindError, SearchProblem
from perdure.gateway.search import search as ask

RETRY_AFTER: Final = {"Retry-After": f"{WATCH_S:.0f}"}
COMES_BACK: Final = "Agents go on meanwhile, and what they do becomes searchable when the index is back."


async def search(request: web.Request) -> web.Response:
    """``GET /search``."""
    try:
        found = await ask(request.app[CONTEXT].opensearch, tenant_of(request), request.query)
    except SearchBehindError as error:
        raise RequestProblem(
            "search-behind",
            f"{error.detail}. The indexer is behind, or there is no such state; try again, or search without min_seq.",
            headers={"Retry-After": "1"},
        ) from error
    except UnavailableError as error:
        raise RequestProblem(
            "search-unavailable", f"The search index is away: {error.detail}. {COMES_BACK}", headers=RETRY_AFTER
        ) from error
    except SearchProblem as error:
        raise invalid(error.pointer, error.detail, error.position) from error
    return json_response(found)
