"""agent-chat-ui itself (``create-agent-chat-app`` 0.1.6, an old SDK), in a browser, against the whole system."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Browser, Page, expect
from tests.support.javascript import chat_app
from tests.support.polling import until

SECONDS = 30
BOX = "textarea"


@pytest.fixture(scope="module")
def app() -> Iterator[str]:
    with chat_app() as url:
        yield url


@pytest.fixture
async def page(chromium: Browser, app: str, system: Any) -> AsyncIterator[Page]:
    """The chat, connected as its users connect it; no script of it may fail."""
    context = await chromium.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda one: failures.append(one.text) if "blocked by CORS" in one.text else None)
    await page.goto(f"{app}/?apiUrl={system.services.gateway_url}&assistantId=agent")
    yield page
    await context.close()
    assert failures == []


async def say(page: Page, text: str) -> None:
    await page.locator(BOX).first.fill(text)
    await page.get_by_role("button", name="Send").click()


async def shows(page: Page, text: str | re.Pattern[str]) -> None:
    await expect(page.get_by_text(text).first).to_be_visible(timeout=SECONDS * 1000)


def thread_of(page: Page) -> str:
    return parse_qs(urlsplit(page.url).query)["threadId"][0]


async def ended(system: Any, thread_id: str) -> dict[str, Any]:
    """The newest run of the thread, once it has ended."""

    def look() -> dict[str, Any]:
        return dict(system.http.get(f"/threads/{thread_id}/runs").raise_for_status().json()[0])

    return await until(
        look, "the run has ended", SECONDS, holds=lambda run: run["status"] not in {"pending", "running"}
    )


async def test_words_appear_while_the_agent_speaks_and_stop_when_somebody_stops_it(page: Page, system: Any) -> None:
    await say(page, "go slow, please")
    await shows(page, re.compile("word-5 "))
    thread_id = thread_of(page)
    (run,) = system.http.get(f"/threads/{thread_id}/runs").json()
    assert run["status"] == "running", "words appear before the superstep has ended"
    await page.get_by_role("button", name="Cancel").click()
    stopped = await ended(system, thread_id)
    assert (stopped["status"], stopped["perdure_status"]) == ("interrupted", "cancelled")
    await say(page, "hello again")
    await shows(page, "I heard: hello again")


async def test_a_reload_in_the_middle_shows_the_conversation_and_it_goes_on(page: Page, system: Any) -> None:
    await say(page, "first question")
    await shows(page, "I heard: first question")
    await say(page, "now slow")
    await shows(page, re.compile("word-5 "))
    thread_id = thread_of(page)
    await page.reload()
    for text in ("first question", "I heard: first question", "now slow"):
        await shows(page, text)
    left = await ended(system, thread_id)
    assert left["perdure_status"] == "cancelled", "this client asks that its run ends when it goes away"
    await say(page, "and now")
    await shows(page, "I heard: and now")
    await page.reload()
    await shows(page, "I heard: and now")


async def test_somebody_approves(page: Page, system: Any) -> None:
    await say(page, "transfer 5000")
    await shows(page, "I heard: transfer 5000")
    await page.get_by_role("button", name="Accept").first.click()
    await shows(page, "The decision was: accept")
    values = system.values(thread_of(page))
    assert values["messages"][-1]["content"] == "The decision was: accept"


async def test_the_conversations_are_listed(page: Page, system: Any) -> None:
    await say(page, "to be listed")
    await shows(page, "I heard: to be listed")
    await page.goto(f"{page.url}&chatHistoryOpen=true")
    await expect(page.get_by_role("button", name="to be listed")).to_be_visible(timeout=SECONDS * 1000)
