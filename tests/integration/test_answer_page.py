"""The page behind a link, over HTTP: what it shows, what it takes, what it refuses, and what it never gives away."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
import structlog

from perdure.chassis.clock import now
from perdure.schemas.documents import WaitStatus
from perdure.schemas.validation import Finding, Verdict, VerdictOutcome
from perdure.schemas.waits import OutcomeKind, Wait, WaitKind, WaitOutcome, digest, wake_key

LinkTo = Callable[..., str]

DECISION = {
    "type": "object",
    "properties": {
        "approve": {"type": "boolean"},
        "limit": {"type": "number", "minimum": 0},
        "note": {"type": "string", "title": "Note <to the agent>"},
    },
    "required": ["approve"],
}
XSS = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{7*7}}"


class Page(HTMLParser):
    """What a test asks of a page: its text, its elements, the values that its form would send."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.parts).split())

    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}

    def hidden(self) -> dict[str, str]:
        found = {}
        for tag, attributes in self.tags:
            if tag == "input" and attributes.get("type") == "hidden":
                found[attributes["name"] or ""] = attributes["value"] or ""
        return found


@pytest.fixture
async def browser(linking: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a cookie jar of its own."""
    async with httpx.AsyncClient(base_url=linking.url, timeout=30) as client:
        yield client


async def opened(browser: httpx.AsyncClient, path: str, status: int = 200) -> Page:
    answer = await browser.get(path)
    assert answer.status_code == status, answer.text
    return Page(answer.text)


async def send(browser: httpx.AsyncClient, path: str, fields: dict[str, str], **more: Any) -> httpx.Response:
    """Fill in the page's form and send it."""
    page = await opened(browser, path)
    return await browser.post(path, data={**page.hidden(), **fields}, **more)


async def runs_of(linking: Any, wait: dict[str, Any]) -> int:
    return int(await linking.database.runs.count_documents({"thread_id": wait["thread_id"]}))


async def test_it_shows_exactly_what_is_asked(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    action = {"pay": 82_000, "to": ["Müller & Söhne"]}
    wait = await linking.question(
        DECISION,
        question="Pay the invoice?\nIt is due.",
        details={"invoice": "F-17", "lines": [1, 2]},
        action=action,
        assigned_to="head of finance",
        due_at=now() + timedelta(hours=5),
    )
    page = await opened(browser, link_to(wait, "Zoë <zoe@example.com>"))
    for shown in (
        "Pay the invoice? It is due.",
        "invoice F-17",
        '{ "pay": 82000, "to": [ "Müller & Söhne" ] }',
        digest(action),
        "head of finance",
        "(in 4 hours)",
        "You answer as Zoë <zoe@example.com>",
        "Limit (optional)",
        "Note <to the agent> (optional)",
        "Approve",
        "Reject",
    ):
        assert shown in page.text
    assert "script" not in page.names()
    assert ("html", {"lang": "en"}) in page.tags


async def test_the_drift_of_the_validation_is_shown(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    action = {"buy": 10}
    wait = await linking.question({"type": "boolean"}, action=action)
    for outcome, fresh, about in (("stale", 104.5, action), ("proceed", 1.0, {"buy": 11})):
        finding = Finding(
            name="price", holds=outcome == "proceed", believed=100.0, fresh=fresh, drift=fresh - 100,
            reason="the price moved <b>up</b>", read_at=now(), outcome=VerdictOutcome(outcome),
        )  # fmt: skip
        verdict = Verdict(
            outcome=VerdictOutcome(outcome), findings=(finding,), action_digest=digest(about), read_at=now(),
            expires_at=now(),
        )  # fmt: skip
        ended = WaitOutcome(
            kind=OutcomeKind.VERDICT, wait_id="w", at=now(), action_digest=digest(about),
            payload=verdict.model_dump(mode="json"),
        )  # fmt: skip
        await linking.wait(
            Wait(kind=WaitKind.VALIDATION), thread_id=wait["thread_id"], status=WaitStatus.ANSWERED.value,
            outcome=ended.value(), ended_at=now(),
        )  # fmt: skip
    page = await opened(browser, link_to(wait))
    assert "price does not hold Believed 100.0, found 104.5 (drift +4.5) the price moved <b>up</b>" in page.text
    assert "found 1.0" not in page.text


async def test_opening_a_link_changes_nothing(linking: Any, link_to: LinkTo) -> None:
    wait = await linking.question(DECISION)
    before = await linking.database.waits.find_one({"_id": wait["_id"]})
    for method in ("GET", "HEAD", "GET"):
        answer = await linking.http.request(method, link_to(wait), headers={"Purpose": "prefetch"})
        assert answer.status_code == 200
    assert await linking.database.waits.find_one({"_id": wait["_id"]}) == before
    assert await runs_of(linking, wait) == 0


async def test_headers_keep_the_link_private(linking: Any, link_to: LinkTo) -> None:
    wait = await linking.question(DECISION)
    for path, status in ((link_to(wait), 200), ("/answer/forged", 404)):
        answer = await linking.http.get(path)
        assert answer.status_code == status
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["base-uri"] == "'none'"
        assert policy["form-action"] == "'self'"
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    cookie = (await linking.http.get(link_to(wait))).headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=/answer" in cookie


async def test_an_answer_wakes_the_agent_once(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    action = {"pay": 82_000}
    wait = await linking.question(DECISION, action=action)
    path = link_to(wait)
    fields = {"answer/approve": "true", "answer/limit": "1000.5", "answer/note": "go\r\nahead"}
    answer = await send(browser, path, fields)
    assert answer.status_code == 303, answer.text
    ended = await opened(browser, str(answer.url.join(answer.headers["Location"]).path))
    assert "Your answer is recorded" in ended.text
    view = (await linking.http.get(f"/approvals/{wait['_id']}")).json()
    assert view["status"] == "answered"
    assert view["outcome"]["by"] == "ann@example.com"
    assert view["outcome"]["answer"] == {"approve": True, "limit": 1000.5, "note": "go\nahead"}
    assert await runs_of(linking, wait) == 1
    assert await linking.database.runs.find_one({"tenant": "default", "idempotency_key": wake_key(wait["_id"])})
    late = link_to(wait, "bob@example.com")
    assert "ann@example.com was first" in (await opened(browser, late)).text


async def test_who_comes_second_learns_who_was_first(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    wait = await linking.question(DECISION)
    path = link_to(wait, "bob@example.com")
    page = await opened(browser, path)
    await linking.answer(wait, {"approve": False}, by="<b>ann</b>")
    answer = await browser.post(path, data={**page.hidden(), "answer/approve": "true", "answer/note": "a long reason"})
    assert answer.status_code == 409
    shown = Page(answer.text)
    assert "<b>ann</b> was first" in shown.text
    assert "Your answer was not used." in shown.text
    assert '{ "approve": false }' in shown.text
    assert "a long reason" in shown.text
    assert await runs_of(linking, wait) == 1


async def test_of_ten_people_at_once_one_counts(linking: Any, link_to: LinkTo) -> None:
    wait = await linking.question({"enum": ["left", "right"]})

    async def person(number: int) -> int:
        async with httpx.AsyncClient(base_url=linking.url, timeout=30) as own:
            return (await send(own, link_to(wait, f"person {number}"), {"answer": str(number % 2)})).status_code

    assert sorted(await asyncio.gather(*map(person, range(10)))) == [303] + [409] * 9
    assert await runs_of(linking, wait) == 1


async def test_a_repeat_of_the_answer_is_safe(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    wait = await linking.question({"type": "boolean"})
    path = link_to(wait)
    page = await opened(browser, path)
    cookies = dict(browser.cookies)
    fields = {**page.hidden(), "answer": "true"}
    for _ in range(2):
        browser.cookies.update(cookies)
        assert (await browser.post(path, data=fields)).status_code == 303
    assert await runs_of(linking, wait) == 1


async def test_a_wrong_answer_is_shown_again(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    wait = await linking.question(DECISION)
    path = link_to(wait)
    fields = {"answer/approve": "true", "answer/limit": "<b>many</b>", "answer/note": '<i>"kept"</i>\n'}
    answer = await send(browser, path, fields)
    assert answer.status_code == 422
    page = Page(answer.text)
    assert "Must be a number" in page.text
    assert "Nothing was sent yet" in page.text
    values = [attributes for tag, attributes in page.tags if tag == "input" and attributes["name"] == "answer/limit"]
    assert [(one["value"], one["aria-invalid"]) for one in values] == [("<b>many</b>", "true")]
    assert "&lt;i&gt;&#34;kept&#34;&lt;/i&gt;\n</textarea>" in answer.text
    answer = await browser.post(path, data={**page.hidden(), "answer/approve": "true", "answer/limit": "-1"})
    assert answer.status_code == 422
    assert "-1 is less than the minimum of 0" in Page(answer.text).text
    assert await runs_of(linking, wait) == 0
    answer = await browser.post(path, data={**page.hidden(), "answer/approve": "false", "answer/limit": "1"})
    assert answer.status_code == 303


@pytest.mark.parametrize(
    ("expires", "says"), [(timedelta(hours=-1), "This link has expired"), (timedelta(seconds=-1), "It was good until")]
)
async def test_an_expired_link(
    linking: Any, link_to: LinkTo, browser: httpx.AsyncClient, expires: Any, says: str
) -> None:
    wait = await linking.question(DECISION, question="something secret")
    path = link_to(wait, expires_at=now() + expires)
    page = await opened(browser, path, 410)
    assert says in page.text
    assert "something secret" not in page.text
    assert (await browser.post(path, data={"answer/approve": "true"})).status_code == 410
    assert await runs_of(linking, wait) == 0


async def test_a_forged_link(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient, links: Any) -> None:
    wait = await linking.question(DECISION, question="something secret")
    path = link_to(wait)
    other = await linking.question(DECISION)
    claims, tag = path.split("."), link_to(other).split(".")[1]
    for forged in (
        path[:-2],
        f"{claims[0]}.{tag}",
        path + "x",
        "/answer/%00",
        "/answer/..%2f",
        "/answer/" + "a" * 5000,
    ):
        page = await opened(browser, forged, 404)
        assert "This link does not work" in page.text
        assert "something secret" not in page.text
        assert (await browser.post(forged, data={"answer/approve": "true"})).status_code == 404
    assert await runs_of(linking, wait) == 0


async def test_a_link_is_good_in_its_tenant_only(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    wait = await linking.question(DECISION, tenant="acme")
    await opened(browser, link_to(wait))
    assert "The question is gone" in (await opened(browser, link_to({**wait, "tenant": "other"}), 404)).text


async def test_a_question_that_is_over(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    closed = await linking.question(DECISION, status=WaitStatus.CLOSED.value, ended_at=now())
    assert "Nobody needs to answer this any more" in (await opened(browser, link_to(closed))).text
    wait = await linking.question(DECISION, events=("reply",))
    page = await opened(browser, link_to(wait))
    path = f"/threads/{wait['thread_id']}/signals/reply"
    assert (await linking.http.post(path, json={"payload": 1})).status_code == 202
    answer = await browser.post(link_to(wait), data={**page.hidden(), "answer/approve": "true"})
    assert answer.status_code == 409
    assert "Nobody needs to answer this any more" in Page(answer.text).text


async def test_a_form_of_another_site_is_refused(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    wait, other = await linking.question(DECISION), await linking.question(DECISION)
    path = link_to(wait)
    page = await opened(browser, path)
    good = {**page.hidden(), "answer/approve": "true", "answer/note": "kept"}
    mine = dict(browser.cookies)
    elsewhere = (await opened(browser, link_to(other))).hidden()["proof"]
    attempts: list[tuple[dict[str, str], dict[str, str]]] = [
        (good, {"Cookie": ""}),
        (good, {"Cookie": "perdure_answer=somebody-elses-cookie-value"}),
        ({**good, "proof": ""}, {}),
        ({**good, "proof": elsewhere}, {}),
        ({**good, "proof": "é"}, {}),
        (good, {"Sec-Fetch-Site": "cross-site"}),
    ]
    for fields, headers in attempts:
        answer = await browser.post(path, data=fields, headers=headers)
        assert answer.status_code == 403, headers
        assert "kept" in answer.text
    assert await runs_of(linking, wait) == 0
    browser.cookies.update(mine)
    assert (await browser.post(path, data=good, headers={"Sec-Fetch-Site": "same-origin"})).status_code == 303


async def test_another_action_is_refused(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    wait = await linking.question(DECISION, action={"pay": 82_000})
    path = link_to(wait)
    for shown in (digest({"pay": 820}), ""):
        answer = await send(browser, path, {"answer/approve": "true", "action_digest": shown})
        assert answer.status_code == 409
        assert "read it again" in answer.text
    assert await runs_of(linking, wait) == 0


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"x" * (2 * 1024 * 1024 + 1), "application/x-www-form-urlencoded", 413),
        (b"a=%ff", "application/x-www-form-urlencoded", 400),
        (b"a=1&" * 6000, "application/x-www-form-urlencoded", 400),
        (b"{}", "application/json", 415),
    ],
)
async def test_what_is_no_form_is_refused(linking: Any, link_to: LinkTo, body: bytes, kind: str, status: int) -> None:
    wait = await linking.question(DECISION)
    answer = await linking.http.post(link_to(wait), content=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


async def test_nothing_that_is_shown_is_executed(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    schema = {
        "title": XSS,
        "description": XSS,
        "type": "object",
        "properties": {
            XSS: {"title": XSS, "description": XSS, "type": "string", "default": XSS},
            "choice": {"title": XSS, "enum": [XSS, "plain"], "description": XSS, "default": XSS},
            "many": {"enum": [XSS, *map(str, range(20))]},
            "json": {"type": "array", "title": XSS, "default": [XSS]},
            "approve": {"type": "boolean", "title": XSS, "description": XSS},
        },
        "required": ["approve", XSS],
    }
    wait = await linking.question(
        schema, question=XSS, details={XSS: XSS, "deep": {XSS: [XSS]}}, action={XSS: XSS}, assigned_to=XSS,
        nodes=[XSS], graph=XSS,
    )  # fmt: skip
    path = link_to(wait, XSS)
    for answer in (
        await browser.get(path),
        await send(browser, path, {"answer/choice": XSS, "answer/json": XSS, "answer/many": XSS}),
    ):
        assert not {"script", "img"} & Page(answer.text).names()
        assert "1787569" not in Page(answer.text).text
        assert not [name for _, attributes in Page(answer.text).tags for name in attributes if name.startswith("on")]
        assert Page(answer.text).text.count(" ".join(XSS.split())) > 10
    await linking.answer(wait, {"approve": True, XSS: XSS}, by=XSS)
    ended = await browser.get(link_to(wait, "bob"))
    assert not {"script", "img"} & Page(ended.text).names()
    assert "was first" in ended.text


async def test_what_cannot_be_seen_is_written_out(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    wait = await linking.question(
        {"type": "boolean"}, question="Pay \u202e000,28\u202c?", action={"to": "bank\u200b.example"}
    )
    page = await opened(browser, link_to(wait))
    assert "Pay \\u{202e}000,28\\u{202c}?" in page.text
    assert '"bank\\u{200b}.example"' in page.text


async def test_links_appear_in_no_log(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    wait = await linking.question(DECISION)
    path = link_to(wait)
    with structlog.testing.capture_logs() as lines:
        await send(browser, path, {"answer/approve": "true"})
        await browser.get(path)
        await browser.put(path)
        await browser.get(path[:-3])
    metrics = (await linking.http.get("/metrics")).text
    problem = (await browser.put(path)).text
    token = path.rpartition("/")[2]
    for kept in (str(lines), metrics, problem):
        assert token[:40] not in kept
    assert re.search(r'route="/answer/{token}"', metrics)
    assert [line for line in lines if line["event"] == "gateway.answered_by_link"]


async def test_a_link_of_several_people_asks_for_a_name(
    linking: Any, link_to: LinkTo, browser: httpx.AsyncClient
) -> None:
    wait = await linking.question({"type": "boolean"})
    path = link_to(wait, "subscription:s-1")
    assert "You answer as" not in (await opened(browser, path)).text
    answer = await send(browser, path, {"answer": "true", "name": " \u202e\n"})
    assert answer.status_code == 422
    assert "Must be answered" in Page(answer.text).text
    answer = await send(browser, path, {"answer": "true", "name": "Zoë\nMüller"})
    assert answer.status_code == 303
    assert "Zoë Müller (subscription:s-1) answered at" in (await opened(browser, path)).text


@pytest.mark.parametrize("recipient", ["a" * 300, "zoe\n\x07@example.com", ""])
async def test_any_recipient_can_answer(
    linking: Any, link_to: LinkTo, browser: httpx.AsyncClient, recipient: str
) -> None:
    wait = await linking.question({"type": "boolean"})
    assert (await send(browser, link_to(wait, recipient), {"answer": "true"})).status_code == 303


async def test_a_broken_question_says_so(linking: Any, link_to: LinkTo, browser: httpx.AsyncClient) -> None:
    wait = await linking.question({"$ref": "https://elsewhere.example/schema"})
    assert "This question cannot be answered" in (await opened(browser, link_to(wait), 409)).text


async def test_without_a_secret_there_are_no_links(waiting: Any, link_to: LinkTo) -> None:
    wait = await waiting.question(DECISION)
    answer = await waiting.http.get(link_to(wait))
    assert answer.status_code == 404
    assert "cannot be answered by link here" in answer.text
