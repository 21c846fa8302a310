"""Search on a real OpenSearch: seeded states, exactly the right answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from perdure.chassis.errors import UnavailableError
from perdure.chassis.opensearch import OpenSearch
from perdure.gateway.search.query import SearchBehindError, SearchProblem, search
from perdure.indexer.bulk import newest_item, state_item
from perdure.indexer.domain import document_of, newest
from perdure.indexer.redaction import Redaction
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.writer import Writer
from perdure.local.resources import free_port
from perdure.schemas.events import (
    CheckpointSaved,
    ErrorInfo,
    Event,
    InterruptInfo,
    RunFailed,
    RunInterrupted,
    StuckCode,
    ThreadRecovered,
    ThreadStuck,
)
from perdure.schemas.index import STATES, THREADS

TENANT = f"search-{os.environ.get('PYTEST_XDIST_TESTRUNUID', uuid4().hex)[:8]}"  # part of the names of tests
OTHER = f"{TENANT}-other"


def shared(thread: str, seq: int, at: datetime, tenant: str = TENANT, graph: str = "crm") -> dict[str, Any]:
    return {
        "tenant": tenant,
        "thread_id": thread,
        "run_id": f"{thread}-run",
        "graph_id": graph,
        "assistant_id": graph,
        "seq": seq,
        "epoch": 1,
        "occurred_at": at,
        "metadata": {"customer": {"id": thread}, "tier": 3},
    }


def saved(thread: str, seq: int, at: datetime, text: str = "", **more: Any) -> CheckpointSaved:
    fields = {"checkpoint_id": f"c{seq}", "step": seq, "source": "loop", "nodes": ("browse",), "next": ("Login",)}
    place = {k: more.pop(k) for k in ("tenant", "graph") if k in more}
    return CheckpointSaved(**shared(thread, seq, at, **place), **(fields | more), text=f"$.log[{seq}]\t{text}")


def failed(thread: str, seq: int, at: datetime, node: str, **place: str) -> RunFailed:
    error = ErrorInfo(type="TimeoutError", message="the page did not answer", node=node)
    return RunFailed(**shared(thread, seq, at, **place), error=error, checkpoint_id=f"c{seq}")


def stuck(thread: str, seq: int, at: datetime, node: str, **place: str) -> ThreadStuck:
    return ThreadStuck(
        **shared(thread, seq, at, **place),
        note=1,
        code=StuckCode.OVERDUE,
        reason=f"node {node} has run for 40 min; 2 min had been expected",
        next=(node,),
        since=at - timedelta(minutes=40),
        expected_by=at - timedelta(minutes=38),
    )


def recovered(thread: str, seq: int, at: datetime) -> ThreadRecovered:
    fields = shared(thread, seq, at)
    return ThreadRecovered(**fields, note=2, code=StuckCode.OVERDUE, stuck_since=at, status="running", next=("Login",))


LATE = datetime(2020, 1, 1, tzinfo=UTC)
STUCK_TENANT = f"{TENANT}-stuck"


def stuck_history(today: datetime) -> list[Event]:
    yesterday = today - timedelta(hours=10)
    return [
        event.model_copy(update={"tenant": STUCK_TENANT})
        for event in (
            saved("hangs", 1, yesterday - timedelta(minutes=40), expected_by=yesterday - timedelta(minutes=38)),
            stuck("hangs", 1, yesterday, "Login"),
            saved("hung", 1, yesterday, expected_by=LATE),
            stuck("hung", 1, yesterday + timedelta(hours=1), "Login"),
            recovered("hung", 1, yesterday + timedelta(hours=2)),
            saved("went-on", 1, yesterday),
            stuck("went-on", 1, yesterday, "Login"),
            saved("went-on", 2, yesterday + timedelta(hours=3)),
            stuck("elsewhere-stuck", 1, yesterday, "Checkout"),
            stuck("stuck-today", 1, today + timedelta(seconds=1), "Login"),
        )
    ]


def history(today: datetime) -> list[Event]:
    yesterday = today - timedelta(hours=10)
    return [
        *stuck_history(today),
        saved("stuck", 1, yesterday, "opened the <shop> page"),
        failed("stuck", 2, yesterday, "Login"),
        saved("waiting", 1, yesterday, "filled in the form"),
        RunInterrupted(
            **shared("waiting", 2, yesterday + timedelta(hours=1)),
            next=("Login",),
            interrupts=(InterruptInfo(id="i1", value={"question": "Which password?"}),),
        ),
        failed("elsewhere", 1, yesterday, "Checkout"),
        failed("today", 1, today + timedelta(seconds=1), "Login"),
        failed("before", 1, today - timedelta(days=1, seconds=1), "Login"),
        failed("foreign", 1, yesterday, "Login", tenant=OTHER),
        saved("fine", 1, yesterday, "opened the shop page and bought a shop", graph="billing"),
    ]


@pytest.fixture(scope="module")
async def client(opensearch_url: str, today: datetime) -> AsyncIterator[OpenSearch]:
    opensearch = OpenSearch(opensearch_url)
    writer = Writer(opensearch, IndexerSettings(opensearch_url=opensearch_url))
    await writer.open()
    documents = [document_of(event, Redaction(), 1000) for event in history(today)]
    items = [state_item(d) for d in documents] + [newest_item(d) for d in newest(documents).values()]
    assert await writer.write(items) == []
    await opensearch.request("POST", f"/{STATES},{THREADS}/_refresh")
    yield opensearch
    await opensearch.close()


async def hits(client: OpenSearch, tenant: str = TENANT, **query: str) -> list[tuple[str, int]]:
    answer = await search(client, tenant, query)
    assert answer["total"] == len(answer["items"])
    return [(item["thread_id"], item["seq"]) for item in answer["items"]]


async def test_all_agents_that_got_stuck_at_login_yesterday(client: OpenSearch, today: datetime) -> None:
    query = {"node": "Login", "status": "stuck", "since": "yesterday", "until": "today"}
    assert await hits(client, STUCK_TENANT, **query) == [("hung", 1), ("hangs", 1), ("went-on", 1)]
    assert await hits(client, STUCK_TENANT, **query, scope="threads") == [("hangs", 1)], "the others went on"
    (item,) = (await search(client, STUCK_TENANT, query | {"scope": "threads"}))["items"]
    assert item["next"] == ["Login"]
    assert item["stuck"]["code"] == "overdue"
    assert "40 min" in item["stuck"]["reason"]
    assert item["stuck"]["since"].startswith((today - timedelta(hours=10, minutes=40)).isoformat()[:16])
    assert item["note"] == 1


async def test_what_should_have_gone_on_before(client: OpenSearch) -> None:
    assert await hits(client, STUCK_TENANT, expected_before="2020-01-02") == [("hung", 1)]
    late = {"expected_before": "now", "scope": "threads"}
    assert await hits(client, STUCK_TENANT, **late) == [("stuck-today", 1), ("elsewhere-stuck", 1), ("hangs", 1)]
    assert await hits(client, STUCK_TENANT, q="40 min expected", status="stuck", node="Checkout") == [
        ("elsewhere-stuck", 1)
    ]


async def test_all_agents_that_failed_or_waited_at_login_yesterday(client: OpenSearch) -> None:
    query = {"node": "Login", "status": "error,interrupted", "since": "yesterday", "until": "today"}
    assert await hits(client, **query) == [("waiting", 2), ("stuck", 2)]
    assert await hits(client, **query, scope="threads") == [("waiting", 2), ("stuck", 2)]
    assert await hits(client, OTHER, **query) == [("foreign", 1)]
    assert await hits(client, "nobody", **query) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"q": "shop"}, [("fine", 1), ("stuck", 1)]),
        ({"q": "shop -bought"}, [("stuck", 1)]),
        ({"q": '"shop page"'}, [("fine", 1), ("stuck", 1)]),
        ({"q": '"page shop"'}, []),
        ({"q": "opened nothing"}, []),
        ({"q": "passw*"}, [("waiting", 2)]),
        ({"q": "did not answer", "graph": "crm", "thread_id": "stuck"}, [("stuck", 2)]),
        ({"graph": "billing"}, [("fine", 1)]),
        ({"run_id": "waiting-run"}, [("waiting", 2), ("waiting", 1)]),
        ({"thread_id": "stuck,fine", "status": "running"}, [("fine", 1), ("stuck", 1)]),
        ({"node": "browse", "thread_id": "waiting"}, [("waiting", 1)]),
        ({"metadata.customer.id": "today"}, [("today", 1)]),
        ({"metadata.tier": "4"}, []),
        ({"until": "today", "since": "2d", "node": "Checkout"}, [("elsewhere", 1)]),
        ({"q": "node:browse shop -graph:billing"}, [("stuck", 1)]),
        ({"q": 'bought | error:"did not answer" thread:stuck'}, [("fine", 1), ("stuck", 2)]),
        ({"q": "wait:* scope:threads"}, [("waiting", 2)]),
        ({"q": "(thread:stuck OR thread:fine) step:1.. -bought"}, [("stuck", 1)]),
        ({"q": "metadata.customer.id:waiting status:interrupted"}, [("waiting", 2)]),
        ({"q": f"metadata.tenant:{OTHER} OR thread:foreign"}, []),
    ],
    ids=str,
)
async def test_exactly_what_fits(client: OpenSearch, query: dict[str, str], expected: list[tuple[str, int]]) -> None:
    assert await hits(client, **query) == expected


@pytest.mark.parametrize("by", ["node", "graph", "status", "day"])
async def test_each_group_is_as_large_as_the_search_for_it(client: OpenSearch, by: str) -> None:
    groups = (await search(client, TENANT, {"by": by}))["groups"]
    assert len(groups) > 1
    for group in groups:
        condition = f'{"at" if by == "day" else by}:"{group["key"]}"'
        assert (await search(client, TENANT, {"q": condition}))["total"] == group["count"]


async def test_what_a_client_wrote_is_waited_for(client: OpenSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    late = saved("late", 7, datetime.now(UTC), tenant=f"{TENANT}-late")
    writer = Writer(client, IndexerSettings())
    await writer.open()
    asked = asyncio.ensure_future(search(client, late.tenant, {"min_seq": "late:7"}))
    await asyncio.sleep(0.3)
    assert not asked.done()
    assert await writer.write([state_item(document_of(late, Redaction(), 1000))]) == []
    assert [item["seq"] for item in (await asked)["items"]] == [7]
    monkeypatch.setattr("perdure.gateway.search.query.MIN_SEQ_WAIT_S", 0.3)
    with pytest.raises(SearchBehindError, match="up to 8"):
        await search(client, late.tenant, {"min_seq": "late:8"})
    with pytest.raises(SearchBehindError):
        await search(client, TENANT, {"min_seq": "late:7"})


async def test_an_item_says_what_a_client_needs(client: OpenSearch) -> None:
    (item,) = (await search(client, TENANT, {"q": "password"}))["items"]
    assert item["wait"] == {"ids": ["i1"], "text": "Which password?"}
    assert item["highlights"] == {"wait": ["Which <em>password</em>?"]}
    assert item["next"] == ["Login"]
    assert item["metadata"] == {"customer": {"id": "waiting"}, "tier": 3}
    (item,) = (await search(client, TENANT, {"q": "shop", "graph": "crm"}))["items"]
    assert item["highlights"] == {"text": ["opened the &lt;<em>shop</em>&gt; page"]}
    assert (item["checkpoint_id"], item["step"], item["status"], item["nodes"]) == ("c1", 1, "running", ["browse"])


async def test_pages_hold_everything_once(client: OpenSearch) -> None:
    seen: list[tuple[str, int]] = []
    query = {"limit": "3"}
    while True:
        answer = await search(client, TENANT, query)
        assert answer["total"] == 8
        seen += [(item["thread_id"], item["seq"]) for item in answer["items"]]
        if answer["cursor"] is None:
            break
        query["cursor"] = answer["cursor"]
    assert len(seen) == len(set(seen)) == 8
    with pytest.raises(SearchProblem, match="another query"):
        await search(client, TENANT, query | {"graph": "crm"})


async def test_pages_hold_what_was_there_once_while_more_comes(client: OpenSearch) -> None:
    tenant = f"{TENANT}-busy"
    writer = Writer(client, IndexerSettings())
    await writer.open()

    async def write(numbers: range) -> None:
        at = datetime.now(UTC)
        events = [saved(f"busy-{n}", 1, at - timedelta(seconds=n % 7), tenant=tenant) for n in numbers]
        assert await writer.write([state_item(document_of(one, Redaction(), 1000)) for one in events]) == []
        await client.request("POST", f"/{STATES}/_refresh")

    await write(range(100))
    seen: list[str] = []
    query, more = {"limit": "10"}, 100
    while True:
        answer = await search(client, tenant, query)
        seen += [item["thread_id"] for item in answer["items"]]
        if answer["cursor"] is None:
            break
        query["cursor"] = answer["cursor"]
        await write(range(more, more + 5))
        more += 5
    assert len(seen) == len(set(seen)), "nothing is there twice"
    assert {f"busy-{n}" for n in range(100)} <= set(seen), "nothing that was there is left out"


ATTACKS = [
    f"tenant:{OTHER}",
    f'tenant:"{OTHER}"',
    f"shop OR tenant:{OTHER}",
    f"(shop) | ({OTHER})",
    f"-tenant:{TENANT}",
    f"-(thread:stuck OR thread:waiting) {OTHER}",
    "*",
    "* OR *",
    "tenant:*",
    "thread:*",
    f"metadata.tenant:{OTHER}",
    f"graph:crm) OR (tenant:{OTHER}",
    f'") OR tenant:{OTHER} OR ("',
    "graph:other",
    "secret OR -secret",
]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("scope", ["states", "threads"])
async def test_no_search_shows_what_another_tenant_has(client: OpenSearch, attack: str, scope: str) -> None:
    try:
        answer = await search(client, TENANT, {"q": attack, "scope": scope, "limit": "100", "by": "graph"})
    except SearchProblem:
        return
    mine = {hit["_id"] for hit in await all_of(client, TENANT, scope)}
    theirs = await all_of(client, OTHER, scope)
    assert theirs, "there is something to be seen"
    shown = {f"{one['thread_id']}:{one['seq']}" if scope == "states" else one["thread_id"] for one in answer["items"]}
    assert shown <= mine
    assert answer["total"] <= len(mine)
    assert sum(group["count"] for group in answer["groups"]) <= len(mine)


async def all_of(client: OpenSearch, tenant: str, scope: str) -> list[dict[str, Any]]:
    """What the index has of a tenant."""
    body = {"query": {"term": {"tenant": tenant}}, "size": 1_000, "_source": False}
    alias = STATES if scope == "states" else THREADS
    hits: list[dict[str, Any]] = (await client.request("POST", f"/{alias}/_search", body))["hits"]["hits"]
    return hits


async def test_nobody_answers() -> None:
    away = OpenSearch(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UnavailableError, match="OpenSearch at http"):
        await search(away, TENANT, {})
    await away.close()
