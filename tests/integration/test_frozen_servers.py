"""A server that hangs (SIGSTOP, which keeps its connections) costs a page, a search and a probe little, and only while it hangs."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.cli.__main__ import main
from perdure.local.stack import Stack
from perdure.registry.runs import new_id
from perdure.schemas import topics

PAGE_S = 1.0
"""What is promised of a page, in seconds."""
NOTICED_S = 4.0
"""Within three seconds, and one more for a busy machine."""
FIRST_SEARCH_S = 3.0
"""1.8 seconds, and more for a busy machine."""
BACK_S = 10.0


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    started = Stack(ephemeral=True)
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
async def gateway(open_waiting: Any, servers: Stack) -> AsyncIterator[Any]:
    addresses = servers.environment()
    kafka = addresses["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]
    await TopicAdmin(kafka).apply(topics.ALL)
    uri = addresses["PERDURE_MONGODB_URI"].rsplit("/", 1)[0] + f"/frozen_{uuid4().hex[:8]}"
    async with open_waiting(uri, kafka, opensearch_url=addresses["PERDURE_OPENSEARCH_URL"]) as opened:
        await until_reported(opened, "opensearch", holds=True)
        yield opened


@asynccontextmanager
async def frozen(servers: Stack, name: str) -> AsyncIterator[None]:
    servers.pause(name)
    try:
        yield
    finally:
        servers.resume(name)


async def until_reported(gateway: Any, name: str, *, holds: bool, within_s: float = BACK_S) -> float:
    """The seconds that it took until the gateway reports a server as there or away."""
    started = time.monotonic()
    what = f"the gateway reports {name} as {'there' if holds else 'away'}"
    await until(lambda: reported(gateway, name, holds=holds), what, within_s)
    return time.monotonic() - started


async def reported(gateway: Any, name: str, *, holds: bool) -> bool:
    body = (await gateway.http.get("/ready")).json()
    return bool({**body["conditions"], **body["reported"]}[name] is holds)


async def timed(gateway: Any, path: str) -> tuple[httpx.Response, float]:
    started = time.monotonic()
    answer = await gateway.http.get(path)
    return answer, time.monotonic() - started


async def thread_with_history(gateway: Any) -> str:
    """A thread with what agent-step stores of one run: started, two checkpoints, ended."""
    thread_id = await gateway.thread()
    run_id = new_id()
    steps: list[dict[str, Any]] = [
        {"kind": "e", "event": "started", "ev": {"worker_id": "w", "next": []}},
        {"kind": "c", "checkpoint_id": "c1", "ns": "", "step": 0, "ev": {"nodes": [], "next": ["browse"]}},
        {"kind": "c", "checkpoint_id": "c2", "ns": "", "step": 1, "ev": {"nodes": ["browse"], "next": []}},
        {"kind": "e", "event": "success", "ev": {}},
    ]
    await gateway.database.notebook.insert_many(
        {
            "_id": f"{thread_id}:{seq}",
            "thread": thread_id,
            "run": run_id,
            "epoch": 1,
            "seq": seq,
            "at": now() - timedelta(seconds=9 - seq),
            **step,
        }
        for seq, step in enumerate(steps, 1)
    )
    return str(thread_id)


async def pages(gateway: Any) -> tuple[str, ...]:
    thread_id = await thread_with_history(gateway)
    batch_id = new_id()
    return (
        "/console",
        "/console/batches",
        f"/console/batches/{batch_id}",
        "/console/search?q=whales",
        f"/console/threads/{thread_id}",
    )


@pytest.mark.parametrize("server", ["opensearch", "mongodb", "kafka"])
async def test_each_page_is_there_within_a_second(gateway: Any, servers: Stack, server: str) -> None:
    shown = await pages(gateway)
    await asyncio.gather(*(gateway.http.get(path) for path in shown))
    async with frozen(servers, server):
        first = {path: (await timed(gateway, path))[1] for path in shown}
        await until_reported(gateway, server, holds=False, within_s=5)
        then = {path: (await timed(gateway, path))[1] for path in shown}
    back_s = await until_reported(gateway, server, holds=True)
    print(f"{server}: first {first}, then {then}, back after {back_s:.2f} s")
    assert max(first.values()) < PAGE_S, first
    assert max(then.values()) < PAGE_S, then
    assert [(await gateway.http.get(path)).status_code for path in shown] == [200, 200, 404, 200, 200]


@pytest.mark.parametrize("server", ["opensearch", "kafka"])
async def test_a_server_that_hangs_is_noticed_within_seconds(gateway: Any, servers: Stack, server: str) -> None:
    async with frozen(servers, server):
        assert await until_reported(gateway, server, holds=False, within_s=NOTICED_S) < NOTICED_S
        assert (await gateway.http.get("/ready")).status_code == 200, "it serves without that"
        page = (await gateway.http.get("/console")).text
        assert ">down</span>" in page
    await until_reported(gateway, server, holds=True)
    assert ">down</span>" not in (await gateway.http.get("/console")).text


async def test_a_search_says_at_once_that_the_index_is_away(gateway: Any, servers: Stack, problem_of: Any) -> None:
    async with frozen(servers, "opensearch"):
        first, first_s = await timed(gateway, "/search?q=whales")
        then, then_s = await timed(gateway, "/search?q=whales")
        history, history_s = await timed(gateway, "/stuck?since=today")
    for answer in (first, then, history):
        problem = problem_of(answer, 503, "search-unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert problem.detail.startswith("The search index is away: ")
        assert problem.detail.endswith(".")
        assert ": ." not in problem.detail
    assert first_s < FIRST_SEARCH_S
    assert max(then_s, history_s) < 0.3, "the circuit is open"
    await until(
        lambda: gateway.http.get("/search?q=whales"),
        "the search answers again",
        BACK_S,
        holds=lambda answer: answer.status_code == 200,
    )


async def test_a_search_under_way_ends_when_the_server_freezes(gateway: Any, servers: Stack, problem_of: Any) -> None:
    """Also one that would wait for ``min_seq`` for seconds."""
    asking = asyncio.ensure_future(gateway.http.get(f"/search?min_seq={new_id()}:5"))
    for _ in range(3):  # answered after that request was taken
        await gateway.http.get("/ok")
    assert not asking.done()
    async with frozen(servers, "opensearch"):
        started = time.monotonic()
        answer = await asking
        assert time.monotonic() - started < FIRST_SEARCH_S
        problem_of(answer, 503, "search-unavailable")
    await until_reported(gateway, "opensearch", holds=True)


async def test_a_threads_states_come_from_the_database_while_search_is_away(gateway: Any, servers: Stack) -> None:
    thread_id = await thread_with_history(gateway)
    async with frozen(servers, "opensearch"):
        page = (await gateway.http.get(f"/console/threads/{thread_id}")).text
    assert "Search is away" in page or "Search has not answered" in page
    assert "States from the database" in page
    for shown in ("run.started", "checkpoint.saved", "run.succeeded", "browse", f"/threads/{thread_id}/state/c2"):
        assert shown in page
    assert page.index("run.succeeded") < page.index("run.started"), "newest first"
    older = (await gateway.http.get(f"/console/threads/{thread_id}?before=3")).text
    assert "run.succeeded" not in older
    assert "run.started" in older
    other = await gateway.http.get(f"/console/threads/{thread_id}", headers={"Perdure-Tenant": "others"})
    assert other.status_code in (404, 503)
    assert "browse" not in other.text
    await until_reported(gateway, "opensearch", holds=True)


async def test_the_command_line_says_so_in_one_sentence(
    gateway: Any, servers: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["perdure", "threads", "list", "--url", gateway.url])
    async with frozen(servers, "opensearch"):
        started = time.monotonic()
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main)
        took_s = time.monotonic() - started
    assert ended.value.code == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "The search index is away: no answer within 0.4 seconds. It is asked again every 2 seconds." in said
    assert said.endswith("becomes searchable when the index is back.")
    assert took_s < 3, "the answer of the gateway, and the imports"
    await until_reported(gateway, "opensearch", holds=True)
