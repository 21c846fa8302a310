"""Who is stuck: the marks of the database now, the index for any time, over HTTP and on the command line."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from perdure.chassis.opensearch import OpenSearch
from perdure.cli.__main__ import main
from perdure.indexer.bulk import state_item
from perdure.indexer.domain import document_of
from perdure.indexer.redaction import Redaction
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.writer import Writer
from perdure.schemas.events import ErrorInfo, Event, RunFailed, StuckCode, ThreadRecovered, ThreadStuck
from perdure.schemas.index import STATES
from perdure.schemas.stuck_http import StuckPage

A_WHILE_AGO = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=10)
TENANT = f"stuck-{uuid.uuid4().hex[:8]}"
THREADS = ("late", "later", "parked", "parallel")


def mark(code: str, nodes: list[str], at: datetime, run_id: str) -> dict[str, Any]:
    return {
        "cause": f"{code}:{run_id}",
        "code": code,
        "reason": f"{', '.join(nodes)} stands still; look at it",
        "node": nodes[0] if len(nodes) == 1 else None,
        "nodes": nodes,
        "since": at - timedelta(minutes=40),
        "expected_by": at - timedelta(minutes=38),
        "run_id": run_id,
        "after": 7,
        "wait_id": None,
        "noticed_at": at,
    }


@pytest.fixture(scope="module")
async def marked(waiting: Any) -> Any:
    """Four marked threads of one tenant, one of another, and one that is not marked."""
    threads = [
        ("late", "crm", "overdue", ["Login"], TENANT, {}),
        ("later", "shop", "overdue", ["Login"], TENANT, {"crash_log": [{"at": A_WHILE_AGO, "worker": "w"}]}),
        (
            "parked",
            "crm",
            "poison",
            ["Pay"],
            TENANT,
            {"error": {"type": "perdure.poison", "message": "it kills", "node": "Pay"}},
        ),
        ("parallel", "crm", "overdue", ["Login", "Fetch"], TENANT, {}),
        ("elsewhere", "crm", "overdue", ["Login"], "another", {}),
    ]
    for n, (thread, graph, code, nodes, tenant, more) in enumerate(threads):
        run = {
            "_id": f"{thread}-run",
            "tenant": tenant,
            "thread_id": thread,
            "graph_id": graph,
            "status": "running",
            **more,
        }
        await waiting.database.runs.insert_one(run)
        await waiting.database.threads.insert_one(
            {
                "_id": thread,
                "tenant": tenant,
                "stuck": mark(code, nodes, A_WHILE_AGO + timedelta(minutes=n), run["_id"]),
            }
        )
    await waiting.database.threads.insert_one({"_id": "well", "tenant": TENANT})
    return waiting


async def listed(marked: Any, **params: str) -> StuckPage:
    answer = await marked.http.get("/stuck", params=params, headers={"Perdure-Tenant": TENANT})
    assert answer.status_code == 200, answer.text
    return StuckPage.model_validate(answer.json())


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, ["parallel", "parked", "later", "late"]),
        ({"node": "Login"}, ["parallel", "later", "late"]),
        ({"node": "Login", "graph": "crm"}, ["parallel", "late"]),
        ({"node": "Fetch,Pay"}, ["parallel", "parked"]),
        ({"code": "poison"}, ["parked"]),
        ({"graph": "shop"}, ["later"]),
        ({"thread_id": "late"}, ["late"]),
        ({"graph": "nothing"}, []),
    ],
)
async def test_who_is_stuck_now(marked: Any, params: dict[str, str], expected: list[str]) -> None:
    found = await listed(marked, **params)
    assert [one.thread_id for one in found.items] == expected
    assert found.total == len(expected)
    assert found.cursor is None


async def test_what_is_said_of_it(marked: Any) -> None:
    found = {one.thread_id: one for one in (await listed(marked)).items}
    late, parked = found["late"], found["parked"]
    assert (late.graph, late.node, late.nodes, late.code) == ("crm", "Login", ["Login"], "overdue")
    assert (late.since, late.noticed_at) == (A_WHILE_AGO - timedelta(minutes=40), A_WHILE_AGO)
    assert late.expected_by == A_WHILE_AGO - timedelta(minutes=38)
    assert late.recovered_at is late.last_error is None
    assert parked.last_error is not None
    assert (parked.last_error.type, parked.last_error.node) == ("perdure.poison", "Pay")
    crashed = found["later"].last_error
    assert crashed is not None
    assert (crashed.type, crashed.message, crashed.at) == ("perdure.crash", "its worker died", A_WHILE_AGO)
    assert found["parallel"].node is None


async def test_pages(marked: Any) -> None:
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await listed(marked, limit="3", **({"cursor": cursor} if cursor else {}))
        seen += [one.thread_id for one in page.items]
        assert page.total == 4
        cursor = page.cursor
    assert seen == ["parallel", "parked", "later", "late"]


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"nodes": "x"}, "query:nodes"),
        ({"code": "slow"}, "query:code"),
        ({"limit": "0"}, "query:limit"),
        ({"cursor": "x"}, "query:cursor"),
        ({"since": "someday"}, "query:since"),
        ({"since": "today", "until": "yesterday"}, "query:until"),
    ],
)
async def test_wrong_parameters(marked: Any, problem_of: Any, params: dict[str, str], pointer: str) -> None:
    problem = problem_of(await marked.http.get("/stuck", params=params), 422, "invalid-request")
    assert problem.errors[0].pointer == pointer


async def test_history_needs_the_index(marked: Any, problem_of: Any) -> None:
    problem = problem_of(await marked.http.get("/stuck", params={"since": "yesterday"}), 503, "search-unavailable")
    assert "the database says who is stuck now" in problem.detail


def event(kind: type[Event], thread: str, seq: int, at: datetime, **fields: Any) -> Event:
    shared = {
        "tenant": fields.pop("tenant", TENANT), "thread_id": thread, "run_id": f"{thread}-run", "graph_id": "crm",
        "assistant_id": "crm", "seq": seq, "epoch": 1, "occurred_at": at,
    }  # fmt: skip
    return kind.model_validate(shared | fields)


def standstill(thread: str, seq: int, at: datetime, node: str = "Login", **fields: Any) -> Event:
    told = {
        "code": StuckCode.OVERDUE,
        "reason": "too long",
        "next": (node,),
        "since": at - timedelta(minutes=40),
        "note": 1,
    }
    return event(ThreadStuck, thread, seq, at, **told | fields)


def recovery(thread: str, seq: int, at: datetime) -> Event:
    fields = {"note": 2, "code": StuckCode.OVERDUE, "stuck_since": at, "status": "running"}
    return event(ThreadRecovered, thread, seq, at, **fields)


def failure(thread: str, seq: int, at: datetime, message: str) -> Event:
    return event(RunFailed, thread, seq, at, error=ErrorInfo(type="TimeoutError", message=message, node="Login"))


def history(today: datetime) -> list[Event]:
    yesterday = today - timedelta(hours=10)
    return [
        failure("hung", 1, yesterday - timedelta(days=1), "the page did not answer"),
        standstill("hung", 4, yesterday + timedelta(hours=1), expected_by=yesterday),
        recovery("hung", 4, yesterday + timedelta(hours=2)),
        failure("hung", 9, yesterday + timedelta(hours=3), "later"),
        standstill("hangs", 1, yesterday),
        standstill("twice", 1, today - timedelta(days=3)),
        recovery("twice", 1, today - timedelta(days=2)),
        standstill("twice", 5, yesterday + timedelta(minutes=1)),
        standstill("other node", 1, yesterday, node="Checkout"),
        standstill("just now", 1, today + timedelta(milliseconds=1)),
        standstill("killer", 1, yesterday + timedelta(minutes=2), code=StuckCode.POISON),
        standstill("not mine", 1, yesterday, tenant="another"),
    ]


@pytest.fixture(scope="module")
async def historian(
    open_waiting: Any, mongodb_uri: str, kafka_bootstrap: str, opensearch_url: str, today: datetime
) -> AsyncIterator[Any]:
    """A gateway with an index that holds ``history``."""
    client = OpenSearch(opensearch_url, retries=1)
    writer = Writer(client, IndexerSettings(opensearch_url=opensearch_url))
    await writer.open()
    documents = [document_of(one, Redaction(), 8192) for one in history(today)]
    assert await writer.write([state_item(document) for document in documents]) == []
    await client.request("POST", f"/{STATES}/_refresh")
    uri = mongodb_uri.rsplit("/", 1)[0] + f"/stuck_{uuid.uuid4().hex}"
    async with open_waiting(uri, kafka_bootstrap, opensearch_url=opensearch_url) as opened:
        yield opened
        await opened.database.client.drop_database(opened.database.name)
    await client.close()


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"node": "Login", "since": "yesterday", "until": "today"}, ["hung", "killer", "twice", "hangs"]),
        ({"since": "yesterday", "until": "today"}, ["hung", "killer", "twice", "hangs", "other node"]),
        ({"since": "yesterday", "until": "today", "code": "poison"}, ["killer"]),
        ({"since": "today"}, ["just now"]),
        ({"until": "yesterday"}, ["twice"]),
        ({"since": "yesterday", "graph": "shop"}, []),
        ({"since": "yesterday", "until": "today", "thread_id": "hangs"}, ["hangs"]),
    ],
)
async def test_who_got_stuck(historian: Any, params: dict[str, str], expected: list[str]) -> None:
    found = await listed(historian, **params)
    assert [one.thread_id for one in found.items] == expected
    assert found.total == len(expected)


async def test_how_it_went_on(historian: Any, today: datetime) -> None:
    yesterday = today - timedelta(hours=10)
    found = {one.thread_id: one for one in (await listed(historian, since="yesterday", until="today")).items}
    hung, hangs = found["hung"], found["hangs"]
    assert (hung.node, hung.expected_by, hung.since) == ("Login", yesterday, yesterday + timedelta(minutes=20))
    assert hung.recovered_at == yesterday + timedelta(hours=2)
    assert hung.last_error is not None
    assert (hung.last_error.message, hung.last_error.node) == ("the page did not answer", "Login")
    assert hangs.recovered_at is hangs.last_error is None
    assert found["twice"].recovered_at is None, "the recovery is of the standstill before"


async def test_pages_of_history(historian: Any) -> None:
    first = await listed(historian, since="yesterday", until="today", limit="2")
    assert first.cursor is not None
    second = await listed(historian, since="yesterday", until="today", limit="2", cursor=first.cursor)
    assert [one.thread_id for one in (*first.items, *second.items)] == ["hung", "killer", "twice", "hangs"]


async def test_the_command(marked: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    await marked.database.threads.update_one({"_id": "late"}, {"$set": {"tenant": "default"}})
    await marked.database.runs.update_one({"_id": "late-run"}, {"$set": {"tenant": "default"}})

    async def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["perdure", "stuck", "--url", marked.url, *arguments])
        with capture_logs(), pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main)
        assert not ended.value.code
        return capsys.readouterr().out

    table = await run("--node", "Login")
    assert "late" in table
    assert "Login stands still; look at it" in table
    assert [one["thread_id"] for one in json.loads(await run("--json"))["items"]] == ["late"]
    assert "No agent is stuck." in await run("--node", "Nowhere")
