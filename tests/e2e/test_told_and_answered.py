"""examples/trader and examples/recruiter, told by mail and webhook, answered by link and by reply."""

from __future__ import annotations

import email
import email.policy
import json
import re
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from standardwebhooks import Webhook
from tests.e2e.market import Market
from tests.support.polling import until_blocking
from tests.support.web import RecordingServer, recording_server

from perdure.local.resources import free_port

pytestmark = pytest.mark.timeout(240)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
APPLICATION = json.loads((EXAMPLES / "recruiter" / "application.json").read_text())
BOSS = "boss@example.org"


class Mailbox:
    """What a mail server took."""

    def __init__(self) -> None:
        self.letters: list[EmailMessage] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002, N802
        assert isinstance(envelope.content, bytes)
        self.letters.append(email.message_from_bytes(envelope.content, policy=email.policy.default))  # type: ignore[arg-type]
        return "250 OK"

    def to(self, address: str) -> list[EmailMessage]:
        return [letter for letter in self.letters if address in str(letter["To"])]


@pytest.fixture(scope="module")
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box, port = Mailbox(), free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, port
    controller.stop()


@pytest.fixture(scope="module")
def hooks() -> Iterator[RecordingServer]:
    with recording_server() as server:
        yield server


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    made = Market(tmp_path_factory.mktemp("market"))
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def system(
    start_module_system: Any, mailbox: tuple[Mailbox, int], market: Market, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    names = ("recruiter", "trader")
    config = {
        "dependencies": [str(EXAMPLES / name) for name in names],
        "graphs": {name: str(EXAMPLES / name / "agent.py:graph") for name in names},
    }
    file = tmp_path_factory.mktemp("project") / "langgraph.json"
    file.write_text(json.dumps(config))
    port = free_port()
    started = start_module_system(
        settings={
            "PERDURE_LANGGRAPH_CONFIG": str(file),
            "PERDURE_GATEWAY_PORT": str(port),
            "PERDURE_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "PERDURE_LINK_SECRET": "0123456789abcdef" * 4,
            "PERDURE_MAIL_DOMAIN": "agents.example.org",
            "PERDURE_INBOUND_SECRET": "of the mail server",
            "PERDURE_NOTIFIER_ALLOWED_TARGETS": '["127.0.0.0/8"]',
            "PERDURE_NOTIFIER_SMTP_HOST": "127.0.0.1",
            "PERDURE_NOTIFIER_SMTP_PORT": str(mailbox[1]),
            "PERDURE_NOTIFIER_SMTP_TLS": "none",
            "SMTP_URL": f"smtp://127.0.0.1:{mailbox[1]}",
            "TRADER_QUOTES_URL": market.quotes_url,
            "TRADER_BROKER_URL": market.broker_url,
        }
    )
    until_blocking(market.answers, "the market answers")
    return started


def subscribe(system: Any, **body: Any) -> Any:
    answer = system.http.post("/subscriptions", json={"scope": "tenant", **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


def approve(link: str) -> httpx.Response:
    """What a browser does whose user clicks "Approve"."""
    with httpx.Client(timeout=30) as browser:
        page = browser.get(link)
        assert page.status_code == 200, page.text
        hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page.text)
        yes = re.search(r'<button class="yes" type="submit" name="([^"]+)" value="true">Approve', page.text)
        flag = re.search(r'<input type="radio" name="([^"]+)" value="true"', page.text)
        chosen = yes or flag
        assert chosen is not None, page.text
        return browser.post(
            link, data={**dict(hidden), chosen[1]: "true"}, headers={"Origin": link[: link.index("/answer")]}
        )


def test_the_trader_asks_by_mail_and_is_answered_by_link(
    system: Any, mailbox: tuple[Mailbox, int], hooks: RecordingServer, market: Market
) -> None:
    box = mailbox[0]
    subscribe(system, channel="email", target=BOSS, kinds=["approval_wanted"])
    hook = subscribe(system, channel="webhook", target=hooks.url("/hook"), kinds=["completed"])
    market.costs(12)
    run = system.start("trader", {"symbol": "ACME", "budget": 1200, "believed": 10})
    thread_id = run["thread_id"]
    (letter,) = until_blocking(lambda: box.to(BOSS), "the mail that asks")
    body = letter.get_body(("plain",))
    assert body is not None
    text = body.get_content()
    assert "Shall I buy" in text, "the mail says what is asked"
    link = re.search(r"http://127\.0\.0\.1:\d+/answer/\S+", text)
    assert link is not None, text
    for _ in range(3):  # mail scanners
        assert httpx.get(link[0]).status_code == 200
    assert httpx.head(link[0]).status_code == 200
    (asked,) = system.http.get("/approvals", params={"thread_id": thread_id}).json()["approvals"]
    assert asked["action"]["limit"] in {12.12, 12.24}, "nothing is answered by looking"
    assert market.orders() == []
    answered = approve(link[0])
    assert answered.status_code in {200, 303}, answered.text
    until_blocking(lambda: len(market.orders()) == 1, "one order")
    (order,) = market.orders()
    assert asked["action"].items() <= order.items(), "bought is what was approved"
    woken = until_blocking(
        lambda: system.db.runs.find_one({"thread_id": thread_id, "status": "success"}),
        "the run that was woken succeeds",
    )
    assert woken["wait_id"]
    again = httpx.get(link[0])
    assert "You answered" in again.text, "whoever opens it later sees who answered"
    assert system.db.waits.find_one({"thread_id": thread_id, "kind": "approval"})["outcome"]["by"] == BOSS
    assert 'name="proof"' not in again.text, "there is nothing left to send"

    (request,) = until_blocking(lambda: hooks.requests[:1], "the webhook of the end")
    told = Webhook(hook["secret"]).verify(request.body, request.headers)
    assert told["data"]["thread_id"] == thread_id
    assert len(box.to(BOSS)) == 1
    delivered = system.http.get("/deliveries", params={"thread_id": thread_id}).raise_for_status().json()["items"]
    assert {one["state"] for one in delivered} == {"delivered"}


def test_the_recruiter_is_answered_by_replying_to_its_mail(system: Any, mailbox: tuple[Mailbox, int]) -> None:
    box, candidate = mailbox[0], "ada@example.org"
    application = {**APPLICATION, "candidate": {"name": "Ada", "email": candidate}}
    run = system.start("recruiter", application)
    (asked,) = until_blocking(lambda: box.to(candidate), "the mail that asks")
    address = str(asked["Reply-To"])
    assert re.fullmatch(r"reply\+[a-z2-7]{32}@agents\.example\.org", address), address
    reply = EmailMessage()
    reply["From"], reply["To"], reply["Subject"] = f"Ada <{candidate}>", address, f"Re: {asked['Subject']}"
    reply["Message-ID"], reply["In-Reply-To"] = "<reply-1@example.org>", asked["Message-ID"]
    reply.set_content("2\n\nOn Monday you wrote:\n> Which of these suits you?\n> 1. Tuesday\n")

    def receive(letter: EmailMessage) -> Any:
        answer = system.http.post(
            "/inbound/email",
            content=letter.as_bytes(),
            headers={"Content-Type": "message/rfc822", "Authorization": "Bearer of the mail server"},
        )
        assert answer.status_code in {200, 202}, answer.text
        return answer.json()

    assert receive(reply)["accepted"] is True
    until_blocking(lambda: (system.values(run["thread_id"]) or {}).get("outcome"), "the agent's outcome")
    values = system.values(run["thread_id"])
    assert (values["outcome"], values["interview"]) == ("interview", APPLICATION["slots"][1])
    receive(reply)
    forged = EmailMessage()
    forged["From"], forged["To"], forged["Message-ID"] = (
        "eve@example.org",
        f"reply+{'a' * 32}@agents.example.org",
        "<x@y>",
    )
    forged.set_content("1")
    assert receive(forged)["accepted"] is False
    assert system.db.signals.count_documents({"thread_id": run["thread_id"]}) == 1
    assert [str(letter["Subject"]).partition(":")[0] for letter in box.to(candidate)] == ["Interview", "Confirmed"]
