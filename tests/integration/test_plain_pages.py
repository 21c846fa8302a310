"""The page of a plain interrupt in a real browser without scripts: every shape, what is sent, and nothing of it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from langchain.agents.middleware.human_in_the_loop import _decision_schema
from playwright.async_api import Browser, BrowserContext, Page
from pydantic import TypeAdapter
from tests.integration.browser_stage import SIZES, shoot

from perdure.schemas.waits import digest

LinkTo = Callable[..., str]

ARGS = {
    "to": "nordwind@example.com",
    "subject": "Invoice F-2026-0417",
    "body": "Dear Ms. Brandt,\n\nwe pay your invoice today.\n\nKind regards",
    "amount": 82_000,
    "urgent": False,
    "lines": [{"sku": "A-7", "count": 2}],
}
CONFIG = {"allow_ignore": True, "allow_respond": True, "allow_edit": True, "allow_accept": True}
HUMAN = {
    "action_request": {"action": "send_mail", "args": ARGS},
    "config": CONFIG,
    "description": "Shall I send this mail to the supplier?",
}
REVIEW = {
    "action_requests": [
        {"name": "send_mail", "args": ARGS, "description": "The supplier waits for it."},
        {"name": "delete_draft", "args": {"draft": 17}, "description": "It is not needed any more."},
    ],
    "review_configs": [
        {"action_name": "send_mail", "allowed_decisions": ["approve", "edit", "reject"]},
        {"action_name": "delete_draft", "allowed_decisions": ["approve", "reject"]},
    ],
}


@pytest.fixture
async def plain(chromium: Browser) -> AsyncIterator[BrowserContext]:
    """A visitor on a phone whose browser runs no scripts."""
    context = await chromium.new_context(viewport=SIZES["phone"], java_script_enabled=False)
    yield context
    await context.close()


async def opened(linking: Any, plain: BrowserContext, path: str) -> Page:
    page = await plain.new_page()
    await page.goto(linking.url + path)
    return page


async def send(page: Page) -> None:
    await page.get_by_role("button", name="Send answer").click()
    await page.get_by_role("heading", name="Your answer is recorded").wait_for()


async def ended(linking: Any, wait: Any) -> Any:
    view = (await linking.http.get(f"/approvals/{wait['_id']}")).json()
    assert view["status"] == "answered"
    return view["outcome"]["answer"]


async def test_a_human_interrupt_is_edited(linking: Any, link_to: LinkTo, plain: BrowserContext) -> None:
    wait = await linking.interrupt([HUMAN], graph="payables")
    page = await opened(linking, plain, link_to(wait))
    await shoot(page, "human")
    assert await page.get_by_role("heading", level=1).inner_text() == HUMAN["description"]
    assert digest({"action": "send_mail", "args": ARGS}) in await page.inner_text("main")
    assert await page.get_by_label("Subject").is_visible() is False, "the fields of an edit appear with it"
    await page.get_by_label("Edit", exact=True).check()
    assert await page.get_by_label("Subject").input_value() == ARGS["subject"]
    assert await page.get_by_label("Body").input_value() == ARGS["body"]
    await page.get_by_label("Amount").fill("500.5")
    await page.get_by_label("Yes", exact=True).check()
    await shoot(page, "human-edit")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await send(page)
    edited = {"action": "send_mail", "args": {**ARGS, "amount": 500.5, "urgent": True}}
    assert await ended(linking, wait) == [{"type": "edit", "args": edited}]
    run = await linking.database.runs.find_one({"wait_id": wait["_id"]})
    assert run is not None


@pytest.mark.parametrize(
    ("label", "answer"),
    [("Accept", {"type": "accept", "args": None}), ("Ignore", {"type": "ignore", "args": None})],
)
async def test_a_human_interrupt_is_accepted_or_ignored(
    linking: Any, link_to: LinkTo, plain: BrowserContext, label: str, answer: Any
) -> None:
    wait = await linking.interrupt(HUMAN)
    page = await opened(linking, plain, link_to(wait))
    await page.get_by_role("button", name="Send answer").click()
    assert await page.get_by_text("Must be answered").count() == 1, "nothing is chosen for the reader"
    await page.get_by_label(label, exact=True).check()
    await send(page)
    assert await ended(linking, wait) == [answer]


async def test_a_response_to_a_human_interrupt(linking: Any, link_to: LinkTo, plain: BrowserContext) -> None:
    wait = await linking.interrupt(HUMAN)
    page = await opened(linking, plain, link_to(wait))
    await page.get_by_label("Response", exact=True).check()
    await page.get_by_label("Your response").fill("Wait until\nMonday.")
    await send(page)
    assert await ended(linking, wait) == [{"type": "response", "args": "Wait until\nMonday."}]


async def test_a_review_of_several_calls_keeps_what_was_chosen(
    linking: Any, link_to: LinkTo, plain: BrowserContext
) -> None:
    wait = await linking.interrupt(REVIEW, graph="payables")
    page = await opened(linking, plain, link_to(wait))
    first, second = page.get_by_role("group", name="1. send_mail"), page.get_by_role("group", name="2. delete_draft")
    await first.get_by_label("Edit", exact=True).check()
    await first.get_by_label("Amount").fill("many")
    await second.get_by_label("Reject").check()
    await second.get_by_label("Reason").fill("<b>Keep</b> it")
    await page.get_by_role("button", name="Send answer").click()
    await page.get_by_role("alert").wait_for()
    assert await page.get_by_text("Must be a number").count() == 1
    assert await first.get_by_label("Edit", exact=True).is_checked()
    assert await second.get_by_label("Reason").input_value() == "<b>Keep</b> it"
    await shoot(page, "review")
    await first.get_by_label("Amount").fill("81000")
    await send(page)
    call = {"name": "send_mail", "args": {**ARGS, "amount": 81_000}}
    decisions = [{"type": "edit", "edited_action": call}, {"type": "reject", "message": "<b>Keep</b> it"}]
    assert await ended(linking, wait) == {"decisions": decisions}


async def test_a_review_of_one_call_by_its_response_schema(
    linking: Any, link_to: LinkTo, plain: BrowserContext
) -> None:
    value = {
        "type": "tool_approval",
        "tool_call_id": "c1",
        "name": "send_mail",
        "args": ARGS,
        "description": "Send it?",
    }
    schema = TypeAdapter(_decision_schema(["approve", "edit", "reject"], "send_mail")).json_schema()
    wait = await linking.interrupt(value, schema)
    page = await opened(linking, plain, link_to(wait))
    await shoot(page, "one-call")
    await page.get_by_label("Reject").check()
    await page.get_by_label("Message").fill("Not today")
    await send(page)
    assert await ended(linking, wait) == {"type": "reject", "message": "Not today"}


@pytest.mark.parametrize(
    ("value", "heading", "typed", "answer"),
    [
        ("What shall I write?", "What shall I write?", "A poem", "A poem"),
        ({"question": "How many?", "of": {"sku": "A-7"}}, "How many?", '{"count": 3}', {"count": 3}),
        ([1, 2], "The agent waits for an answer.", "true", True),
    ],
    ids=["text", "object", "list"],
)
async def test_anything_else_is_answered_with_text_or_json(
    linking: Any, link_to: LinkTo, plain: BrowserContext, value: Any, heading: str, typed: str, answer: Any
) -> None:
    wait = await linking.interrupt(value)
    page = await opened(linking, plain, link_to(wait))
    assert await page.get_by_role("heading", level=1).inner_text() == heading
    await page.get_by_label("Your answer").fill(typed)
    await shoot(page, f"plain-{type(value).__name__}")
    await send(page)
    assert await ended(linking, wait) == answer


async def test_a_response_schema_makes_the_form(linking: Any, link_to: LinkTo, plain: BrowserContext) -> None:
    schema = {
        "type": "object",
        "properties": {"limit": {"type": "integer"}, "ok": {"type": "boolean"}},
        "required": ["ok"],
    }
    wait = await linking.interrupt({"message": "How much?"}, schema)
    page = await opened(linking, plain, link_to(wait))
    await page.get_by_label("Limit").fill("5")
    await page.get_by_role("button", name="Approve").click()
    await page.get_by_role("heading", name="Your answer is recorded").wait_for()
    assert await ended(linking, wait) == {"limit": 5, "ok": True}


async def test_a_large_value_is_shown_whole(linking: Any, link_to: LinkTo, plain: BrowserContext) -> None:
    wait = await linking.interrupt(
        {**HUMAN, "action_request": {"action": "a", "args": {"text": "x" * 60_000, "end": "z"}}}
    )
    page = await opened(linking, plain, link_to(wait))
    assert '"end": "z"' in await page.inner_text("pre")
    await page.get_by_label("Accept", exact=True).check()
    await send(page)
    assert await ended(linking, wait) == [{"type": "accept", "args": None}]


async def test_nothing_of_an_interrupt_runs(linking: Any, link_to: LinkTo, chromium: Browser) -> None:
    attack = "</title></style></textarea><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    human = {
        "action_request": {"action": attack, "args": {attack: attack, "deep": {attack: [attack]}}},
        "config": CONFIG,
        "description": attack,
    }
    context = await chromium.new_context()
    for value, schema in (
        ([human, human], None),
        (attack, {"type": "object", "title": attack, "properties": {attack: {"enum": [attack, "b"], "title": attack}}}),
        ({"question": attack, attack: {attack: attack}}, None),
    ):
        wait = await linking.interrupt(value, schema, graph=attack, nodes=[attack])
        page = await context.new_page()
        await page.goto(linking.url + link_to(wait, attack))
        assert await page.title() == "A question for you"
        assert await page.locator("script, img").count() == 0
        assert "onerror" in await page.inner_text("main"), "it is shown as the text that it is"
    await context.close()


async def test_it_is_in_the_inbox_with_what_the_node_passed(linking: Any) -> None:
    wait = await linking.interrupt(HUMAN, tenant="inbox")
    other = await linking.question({"type": "boolean"}, tenant="inbox")
    answer = await linking.http.get("/approvals", headers={"Perdure-Tenant": "inbox"})
    found = {one["approval_id"]: one for one in answer.raise_for_status().json()["approvals"]}
    assert set(found) == {wait["_id"], other["_id"]}
    shown = found[wait["_id"]]
    assert shown["interrupt"] == {"id": wait["interrupt_id"], "value": HUMAN}
    assert (shown["question"], shown["expires_at"], shown["events"]) == (HUMAN["description"], None, [])
    assert "interrupt" not in found[other["_id"]]
