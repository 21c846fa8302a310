"""Every row of the route table and every page says what its caller needs; the rows that need no caller are these."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure.gateway.app import Gateway, Servers
from perdure.gateway.auth.governed import GOVERNED, Bound
from perdure.gateway.auth.handler_users import USER_SCOPES
from perdure.gateway.http.openapi import describe
from perdure.gateway.settings import GatewaySettings
from perdure.schemas.scopes import MEANINGS, SETS, Exempt, Scope, UnknownScope, scopes_of

EXEMPT = {
    ("GET", "/ok"),
    ("GET", "/ready"),
    ("POST", "/inbound/email"),
    ("GET", "/answer/{token}"),
    ("POST", "/answer/{token}"),
    ("GET", "/auth/login"),
    ("POST", "/auth/login"),
    ("GET", "/auth/begin"),
    ("GET", "/auth/callback"),
    ("GET", "/auth/ticket/{ticket}"),
    ("POST", "/auth/ticket/{ticket}"),
    ("POST", "/auth/logout"),
}
UNUSED = {Scope.TENANTS_ANY, Scope.SUBSCRIPTIONS_APPROVALS}
"""Asked for by no row as a whole: they widen what a caller with another scope may do."""
NOT_YET = {Scope.AUDIT_READ}


@pytest.fixture(scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    nobody = "127.0.0.1:9"
    settings = GatewaySettings(
        mongodb_uri=f"mongodb://{nobody}/perdure", kafka_bootstrap_servers=nobody, opensearch_url=f"http://{nobody}"
    )
    servers = Servers.of(settings)
    yield Gateway(settings, servers)
    await servers.close()


async def test_only_the_known_rows_need_no_caller(gateway: Gateway) -> None:
    rows = [*gateway.routes(), *gateway.pages()]
    assert len(rows) > 90
    assert {(row.method, row.path) for row in rows if isinstance(row.scope, Exempt)} == EXEMPT
    assert all(row.scope.why for row in rows if isinstance(row.scope, Exempt))
    assert {row.scope for row in rows if isinstance(row.scope, Scope)} >= set(Scope) - UNUSED - NOT_YET


async def test_what_changes_something_needs_more_than_reading(gateway: Gateway) -> None:
    reads = {
        "search",
        "searchThreads",
        "countThreads",
        "searchCrons",
        "countCrons",
        "searchHistory",
        "searchAssistants",
    }
    reads |= {"getStateAtCheckpointPost"}
    for route in gateway.routes():
        if isinstance(route.scope, Scope) and route.method != "GET" and route.name not in reads:
            assert not route.scope.endswith(":read"), route.name
        if isinstance(route.scope, Scope) and (route.method == "GET" or route.name in reads):
            assert route.scope.endswith(":read") or route.scope is Scope.KEYS_MANAGE, route.name


async def test_the_api_description_names_the_scopes(gateway: Gateway) -> None:
    specification = describe(gateway.routes(), "1.0")
    for route in gateway.routes():
        operation = specification["paths"][route.path][route.method.lower()]
        if isinstance(route.scope, Exempt):
            assert operation["security"] == []
        else:
            assert operation["x-perdure-scope"] == route.scope
            assert {"401", "403"} <= set(operation["responses"])
            assert all(set(one) <= set(specification["components"]["securitySchemes"]) for one in operation["security"])


async def test_the_api_description_has_the_credentials_of_the_project(gateway: Gateway) -> None:
    project = {"securitySchemes": {"mine": {"type": "http", "scheme": "basic"}}, "security": [{"mine": []}]}
    specification = describe(gateway.routes(), "1.0", project)
    assert specification["components"]["securitySchemes"]["mine"] == {"type": "http", "scheme": "basic"}
    assert {"mine": []} in specification["paths"]["/threads/search"]["post"]["security"]
    assert specification["paths"]["/ok"]["get"]["security"] == []
    assert "mine" not in describe(gateway.routes(), "1.0")["components"]["securitySchemes"]


def test_every_scope_has_a_meaning_and_sets_name_scopes() -> None:
    assert set(MEANINGS) == set(Scope)
    assert scopes_of(["reader", "runs:write"]) == SETS["reader"] | {Scope.RUNS_WRITE}
    assert Scope.APPROVALS_ANSWER not in SETS["client"]
    assert Scope.TENANTS_ANY not in SETS["admin"]
    with pytest.raises(UnknownScope, match="'runs:all' is no scope"):
        scopes_of(["runs:all"])


async def test_every_row_that_users_of_handlers_may_use_is_governed(gateway: Gateway) -> None:
    """Other rows are outside of the resources that handlers know: they need an explicit permission (docs/security.md)."""
    routes = gateway.routes()
    assert set(GOVERNED) <= {route.name for route in routes}
    assert {route.name for route in routes if route.scope in USER_SCOPES} <= set(GOVERNED)
    assert {route.name for route in routes if route.name in GOVERNED and route.scope not in USER_SCOPES} == {
        "holdThread",
        "releaseThread",
        "restoreThread",
    }
    assert not [page.path for page in gateway.pages() if page.scope in USER_SCOPES]
    bound_to_thread = {Bound.THREAD, Bound.THREAD_OR_NEW}
    for route in routes:
        governed = GOVERNED.get(route.name)
        if governed is None:
            assert "{thread_id}" not in route.path, route.name
        else:
            assert ("{thread_id}" in route.path) == (governed.bound in bound_to_thread), route.name
            assert ("{cron_id}" in route.path or "{schedule_id}" in route.path) == (governed.bound is Bound.SCHEDULE)
            assert ("{approval_id}" in route.path) == (governed.bound is Bound.QUESTION), route.name
            assert governed.asks
