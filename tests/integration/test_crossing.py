"""No operation and no page reaches what another tenant has: every route is tried with the ids of another tenant's things."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest
from tests.integration.conftest import Waiting, open_waiting
from tests.integration.crossing_stage import GRAPH, NAMED, OWNER, SECRET, Owned, build, index, snapshot
from tests.support.gateway import fresh_database

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.opensearch import OpenSearch
from perdure.schemas import topics
from perdure.schemas.thread_ids import stored_id


@dataclass(frozen=True)
class Row:
    """How a route is tried.

    Attributes:
        statuses: What may be answered.
        body: The request's, with ``{thread_id}`` and the like in place of ids.
        query: Parameters, likewise.
        own: What of the owner's words may stand in the answer: the thief wrote them itself, now or before.
        empty: Where the answer is to hold nothing: the key of the list or number, or ``""`` for the answer itself.

    """

    statuses: tuple[int, ...] = (404,)
    body: Any = None
    query: Mapping[str, str] | None = None
    empty: str | None = None
    own: tuple[str, ...] = ()


UNKNOWN: Final = Row()
OPEN: Final = Row((200, 307))
"""The same for all tenants: nothing in it is anybody's."""
SIGN_IN: Final = Row((200, 302, 303, 307, 400, 401, 403, 404, 410, 415, 422))
"""Before anybody is known."""
RUN: Final = {"assistant_id": GRAPH, "input": {}}
AT: Final = {"start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z"}
HELD: Final = {"by": "eve", "reason": "mine now"}
THREAD: Final = {"thread_id": "{thread_id}"}
MADE: Final = (200, 201, 202)
"""Makes something of the thief's own."""

