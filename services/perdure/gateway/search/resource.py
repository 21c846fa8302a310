"""``GET /search``: hands the question to ``perdure.gateway.search.query``."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from perdure.chassis.circuit import LONGEST_S
from perdure.chassis.errors import UnavailableError
from perdure.chassis.opensearch import OpenSearch
from perdure.gateway.auth.caller import tenant_of
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import CURSOR, TEXT, Parameter, Plain, Route, page_of
from perdure.gateway.search.query import SearchBehindError, SearchProblem, search
from perdure.gateway.stores.store import Store
from perdure.gateway.stores.visible import visible_threads
from perdure.schemas.scopes import Scope

RETRY_AFTER: Final = {"Retry-After": f"{LONGEST_S:.0f}"}
COMES_BACK: Final = "Agents go on meanwhile, and what they do becomes searchable when the index is back."


class SearchResource:
    """Search over past states of all threads of a tenant."""

    def __init__(self, store: Store, opensearch: OpenSearch) -> None:
        self._store = store
        self._opensearch = opensearch

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "GET", "/search", self.search, "search", "Full-text and structured search over past states", "Search",
                {200: Plain("What was found.", {"type": "object"})},
                parameters=(
                    Parameter("q", TEXT, 'In the search language: `node:Login -status:success "connection reset"`.'),
                    Parameter("by", TEXT, "Count by `node`, `graph`, `status` or `day`."),
                    Parameter("min_seq", TEXT, "`<thread id>:<seq>`: wait until that state is searchable."),
                    page_of(20, 200), CURSOR,
                ),
                problems=("search-unavailable", "search-behind"), scope=Scope.SEARCH_READ,
            ),
        )
        # fmt: on

    async def search(self, request: web.Request) -> web.Response:
        """``GET /search``."""
        try:
            answer = await search(
                self._opensearch, tenant_of(request), request.query, visible=await visible_threads(self._store, request)
            )
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
        return json_response(answer)
