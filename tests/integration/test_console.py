"""The console in a real browser without JavaScript, on a real database and index: what it shows, of whom, and what it survives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Browser, BrowserContext, Page
from tests.integration.browser_stage import SIZES, shoot

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.opensearch import OpenSearch
from perdure.chassis.payload import pack
from perdure.gateway.console.resource import marked
from perdure.indexer.bulk import newest_item, state_item
from perdure.indexer.domain import document_of, newest
from perdure.indexer.redaction import Redaction
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.writer import Writer
from perdure.registry.batch_progress import counted
from perdure.registry.batches import thread_id_of
from perdure.registry.runs import new_id
from perdure.schemas import topics
from perdure.schemas.batch_documents import item_key
from perdure.schemas.events import CheckpointSaved, ErrorInfo, Event, RunFailed
from perdure.schemas.index import STATES, THREADS
from perdure.schemas.thread_ids import shown_id, stored_id

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><b>bold</b> \u202egnp"
HIDDEN = "\\u{202e}gnp"
PAGES = ("/console", "/console/batches", "/console/search")


class Console:
    """A gateway with something to show, all of it of one tenant."""

    def __init__(self, gateway: Any, index: OpenSearch, writer: Writer) -> None:
        self.url = gateway.url
        self.http = gateway.http
        self.db = gateway.database
        self.tenant = f"console-{uuid4().hex[:8]}"
        self.index = index
        self._writer = writer

    async def thread(self, *texts: str, graph: str = "agent", error: ErrorInfo | None = None, **fields: Any) -> str:
        """A thread with a state for each text, in the index and in the database; ``fields`` are set in its document."""
        thread_id = stored_id(self.tenant, fields.pop("_id", None) or new_id())
        place: dict[str, Any] = {
            "tenant": self.tenant, "thread_id": thread_id, "run_id": f"{thread_id}-run", "graph_id": graph,
            "assistant_id": graph, "epoch": 1, "metadata": fields.get("metadata", {}), "occurred_at": now(),
        }  # fmt: skip
        events: list[Event] = [
            CheckpointSaved(
                **place, seq=seq, checkpoint_id=f"c{seq}", step=seq, source="loop", nodes=("browse",), next=("Login",),
                text=f"$.log[{seq}]\t{text}",
            )
            for seq, text in enumerate(texts, 1)
        ]  # fmt: skip
        if error is not None:
            events.append(RunFailed(**place, seq=len(texts) + 1, error=error, checkpoint_id=f"c{len(texts)}"))
        documents = [document_of(event, Redaction(), 1_000) for event in events]
        items = [*map(state_item, documents), *map(newest_item, newest(documents).values())]
        assert await self._writer.write(items) == []
        await self.index.request("POST", f"/{STATES},{THREADS}/_refresh")
        stored = {
            "_id": thread_id, "tenant": self.tenant, "created_at": now(), "updated_at": now(), "status": "idle",
            "metadata": {}, "graph_id": graph, "next": [], "error": error.model_dump() if error else None, **fields,
        }  # fmt: skip
        await self.db.threads.insert_one(stored)
        return shown_id(thread_id)

    async def stuck(self, reason: str, **fields: Any) -> str:
        mark = {
            "cause": "c", "code": "overdue", "reason": reason, "node": "Login", "nodes": ["Login"], "run_id": "r",
            "since": now() - timedelta(minutes=40), "expected_by": None, "after": 1, "wait_id": None,
            "noticed_at": now(),
        }  # fmt: skip
        return await self.thread("opened the page", stuck=mark, **fields)

    async def batch(self, total: int, succeeded: int, *failed: ErrorInfo, ref: str = "order-1", **fields: Any) -> str:
        batch_id = new_id()
        counts = counted({"waiting": total - succeeded - len(failed), "succeeded": succeeded, "failed": len(failed)})
        batch = {
            "_id": batch_id, "tenant": self.tenant, "graph_id": "agent", "assistant_id": "agent", "metadata": {},
            "defaults": pack({}).inline, "concurrency": 10, "max_attempts": 1, "failure_threshold": None,
            "status": "running", "pause_reason": None, "total": total, "counts": counts, "forgiven": 0, "reached": 0,
            "finished": 0, "samples": [], "outbox": [], "open": True, "created_at": now(), **fields,
        }  # fmt: skip
        await self.db.batches.insert_one(batch)
        for number, error in enumerate(failed, 1):
            item = {
                "_id": item_key(batch_id, number), "batch": batch_id, "number": number, "status": "failed", "ref": ref,
                "payload": pack({"input": {}}).inline, "attempt": 1, "started_at": now(), "error": error.model_dump(),
            }  # fmt: skip
            await self.db.batch_items.insert_one(item)
        return batch_id


@pytest.fixture(scope="module")
async def _index(opensearch_url: str) -> AsyncIterator[tuple[OpenSearch, Writer]]:
    client = OpenSearch(opensearch_url)
    writer = Writer(client, IndexerSettings(opensearch_url=opensearch_url))
    await writer.open()
    yield client, writer
    await client.close()


@pytest.fixture(scope="module")
async def _gateway(
    open_waiting: Any, mongodb_uri: str, kafka_bootstrap: str, opensearch_url: str
) -> AsyncIterator[Any]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    uri = f"{mongodb_uri.rsplit('/', 1)[0]}/console_{uuid4().hex[:8]}"
    async with open_waiting(uri, kafka_bootstrap, opensearch_url=opensearch_url) as gateway:
        yield gateway


@pytest.fixture
async def console(_gateway: Any, _index: tuple[OpenSearch, Writer]) -> Console:
    return Console(_gateway, *_index)


async def visitor(chromium: Browser, tenant: str, *, scripts: bool = False) -> BrowserContext:
    return await chromium.new_context(
        viewport=SIZES["phone"], java_script_enabled=scripts, extra_http_headers={"Perdure-Tenant": tenant}
    )


@pytest.fixture
async def page(chromium: Browser, console: Console) -> AsyncIterator[Page]:
    """A visitor on a phone whose browser runs no scripts."""
    context = await visitor(chromium, console.tenant)
    yield await context.new_page()
    await context.close()


async def figure(page: Page, name: str) -> str:
    """What stands under a name."""
    return await page.locator(f"dl.figures div:has(> dt:text-is('{name}')) dd").inner_text()


async def goes(page: Page, address: str, status: int = 200) -> str:
    """Open a page; its text. It fits the phone, and says how it is protected."""
    answer = await page.goto(address)
    assert answer is not None
    assert answer.status == status
    assert (await answer.all_headers())["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert await page.evaluate("document.documentElement.scrollWidth") <= SIZES["phone"]["width"]
    return await page.locator("main").inner_text()


async def test_an_operator_looks_around(console: Console, page: Page) -> None:
    stuck = await console.stuck("node Login has run for 40 min; 2 min had been expected")
    lost = ErrorInfo(type="TimeoutError", message="the shop did not answer", node="Login")
    batch_id = await console.batch(10_000, 2_500, lost, lost)
    await console.thread("went home", error=lost)

    await goes(page, console.url + "/")
    assert page.url == console.url + "/console", "the root leads there"
    assert [await figure(page, name) for name in ("all", "running", "error")] == ["2", "1", "1"]
    assert [await figure(page, name) for name in ("mongodb", "kafka", "opensearch")] == ["up"] * 3
    await shoot(page, "console")
    row = page.locator("tr", has_text="2,502 of 10,000")
    assert await row.locator("rect").nth(0).get_attribute("width") == "25.0"
    assert await page.locator("meta[http-equiv=refresh]").get_attribute("content") == "5"

    await page.get_by_role("link", name=stuck).click()
    text = await page.locator("main").inner_text()
    assert "2 min had been expected" in text
    assert "opened the page" in text
    await shoot(page, "console-thread")

    await goes(page, console.url + "/console")
    await row.get_by_role("link").click()
    text = await page.locator("main").inner_text()
    assert "2,502 of 10,000 have ended" in text
    assert "TimeoutError: the shop did not answer" in text
    assert [await figure(page, name) for name in ("waiting", "succeeded", "failed")] == ["7,498", "2,500", "2"]
    assert (
        await page.get_by_role("link", name="2,502 as NDJSON").get_attribute("href") == f"/batches/{batch_id}/results"
    )
    links = page.locator("tbody a")
    batch = await console.db.batches.find_one({"_id": batch_id})
    assert [await links.nth(n).inner_text() for n in (0, 1)] == [shown_id(thread_id_of(batch, n)) for n in (1, 2)]
    await shoot(page, "console-batch")


async def test_past_states_are_found_and_opened(console: Console, page: Page) -> None:
    thread_id = await console.thread("a shop", "connection reset by the shop", metadata={"customer": {"id": 42}})
    await console.thread(*["something else"] * 60)
    assert "62 found" in await goes(page, console.url + "/console/search")
    await page.get_by_role("link", name="Older ones").click()
    assert await page.locator("ol.states > li").count() == 12, "fifty on the page before"

    await page.get_by_label("What to look for").fill('node:browse "connection reset"')
    await page.get_by_role("button", name="Search").click()
    assert await page.locator("mark").all_inner_texts() in (["connection reset"], ["connection", "reset"])
    await shoot(page, "console-search")
    await page.get_by_role("link", name=thread_id).click()
    text = await page.locator("main").inner_text()
    assert text.index("connection reset by the shop") < text.index("a shop"), "newest first"
    assert '"id": 42' in text
    link = await page.get_by_role("link", name="state as JSON").first.get_attribute("href")
    assert link == f"/threads/{thread_id}/state/c2"

    wrong = await goes(page, console.url + "/console/search?q=shop%20node:%22Login", 422)
    assert 'shop node:"Login\n          ^' in wrong
    await shoot(page, "console-mistake")


async def test_a_failure_is_shown_with_its_node_and_traceback(console: Console, page: Page) -> None:
    trace = (
        'Traceback (most recent call last):\n  File "agent.py", line 12, in total\n    raise ValueError("<b>no</b>")\n'
    )
    error = ErrorInfo(type="ValueError", message="<b>no</b>", node="total", traceback=trace)
    thread_id = await console.thread("a price list", error=error, status="error")
    await goes(page, f"{console.url}/console/threads/{thread_id}")
    assert await page.get_by_role("heading", name="Error at node total").count() == 1
    shown = page.locator("pre.trace")
    assert (await shown.inner_text()).strip() == trace.strip()
    assert await shown.evaluate("one => getComputedStyle(one).whiteSpace") == "pre"
    assert "ValueError: <b>no</b>" in await page.locator("main").inner_text()
    await shoot(page, "console-failure")


async def test_a_thread_at_work_is_shown_as_the_api_says_and_looked_at_again(console: Console, page: Page) -> None:
    earlier = now() - timedelta(minutes=5)
    thread_id = await console.thread("begins", updated_at=earlier)
    address = f"{console.url}/console/threads/{thread_id}"
    again, badge = page.locator("meta[http-equiv=refresh]"), page.locator("h1 .mark")
    for active, status, refreshes in ((True, "busy", 1), (False, "idle", 0)):
        run = {
            "_id": new_id(), "thread_id": stored_id(console.tenant, thread_id), "tenant": console.tenant,
            "status": "running", "settled": False,
        }  # fmt: skip
        if active:
            await console.db.runs.insert_one(run)
        else:
            await console.db.runs.delete_many({"thread_id": run["thread_id"]})
        said = await console.http.get(f"/threads/{thread_id}", headers={"Perdure-Tenant": console.tenant})
        assert said.json()["status"] == status
        await goes(page, address)
        assert await badge.inner_text() == status
        assert await again.count() == refreshes
    waiting = await console.thread("asks", status="interrupted", updated_at=earlier)
    await goes(page, f"{console.url}/console/threads/{waiting}")
    assert await badge.inner_text() == "interrupted"
    assert await again.count() == 1, "it may be woken"


async def test_an_archived_thread_opens(console: Console, page: Page) -> None:
    mark = {"state": "archived", "at": now() - timedelta(days=3), "object": "o"}
    away = await console.thread("signed the contract", archive=mark)
    text = await goes(page, f"{console.url}/console/threads/{away}")
    assert "In the archive since" in text
    assert f"perdure archive restore {away}" in text
    assert "signed the contract" in text
    assert await page.get_by_role("link", name="state as JSON").count() == 0, "the API would refuse it"
    await shoot(page, "console-archived")


async def test_nothing_that_is_shown_becomes_markup(console: Console, chromium: Browser) -> None:
    error = ErrorInfo(type=EVIL, message=EVIL, node=EVIL)
    metadata = {"note": EVIL, "key": {EVIL.replace(".", ""): 1}}
    threads = [
        await console.thread(EVIL, graph=EVIL, error=error, metadata=metadata, next=[EVIL]),
        await console.stuck(EVIL, graph=EVIL, hold={"by": EVIL, "reason": EVIL, "at": now()}),
    ]
    batch_id = await console.batch(3, 1, error, ref=EVIL, graph_id=EVIL, pause_reason=EVIL, status="paused")
    context = await visitor(chromium, console.tenant, scripts=True)
    page = await context.new_page()
    said: list[str] = []
    page.on("dialog", lambda dialog: said.append(dialog.message))
    for path in (
        *PAGES, f"/console/batches/{batch_id}", *(f"/console/threads/{one}" for one in threads),
        "/console/search?q=alert", "/console/search?q=%3Cscript%3Ealert(1)%3C/script%3E%22%3E%E2%80%AE(",
        "/console/threads/%3Cscript%3Ealert(1)%3C%2Fscript%3E", "/console/batches/%3Cimg%20src=x%20onerror=alert(1)%3E",
    ):  # fmt: skip
        await page.goto(console.url + path)
        assert await page.locator("main").count() == 1, path
        assert await page.locator("script, img, iframe, object, main b:text-is('bold')").count() == 0, path
        assert "\u202e" not in await page.locator("body").inner_text(), path
    await page.goto(f"{console.url}/console/threads/{threads[0]}")
    shown = await page.locator("main").inner_text()
    assert shown.count("<script>alert(1)</script>") >= 5, "it is all there, as text"
    assert shown.count(HIDDEN) >= 5
    assert said == []
    await context.close()


async def test_a_tenant_sees_its_own(console: Console, chromium: Browser) -> None:
    thread_id = await console.thread("secret plans")
    batch_id = await console.batch(10, 5)
    context = await visitor(chromium, f"{console.tenant}-other")
    page = await context.new_page()
    for path in PAGES:
        text = await goes(page, console.url + path)
        assert "secret" not in text, path
        assert batch_id not in text, path
    await goes(page, f"{console.url}/console/threads/{thread_id}", 404)
    assert "There is no thread" in await page.locator("main").inner_text()
    await goes(page, f"{console.url}/console/batches/{batch_id}", 404)
    cursor = (await console.http.get("/search?limit=1", headers={"Perdure-Tenant": console.tenant})).json()["cursor"]
    assert cursor is None, "one state only"
    await context.close()


async def test_each_page_answers_head(console: Console) -> None:
    thread_id = await console.thread("here")
    for path in ("/", *PAGES, f"/console/threads/{thread_id}", "/docs"):
        got, head = await console.http.get(path), await console.http.head(path)
        assert head.status_code == got.status_code, path
        assert head.content == b"", path
    assert (await console.http.head("/console")).status_code == 200
    assert (await console.http.head("/runs")).status_code == 405


async def test_without_search_the_rest_is_shown(
    console: Console, open_waiting: Any, page: Page, mongodb_uri: str, kafka_bootstrap: str
) -> None:
    thread_id = await console.thread("still here")
    await console.batch(10, 5)
    uri = f"{mongodb_uri.rsplit('/', 1)[0]}/{console.db.name}"
    async with open_waiting(uri, kafka_bootstrap, opensearch_url="http://127.0.0.1:9") as alone:
        text = await goes(page, f"{alone.url}/console")
        assert "Search is away" in text
        assert "5 of 10" in text
        assert await figure(page, "opensearch") == "down"
        await shoot(page, "console-without-search")
        text = await goes(page, f"{alone.url}/console/threads/{thread_id}")
        assert "agent" in text
        assert "Search is away" in text
        await goes(page, f"{alone.url}/console/search?q=x", 503)


@pytest.mark.parametrize(
    ("highlight", "shown"),
    [
        ("plain", "plain"),
        ("a <em>word</em> here", "a <mark>word</mark> here"),
        ("&lt;em&gt;<em>b&amp;c</em>", "&lt;em&gt;<mark>b&amp;c</mark>"),
        ("<script>", "&lt;script&gt;"),
        ("&#x202e;x", "\\u{202e}x"),
    ],
)
def test_highlights(highlight: str, shown: str) -> None:
    assert str(marked(highlight)) == shown
