"""A person far away: asked by a real mail, answers by its link or by a reply, and the agent goes on."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from html import unescape
from typing import Any

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope
from tests.support.polling import until_blocking

from perdure.local.resources import free_port

pytestmark = pytest.mark.timeout(240)

DOMAIN = "mail.example.com"
SECRET = "between the mail server and the gateway"


class Post:
    """A mail server: keeps what goes to people, and brings what comes for the domain to the gateway."""

    def __init__(self) -> None:
        self.port = free_port()
        self.delivered: list[EmailMessage] = []
        self.gateway = ""
        self._server = Controller(self, hostname="127.0.0.1", port=self.port)

    async def handle_DATA(self, _: Any, __: Any, envelope: Envelope) -> str:  # noqa: N802 - the library's name
        content = bytes(envelope.content or b"")
        if not any(to.endswith(f"@{DOMAIN}") for to in envelope.rcpt_tos):
            self.delivered.append(message_from_bytes(content, policy=policy.default))  # type: ignore[arg-type]
            return "250 kept"
        headers = {"Content-Type": "message/rfc822", "Authorization": f"Bearer {SECRET}"}
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"{self.gateway}/inbound/email", content=content, headers=headers)
        return "250 brought" if answer.is_success else "451 try again"

    def __enter__(self) -> Post:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def send(self, message: EmailMessage) -> None:
        with smtplib.SMTP("127.0.0.1", self.port) as client:
            client.send_message(message)

    def to(self, thread_id: str) -> EmailMessage | None:
        return next((one for one in self.delivered if thread_id in one.get_body(("plain",)).get_content()), None)


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    with Post() as server:
        yield server


@pytest.fixture(scope="module")
def mailing(start_module_system: Any, post: Post) -> Any:
    """A system that sends mail to ada whenever an agent asks."""
    system = start_module_system(
        settings={
            "PERDURE_NOTIFIER_SMTP_HOST": "127.0.0.1",
            "PERDURE_NOTIFIER_SMTP_PORT": str(post.port),
            "PERDURE_NOTIFIER_SMTP_TLS": "none",
            "PERDURE_MAIL_DOMAIN": DOMAIN,
            "PERDURE_INBOUND_SECRET": SECRET,
        }
    )
    post.gateway = system.services.gateway_url
    subscription = {"scope": "tenant", "kinds": ["approval_wanted"], "channel": "email", "target": "ada@example.com"}
    system.http.post("/subscriptions", json=subscription).raise_for_status()
    return system


def link_in(mail: EmailMessage) -> str:
    found = re.search(r"http://\S+/answer/\S+", mail.get_body(("plain",)).get_content())
    assert found is not None
    return found[0]


def test_an_approval_is_answered_by_the_link_of_a_mail(mailing: Any, post: Post) -> None:
    run = mailing.start("asker", {"expires_s": 120})
    mail = until_blocking(lambda: post.to(run["thread_id"]), "the mail that asks")
    assert mail["To"] == "ada@example.com"
    assert mail["Reply-To"] is None, "a mail answers no question"
    with httpx.Client(follow_redirects=True) as browser:
        page = browser.get(link_in(mail)).text
        assert "May I?" in page
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
        answer = browser.post(
            link_in(mail), data={**{k: unescape(v) for k, v in hidden.items()}, "answer/approved": "true"}
        )
    assert "Your answer is recorded" in answer.text
    until_blocking(lambda: mailing.values(run["thread_id"]).get("log"), "the answer in the agent's log")
    assert mailing.values(run["thread_id"])["log"] == [["answered", {"approved": True}, "ada@example.com"]]


def test_a_reply_to_a_mail_wakes_the_agent(mailing: Any, post: Post) -> None:
    run = mailing.start("either", {"timeout_s": 120})
    mail = until_blocking(lambda: post.to(run["thread_id"]), "the mail that asks")
    reply = EmailMessage()
    reply["From"], reply["To"] = "Ada <ada@example.com>", mail["Reply-To"]
    reply["Subject"], reply["Message-ID"] = f"Re: {mail['Subject']}", "<reply-1@example.com>"
    reply["In-Reply-To"] = mail["Message-ID"]
    reply.set_content("Go on, please.\n\nOn Wednesday Perdure wrote:\n> Go on?\n")
    post.send(reply)
    post.send(reply)  # mail servers repeat themselves
    until_blocking(lambda: mailing.values(run["thread_id"]).get("log"), "the reply in the agent's log")
    assert mailing.values(run["thread_id"])["log"] == [["Received", "reply"]]
    (signal,) = mailing.http.get(f"/threads/{run['thread_id']}/signals").json()["signals"]
    assert signal["payload"]["text"] == "Go on, please."
    assert signal["payload"]["from_recipient"] is True
