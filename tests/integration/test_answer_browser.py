"""The page behind a link in a real browser, with JavaScript switched off: approve, reject, correct, too late, used, forged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext
from tests.integration.browser_stage import SIZES, shoot

from perdure.chassis.clock import now
from perdure.schemas.documents import WaitStatus
from perdure.schemas.validation import Finding, Verdict, VerdictOutcome
from perdure.schemas.waits import OutcomeKind, Wait, WaitKind, WaitOutcome, digest

LinkTo = Callable[..., str]

ACTION = {
    "transfer": {"amount": 82_000, "currency": "EUR", "to": "DE02 1203 0000 0000 2020 51"},
    "reference": "F-2026-0417",
}
SCHEMA = {
    "type": "object",
    "properties": {
        "limit": {"type": "number", "minimum": 0, "title": "Limit in EUR", "description": "Leave empty for no limit."},
        "account": {"enum": ["main account", "reserve"], "title": "From which account", "default": "main account"},
        "note": {"type": "string", "title": "Note to the agent"},
        "approve": {"type": "boolean", "title": "Your decision"},
    },
    "required": ["approve", "account"],
}


@pytest.fixture
async def plain(chromium: Browser) -> AsyncIterator[BrowserContext]:
    """A visitor on a phone whose browser runs no scripts."""
    context = await chromium.new_context(viewport=SIZES["phone"], java_script_enabled=False)
    yield context
    await context.close()


async def payment(linking: Any) -> dict[str, Any]:
    """A question as people get them, about an action that was validated."""
    wait: dict[str, Any] = await linking.question(
        SCHEMA,
        question="Pay invoice F-2026-0417 of Nordwind Logistik GmbH?",
        details={
            "Invoice": "82,000.00 EUR, due on 30 November",
            "Why you": "Above the limit of 50,000 EUR that the agent may pay by itself.",
            "Matched order": {"number": "PO-1187", "ordered": 80_500, "difference": 1_500},
        },
        action=ACTION,
        assigned_to="head of finance",
        escalations=1,
        due_at=now() + timedelta(hours=7, minutes=30),
        graph="payables",
    )
    findings = (
        Finding(
            name="invoice total", holds=True, believed=82_000, fresh=82_000, drift=0.0, attempts=1, read_at=now(),
            reason="expected 82000, found 82000", outcome=VerdictOutcome.PROCEED,
        ),
        Finding(
            name="account balance", holds=False, believed=140_000.0, fresh=96_250.75, drift=-43_749.25, read_at=now(),
            reason="expected 140000 within 5 %, found 96250.75", outcome=VerdictOutcome.ASK,
        ),
        Finding(
            name="supplier is not blocked", holds=None, believed=False, read_at=now(), attempts=3,
            reason="the supplier register did not answer within 10 s, three times", outcome=VerdictOutcome.ASK,
        ),
    )  # fmt: skip
    verdict = Verdict(
        outcome=VerdictOutcome.ASK, findings=findings, action_digest=digest(ACTION), read_at=now(), expires_at=now()
    )
    ended = WaitOutcome(
        kind=OutcomeKind.VERDICT, wait_id="w", at=now(), action_digest=digest(ACTION),
        payload=verdict.model_dump(mode="json"),
    )  # fmt: skip
    await linking.wait(
        Wait(kind=WaitKind.VALIDATION), thread_id=wait["thread_id"], status=WaitStatus.ANSWERED.value,
        outcome=ended.value(), ended_at=now(),
    )  # fmt: skip
    return wait


async def answered(linking: Any, wait: dict[str, Any]) -> Any:
    view = (await linking.http.get(f"/approvals/{wait['_id']}")).json()
    return view["outcome"]["answer"] if view["outcome"] else None


async def test_approve(linking: Any, link_to: LinkTo, plain: BrowserContext) -> None:
    wait = await payment(linking)
    page = await plain.new_page()
    await page.goto(linking.url + link_to(wait))
    await shoot(page, "ask")
    box = await page.get_by_role("button", name="Approve").bounding_box()
    assert box is not None
    assert box["height"] >= 44
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await page.get_by_label("Limit in EUR").fill("90000")
    await page.get_by_label("Note to the agent").fill("Fine.\nGo on.")
    await page.get_by_role("button", name="Approve").click()
    assert await page.get_by_role("heading", level=1).inner_text() == "Your answer is recorded"
    await shoot(page, "recorded")
    expected = {"approve": True, "limit": 90_000, "account": "main account", "note": "Fine.\nGo on."}
    assert await answered(linking, wait) == expected
    await page.reload()
    assert await page.get_by_role("heading", level=1).inner_text() == "Your answer is recorded"


async def test_reject(linking: Any, link_to: LinkTo, plain: BrowserContext) -> None:
    wait = await linking.question({"type": "boolean"}, question="May I delete 1,204 files?", action={"delete": 1204})
    page = await plain.new_page()
    await page.goto(linking.url + link_to(wait))
    await shoot(page, "boolean")
    await page.get_by_role("button", name="Reject").click()
    await page.get_by_role("heading", name="Your answer is recorded").wait_for()
    assert await answered(linking, wait) is False


async def test_enter_in_a_field_decides_nothing(linking: Any, link_to: LinkTo, plain: BrowserContext) -> None:
    wait = await payment(linking)
    page = await plain.new_page()
    await page.goto(linking.url + link_to(wait))
    await page.get_by_label("Limit in EUR").fill("1")
    await page.get_by_label("Limit in EUR").press("Enter")
    assert await page.get_by_label("Limit in EUR").input_value() == "1"
    assert await answered(linking, wait) is None


async def test_a_wrong_form_keeps_what_was_typed(linking: Any, link_to: LinkTo, plain: BrowserContext) -> None:
    wait = await payment(linking)
    page = await plain.new_page()
    await page.goto(linking.url + link_to(wait))
    await page.get_by_label("Limit in EUR").fill("-5")
    await page.get_by_label("reserve").check()
    await page.get_by_label("Note to the agent").fill("<b>kept</b>")
    await page.get_by_role("button", name="Approve").click()
    await page.get_by_role("alert").wait_for()
    await shoot(page, "wrong")
    assert await page.get_by_text("-5 is less than the minimum of 0").count() == 1
    assert await page.get_by_label("Limit in EUR").input_value() == "-5"
    assert await page.get_by_label("reserve").is_checked()
    assert await page.get_by_label("Note to the agent").input_value() == "<b>kept</b>"
    await page.get_by_label("Limit in EUR").fill("5")
    await page.get_by_role("button", name="Reject").click()
    await page.get_by_role("heading", name="Your answer is recorded").wait_for()
    assert (await answered(linking, wait))["limit"] == 5


async def test_somebody_was_faster(linking: Any, link_to: LinkTo, plain: BrowserContext) -> None:
    wait = await payment(linking)
    page = await plain.new_page()
    await page.goto(linking.url + link_to(wait, "bob@example.com"))
    await page.get_by_label("Note to the agent").fill("Only after the audit.")
    await linking.answer(wait, {"approve": False, "account": "reserve"}, by="ann@example.com")
    await page.get_by_role("button", name="Approve").click()
    await page.get_by_role("heading", name="This was answered already").wait_for()
    await shoot(page, "second")
    assert await page.get_by_text("ann@example.com was first").count() == 1
    assert await page.get_by_text("Only after the audit.").count() == 1


async def test_used_expired_and_forged(linking: Any, link_to: LinkTo, plain: BrowserContext) -> None:
    wait = await linking.question({"type": "boolean"})
    page = await plain.new_page()
    await page.goto(linking.url + link_to(wait))
    await page.get_by_role("button", name="Approve").click()
    await page.goto(linking.url + link_to(wait))
    assert await page.get_by_role("button").count() == 0
    for path, says, name in (
        (link_to(wait, expires_at=now() - timedelta(minutes=1)), "This link has expired", "expired"),
        (link_to(wait)[:-4], "This link does not work", "forged"),
    ):
        await page.goto(linking.url + path)
        assert await page.get_by_role("heading", level=1).inner_text() == says
        await shoot(page, name)


async def test_a_link_in_a_channel(linking: Any, link_to: LinkTo, plain: BrowserContext) -> None:
    wait = await linking.question(
        {"enum": ["now", "tomorrow", "never"]}, question="When shall I deploy?", graph="deployer"
    )
    page = await plain.new_page()
    await page.goto(linking.url + link_to(wait, "subscription:01a21428"))
    await page.get_by_label("tomorrow").check()
    await page.get_by_role("button", name="Send answer").click()
    await shoot(page, "shared")
    assert await page.get_by_text("Must be answered").count() == 1
    await page.get_by_label("Your name").fill("Zoë Müller")
    await page.get_by_role("button", name="Send answer").click()
    await page.get_by_text("Zoë Müller (subscription:01a21428) answered at").wait_for()
    assert await answered(linking, wait) == "tomorrow"


async def test_every_kind_of_field(linking: Any, link_to: LinkTo, plain: BrowserContext) -> None:
    schema = {
        "type": "object",
        "properties": {
            "candidate": {"type": "string", "maxLength": 80},
            "rounds": {"type": "integer", "minimum": 1},
            "remote": {"type": "boolean", "description": "May the first day be remote?"},
            "level": {"oneOf": [{"const": n, "title": t} for n, t in ((1, "Junior"), (2, "Senior"), (3, "Staff"))]},
            "office": {"enum": ["Berlin", "Lisbon", "Oslo", "Paris", "Porto", "Prague", "Rome", "Turin"]},
            "address": {
                "type": "object",
                "properties": {
                    "street": {"type": "string", "maxLength": 80},
                    "city": {"type": "string", "maxLength": 80},
                },
                "required": ["city"],
            },
            "tags": {"type": "array", "items": {"type": "string"}, "default": ["new"]},
        },
        "required": ["candidate", "rounds", "remote", "level"],
    }
    wait = await linking.question(schema, question="Complete the offer for the candidate.", details={})
    page = await plain.new_page()
    await page.goto(linking.url + link_to(wait))
    await page.get_by_label("Candidate").fill("Zoë")
    await page.get_by_role("button", name="Send answer").click()
    assert await page.get_by_text("Must be answered").count() == 3
    await shoot(page, "fields")
    await page.get_by_label("Rounds").fill("3")
    await page.get_by_label("No", exact=True).check()
    await page.get_by_label("Staff").check()
    await page.get_by_label("Office").select_option("Oslo")
    await page.get_by_label("City").fill("Oslo")
    await page.get_by_label("Tags").fill('["a", {"b": 1}, "c"]')
    await page.get_by_role("button", name="Send answer").click()
    assert await page.get_by_text("At /1: {'b': 1} is not of type 'string'").count() == 1
    await page.get_by_label("Tags").fill('["a"]')
    await page.get_by_role("button", name="Send answer").click()
    await page.get_by_role("heading", name="Your answer is recorded").wait_for()
    assert await answered(linking, wait) == {
        "candidate": "Zoë",
        "rounds": 3,
        "remote": False,
        "level": 3,
        "office": "Oslo",
        "address": {"city": "Oslo"},
        "tags": ["a"],
    }


async def test_nothing_runs_even_where_scripts_may(linking: Any, link_to: LinkTo, chromium: Browser) -> None:
    attack = "</title></style></textarea><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    schema = {"type": "object", "properties": {attack: {"type": "string", "title": attack, "default": attack}}}
    wait = await linking.question(
        schema, question=attack, details={attack: attack}, action={attack: attack}, assigned_to=attack
    )
    context = await chromium.new_context()
    page = await context.new_page()
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    await page.goto(linking.url + link_to(wait, attack))
    assert await page.title() == "A question for you"
    assert await page.locator("script, img").count() == 0
    assert [url for url in seen if "/answer/" not in url and "favicon" not in url] == []
    await linking.answer(wait, {attack: attack}, by=f"{attack}!")
    await page.reload()
    assert await page.title() == "This was answered already"
    await context.close()