TABLE: Final[dict[tuple[str, str], Row]] = {
    ("POST", "/threads"): Row(MADE, {"metadata": {"note": "eve"}}),
    ("POST", "/threads/search"): Row((200,), {"ids": ["{thread_id}"]}, empty=""),
    ("POST", "/threads/count"): Row((200,), {"metadata": {"note": SECRET}}, empty=""),
    ("POST", "/threads/prune"): Row((200,), {"thread_ids": ["{thread_id}"]}, empty="pruned_count"),
    ("GET", "/threads/{thread_id}"): UNKNOWN,
    ("PATCH", "/threads/{thread_id}"): Row(body={"metadata": {"note": "eve"}}),
    ("DELETE", "/threads/{thread_id}"): UNKNOWN,
    ("POST", "/threads/{thread_id}/copy"): UNKNOWN,
    ("GET", "/threads/{thread_id}/state"): UNKNOWN,
    ("POST", "/threads/{thread_id}/state"): Row(body={"values": {"x": 1}}),
    ("POST", "/threads/{thread_id}/state/checkpoint"): Row(body={"checkpoint": {"checkpoint_id": "{checkpoint_id}"}}),
    ("GET", "/threads/{thread_id}/state/{checkpoint_id}"): UNKNOWN,
    ("GET", "/threads/{thread_id}/history"): UNKNOWN,
    ("POST", "/threads/{thread_id}/history"): Row(body={"limit": 10}),
    ("POST", "/runs"): Row(MADE, RUN),
    ("POST", "/runs/batch"): Row(MADE, [RUN]),
    ("POST", "/runs/wait"): Row((200, 202), {**RUN, "on_disconnect": "cancel"}),
    ("POST", "/runs/stream"): Row((200,), {**RUN, "on_disconnect": "cancel"}),
    ("POST", "/threads/{thread_id}/runs"): Row(body=RUN),
    ("POST", "/threads/{thread_id}/runs/wait"): Row(body=RUN),
    ("POST", "/threads/{thread_id}/runs/stream"): Row(body=RUN),
    ("GET", "/threads/{thread_id}/runs"): UNKNOWN,
    ("GET", "/threads/{thread_id}/runs/{run_id}"): UNKNOWN,
    ("GET", "/threads/{thread_id}/runs/{run_id}/join"): UNKNOWN,
    ("GET", "/threads/{thread_id}/runs/{run_id}/stream"): UNKNOWN,
    ("GET", "/threads/{thread_id}/stream"): UNKNOWN,
    ("POST", "/threads/{thread_id}/runs/{run_id}/retry"): UNKNOWN,
    ("POST", "/threads/{thread_id}/runs/{run_id}/cancel"): UNKNOWN,
    ("POST", "/runs/cancel"): Row((204, 404), {**THREAD, "run_ids": ["{run_id}"]}),
    ("DELETE", "/threads/{thread_id}/runs/{run_id}"): UNKNOWN,
    ("POST", "/threads/{thread_id}/signals/{name}"): Row(body={"payload": 1}),
    ("GET", "/threads/{thread_id}/signals"): UNKNOWN,
    ("GET", "/approvals"): Row((200,), query=THREAD, empty="approvals"),
    ("GET", "/approvals/{approval_id}"): UNKNOWN,
    ("POST", "/approvals/{approval_id}"): Row(body={"answer": True, "by": "eve"}),
    ("POST", "/inbound/email"): Row((200, 400, 401, 404, 422)),
    ("GET", "/dead-letters"): Row((200,), query=THREAD, empty="items"),
    ("GET", "/dead-letters/{letter_id}"): UNKNOWN,
    ("POST", "/dead-letters/{letter_id}/redrive"): Row(body={}),
    ("POST", "/dead-letters/{letter_id}/drop"): Row(body={}),
    ("POST", "/dead-letters/redrive"): Row((200,), {}, empty="redriven"),
    ("PUT", "/threads/{thread_id}/hold"): Row(body=HELD),
    ("DELETE", "/threads/{thread_id}/hold"): UNKNOWN,
    ("POST", "/threads/{thread_id}/restore"): Row(body={}),
    ("GET", "/threads/{thread_id}/storage"): UNKNOWN,
    ("POST", "/batches"): Row(MADE, {"assistant_id": GRAPH, "items": [{"input": {}}]}),
    ("GET", "/batches"): Row((200,)),
    ("GET", "/batches/{batch_id}"): UNKNOWN,
    ("GET", "/batches/{batch_id}/items"): UNKNOWN,
    ("GET", "/batches/{batch_id}/results"): UNKNOWN,
    ("POST", "/batches/{batch_id}/pause"): UNKNOWN,
    ("POST", "/batches/{batch_id}/resume"): UNKNOWN,
    ("POST", "/batches/{batch_id}/cancel"): UNKNOWN,
    ("POST", "/batches/{batch_id}/redrive"): Row(body={}),
    ("POST", "/subscriptions"): Row(
        MADE, {"scope": "thread", "scope_id": "{thread_id}", "kinds": ["completed"], "channel": "webhook",
               "target": "https://hooks.example.com/eve"},
    ),
    ("GET", "/subscriptions"): Row((200,), own=(stored_id(OWNER, NAMED), NAMED)),
    ("GET", "/subscriptions/{subscription_id}"): UNKNOWN,
    ("PATCH", "/subscriptions/{subscription_id}"): Row(body={"target": "https://hooks.example.com/eve"}),
    ("DELETE", "/subscriptions/{subscription_id}"): UNKNOWN,
    ("POST", "/subscriptions/{subscription_id}/rotate-secret"): Row(body={}),
    ("POST", "/subscriptions/{subscription_id}/test"): UNKNOWN,
    ("GET", "/deliveries"): Row((200,), query=THREAD, empty="items"),
    ("GET", "/deliveries/{delivery_id}"): UNKNOWN,
    ("POST", "/deliveries/{delivery_id}/redrive"): Row(body={}),
    ("POST", "/deliveries/redrive"): Row((200,), {}, empty="redriven"),
    ("POST", "/schedules"): Row(body={"assistant_id": GRAPH, "cron": "0 0 1 1 *", "overlap": "queue", **THREAD}),
    ("GET", "/schedules"): Row((200,), query=THREAD, empty=""),
    ("GET", "/schedules/{schedule_id}"): UNKNOWN,
    ("PATCH", "/schedules/{schedule_id}"): Row(body={"cron": "0 0 2 1 *"}),
    ("DELETE", "/schedules/{schedule_id}"): UNKNOWN,
    ("POST", "/schedules/{schedule_id}/pause"): UNKNOWN,
    ("POST", "/schedules/{schedule_id}/resume"): UNKNOWN,
    ("POST", "/schedules/{schedule_id}/trigger"): UNKNOWN,
    ("POST", "/schedules/{schedule_id}/backfill"): Row(body=AT),
    ("POST", "/runs/crons"): Row(MADE, {"assistant_id": GRAPH, "schedule": "0 0 1 1 *"}),
    ("POST", "/threads/{thread_id}/runs/crons"): Row(body={"assistant_id": GRAPH, "schedule": "0 0 1 1 *"}),
    ("POST", "/runs/crons/search"): Row((200,), {"metadata": {"note": SECRET}}, empty=""),
    ("POST", "/runs/crons/count"): Row((200,), {"metadata": {"note": SECRET}}, empty=""),
    ("GET", "/runs/crons/{cron_id}"): UNKNOWN,
    ("PATCH", "/runs/crons/{cron_id}"): Row(body={"schedule": "0 0 2 1 *"}),
    ("DELETE", "/runs/crons/{cron_id}"): UNKNOWN,
    ("GET", "/search"): Row((200,), query={"thread_id": "{thread_id}"}, empty="items"),
    ("GET", "/stuck"): Row((200,), query={"since": "1d"}, empty="items"),
    ("GET", "/graphs"): OPEN,
    ("POST", "/assistants/search"): Row((200,), {}),
    ("GET", "/assistants/{assistant_id}"): OPEN,
    ("GET", "/assistants/{assistant_id}/graph"): Row((200, 404)),
    ("GET", "/assistants/{assistant_id}/schemas"): OPEN,
    ("GET", "/ok"): OPEN,
    ("GET", "/ready"): OPEN,
    ("GET", "/metrics"): OPEN,
    ("GET", "/info"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/"): OPEN,
    ("GET", "/console"): OPEN,
    ("GET", "/console/batches"): OPEN,
    ("GET", "/console/batches/{batch_id}"): UNKNOWN,
    ("GET", "/console/search"): Row((200,), query={"q": "{thread_id}"}),
    ("GET", "/console/threads/{thread_id}"): Row(own=(NAMED,)),
    ("GET", "/docs"): OPEN,
    ("GET", "/docs/openapi.json"): OPEN,
    ("GET", "/docs/{name}"): UNKNOWN,
    ("POST", "/keys"): Row(MADE, {"name": "eve", "scopes": ["threads:read"]}),
    ("GET", "/keys"): Row((200,)),
    ("POST", "/keys/{key_id}/revoke"): UNKNOWN,
    ("GET", "/auth/login"): SIGN_IN,
    ("POST", "/auth/login"): SIGN_IN,
    ("POST", "/auth/logout"): SIGN_IN,
    ("GET", "/auth/begin"): SIGN_IN,
    ("GET", "/auth/callback"): SIGN_IN,
    ("GET", "/auth/ticket/{ticket}"): SIGN_IN,
    ("POST", "/auth/ticket/{ticket}"): SIGN_IN,
    ("GET", "/answer/{token}"): Row((200, 303, 404, 410)),
    ("POST", "/answer/{token}"): Row((400, 403, 404, 410, 415, 422)),
}  # fmt: skip


@pytest.fixture(scope="module", name="gateway")
async def crossed_gateway(mongodb_uri: str, kafka_bootstrap: str, opensearch_url: str) -> AsyncIterator[Waiting]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    settings = {
        "link_secret": "of these tests and of nothing else",
        "public_url": "http://127.0.0.1:1",
        "opensearch_url": opensearch_url,
        "gateway_heartbeat_s": 0.2,
        "auth": "none",  # else the first key closes the gateway
    }
    graphs = [{"_id": GRAPH, "version": "v1", "nodes": ["a"], "input_schema": {"type": "object"}, "updated_at": now()}]
    async with open_waiting(
        fresh_database(mongodb_uri, "crossing"), kafka_bootstrap, graphs=graphs, **settings
    ) as opened:
        yield opened
        await opened.drop_database()


@pytest.fixture(scope="module", name="owned")
async def owned_things(gateway: Waiting, opensearch_url: str) -> Owned:
    opensearch = OpenSearch(opensearch_url)
    await index(opensearch, opensearch_url)
    await opensearch.close()
    return await build(gateway)


def test_every_route_is_tried(gateway: Waiting) -> None:
    assert set(TABLE) == gateway.routes, "a route without a row here, or a row without a route"


def filled(template: Any, ids: Mapping[str, str]) -> Any:
    """A body or path with ids in the places that are named for them."""
    if isinstance(template, str):
        return template.format_map(ids) if "{" in template else template
    if isinstance(template, Mapping):
        return {name: filled(value, ids) for name, value in template.items()}
    return [filled(one, ids) for one in template] if isinstance(template, list) else template


def _without(text: str, known: Iterable[str]) -> str:
    """An answer without what the request itself named."""
    for id_ in sorted(known, key=len, reverse=True):
        text = text.replace(id_, "")
    return text


THIEVES: Final = [
    pytest.param("beta", NAMED, id="the same id"),
    pytest.param("beta", stored_id(OWNER, NAMED), id="the stored id"),
    pytest.param("default", stored_id(OWNER, NAMED), id="the stored id, unqualified tenant"),
]


@pytest.mark.parametrize(("tenant", "thread_id"), THIEVES)
@pytest.mark.parametrize(("method", "path"), TABLE, ids=str)
async def test_nothing_of_another_tenant_is_reached(
    gateway: Waiting, owned: Owned, method: str, path: str, tenant: str, thread_id: str
) -> None:
    row, ids = TABLE[method, path], {**owned.ids, "thread_id": thread_id}
    before = await snapshot(gateway)
    async with gateway.http.stream(
        method,
        filled(path, ids),
        headers={"Perdure-Tenant": tenant},
        json=filled(row.body, ids),
        params=filled(row.query, ids),
    ) as response:
        ends = response.status_code >= 300 or not path.endswith(("/wait", "/stream"))
        text = (await response.aread()).decode() if ends else await anext(response.aiter_text())
    refused = (422,) if "~" in thread_id else ()  # no client may choose such an id
    assert response.status_code in (*row.statuses, *refused), text
    assert owned.leaks(_without(text, (*ids.values(), *row.own))) == []
    if row.empty is not None and response.status_code == 200:
        answer = response.json() if not row.empty else response.json()[row.empty]
        assert not answer
    assert await snapshot(gateway) == before


async def test_the_owner_sees_it_all(gateway: Waiting, owned: Owned) -> None:
    """Without this, a gateway that shows nobody anything would pass."""
    headers = {"Perdure-Tenant": OWNER}
    for method, path in TABLE:
        if (
            method == "GET"
            and "{" in path
            and not path.endswith(("join", "stream", "{checkpoint_id}", "{name}", "{token}", "{ticket}"))
        ):
            response = await gateway.http.get(filled(path, owned.ids), headers=headers)
            assert response.status_code == 200 or path.endswith(("/graph", "/results")), (path, response.text)
            assert f"/threads/{OWNER}~" not in response.text or "/console/" in path, path
            assert f'thread_id":"{OWNER}~' not in response.text, path
    for path in ("/search", "/stuck?since=1d", "/approvals", "/dead-letters", "/deliveries", "/schedules"):
        named = {"thread_id": NAMED} if "?" not in path else None
        found = await gateway.http.get(path, headers=headers, params=named)
        items = found.json()
        if path != "/schedules":
            items = items.get("items") or items.get("approvals")
        assert items, path
        assert {one["thread_id"] for one in items} == {NAMED}, path


async def test_two_tenants_have_threads_of_the_same_id(gateway: Waiting) -> None:
    made = {}
    for tenant in ("default", "beta", "gamma"):
        response = await gateway.http.post(
            "/threads", json={"thread_id": "invoice:7", "metadata": {"of": tenant}}, headers={"Perdure-Tenant": tenant}
        )
        assert response.status_code == 200, response.text
        assert response.headers["Location"] == "/threads/invoice:7"
        made[tenant] = response.json()["thread_id"]
    assert set(made.values()) == {"invoice:7"}
    for tenant in made:
        headers = {"Perdure-Tenant": tenant}
        again = await gateway.http.post("/threads", json={"thread_id": "invoice:7"}, headers=headers)
        assert again.status_code == 409, "within a tenant an id is taken once"
        shown = (await gateway.http.get("/threads/invoice:7", headers=headers)).json()
        assert shown["metadata"] == {"of": tenant}
        run = await gateway.http.post(
            "/threads/invoice:7/runs", json={"assistant_id": GRAPH, "input": {}}, headers=headers
        )
        assert run.headers["Location"] == f"/threads/invoice:7/runs/{run.json()['run_id']}"
        assert run.json()["thread_id"] == "invoice:7"
    stored = {run["thread_id"] async for run in gateway.database.runs.find({"tenant": {"$in": [*made]}})}
    assert {"invoice:7", "beta~invoice:7", "gamma~invoice:7"} <= stored


@pytest.mark.parametrize("path", ["/threads/a~b/runs", "/threads/beta~a~b/runs"])
async def test_no_client_chooses_an_id_with_a_tilde(gateway: Waiting, path: str) -> None:
    wanted = {"assistant_id": GRAPH, "input": {}, "if_not_exists": "create"}
    response = await gateway.http.post(path, json=wanted, headers={"Perdure-Tenant": "beta"})
    assert response.status_code == 422, response.text
