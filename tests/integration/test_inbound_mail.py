"""Replies by mail, over HTTP on a real database: what wakes an agent, what is ignored, and that a replay changes nothing."""

from __future__ import annotations

import asyncio
import smtplib
import time
from collections.abc import Callable
from datetime import timedelta
from email.message import EmailMessage
from typing import Any

import httpx
import pytest
import structlog
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope

from perdure.chassis.clock import now
from perdure.chassis.outage import Availability
from perdure.chassis.payload import unpack
from perdure.gateway.answers.mail import heading_of
from perdure.local.resources import free_port
from perdure.registry.answer_links import ReplyAddress
from perdure.registry.reply_addresses import ReplyAddresses
from perdure.schemas.waits import Wait, WaitKind, WaitOutcome, wake_key

LinkTo = Callable[..., str]

HEADERS = {"Content-Type": "message/rfc822", "Authorization": "Bearer between the mail server and us"}


async def given_out(linking: Any, links: Any, wait: dict[str, Any] | None, **more: Any) -> ReplyAddress:
    """What a notifier does before it sends a mail."""
    claims: dict[str, Any] = {
        "thread_id": wait["thread_id"] if wait else await linking.thread(),
        "tenant": "default",
        "recipient": "Zoë <zoe@example.com>",
        "wait_id": wait["_id"] if wait else None,
        "events": wait["events"] if wait else (),
        "expires_at": now() + timedelta(days=2),
    }
    reply: ReplyAddress = links.reply_to(**claims | more)
    await ReplyAddresses(linking.database, Availability()).store(reply.document)
    return reply


def mail(
    to: str, text: str = "Monday is fine.\n\nOn Tuesday Perdure wrote:\n> Monday?\n", **headers: str
) -> EmailMessage:
    message = EmailMessage()
    for name, value in {"From": "Zoe <ZOE@example.com>", "Subject": "Re: Interview", "Message-ID": "<m-1@x>"}.items():
        message[name] = headers.pop(name.replace("-", "_"), value)
    message["To"] = to
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message.set_content(text)
    return message


async def receive(linking: Any, raw: bytes, **headers: str) -> httpx.Response:
    answer: httpx.Response = await linking.http.post("/inbound/email", content=raw, headers=HEADERS | headers)
    return answer


async def event_wait(linking: Any, *events: str) -> dict[str, Any]:
    wait: dict[str, Any] = await linking.wait(Wait(kind=WaitKind.EVENT, events=events or ("reply",)))
    return wait


async def outcome_of(linking: Any, wait: dict[str, Any]) -> WaitOutcome | None:
    run = await linking.database.runs.find_one({"tenant": "default", "idempotency_key": wake_key(wait["_id"])})
    return WaitOutcome.model_validate(*unpack(run["payload"])["command"]["resume"].values()) if run else None


async def test_a_reply_wakes_the_agent(linking: Any, links: Any) -> None:
    wait = await event_wait(linking, "reply", "cancelled")
    address = await given_out(linking, links, wait)
    answer = await receive(linking, mail(address.address.upper()).as_bytes())
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert (body["accepted"], body["name"], body["delivered"]) == (True, "reply", True)
    outcome = await outcome_of(linking, wait)
    assert outcome is not None
    assert outcome.name == "reply"
    assert outcome.payload == {
        "from": "ZOE@example.com",
        "from_name": "Zoe",
        "from_recipient": True,
        "subject": "Re: Interview",
        "text": "Monday is fine.",
        "full_text": "Monday is fine.\n\nOn Tuesday Perdure wrote:\n> Monday?",
        "truncated": False,
        "attachments": [],
        "sent_at": None,
        "message_id": "<m-1@x>",
    }


@pytest.mark.parametrize("header", ["In-Reply-To", "References"])
async def test_a_reply_to_another_address_is_known_by_what_it_answers(linking: Any, links: Any, header: str) -> None:
    wait = await event_wait(linking)
    address = await given_out(linking, links, wait)
    message = mail("perdure@example.com", From="assistant@example.com")
    message[header] = f"<first@x> {address.message_id('delivery-7')}"
    assert (await receive(linking, message.as_bytes())).status_code == 202
    outcome = await outcome_of(linking, wait)
    assert outcome is not None
    assert outcome.payload["from_recipient"] is False


async def test_a_replay_changes_nothing(linking: Any, links: Any) -> None:
    wait = await event_wait(linking)
    address = await given_out(linking, links, wait)
    raw = mail(address.address).as_bytes()
    answers = await asyncio.gather(*(receive(linking, raw) for _ in range(5)))
    accepted = [answer.json() for answer in answers if answer.status_code == 202]
    assert len({one["signal_id"] for one in accepted}) == 1, "those of the same millisecond are one write"
    assert {answer.status_code for answer in answers} <= {200, 202}
    changed = await receive(linking, mail(address.address, "something else\n").as_bytes())
    assert (changed.status_code, changed.json()["reason"]) == (200, "replayed")
    assert await linking.database.signals.count_documents({"thread_id": wait["thread_id"]}) == 1
    again = await receive(linking, mail(address.address, "a second thought\n", Message_ID="<m-2@x>").as_bytes())
    assert (again.status_code, again.json()["state"]) == (202, "free")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Auto_Submitted": "auto-replied"}, "automatic"),
        ({"Precedence": "bulk"}, "automatic"),
        ({"Return_Path": "<>"}, "automatic"),
        ({"Delivered_To": "reply+abcdefghijklmnopqrstuvwxyz234567@mail.example.com", "to": "x@y"}, "unknown-address"),
        ({"to": "nobody@example.com"}, "unknown-address"),
    ],
)
async def test_what_is_ignored_is_logged(linking: Any, links: Any, headers: dict[str, str], reason: str) -> None:
    wait = await event_wait(linking)
    address = await given_out(linking, links, wait)
    to = headers.get("to", address.address)
    message = mail(to, **{name: value for name, value in headers.items() if name != "to"})
    with structlog.testing.capture_logs() as lines:
        answer = await receive(linking, message.as_bytes())
    assert (answer.status_code, answer.json()["accepted"], answer.json()["reason"]) == (200, False, reason)
    (line,) = [one for one in lines if one["event"] == "gateway.mail_ignored"]
    assert (line["reason"], line["message_id"]) == (reason, "<m-1@x>")
    assert address.token not in str(lines)
    assert await linking.database.signals.count_documents({"thread_id": wait["thread_id"]}) == 0


async def test_an_expired_address(linking: Any, links: Any) -> None:
    wait = await event_wait(linking)
    address = await given_out(linking, links, wait, expires_at=now() - timedelta(seconds=1))
    answer = await receive(linking, mail(address.address).as_bytes())
    assert (answer.status_code, answer.json()["reason"]) == (200, "expired")


async def test_a_mail_never_answers_a_question(linking: Any, links: Any) -> None:
    wait = await linking.question({"type": "boolean"})
    address = await given_out(linking, links, wait)
    answer = await receive(linking, mail(address.address, "yes\n").as_bytes())
    assert (answer.status_code, answer.json()["reason"]) == (200, "question-needs-link")
    assert await outcome_of(linking, wait) is None
    either = await linking.question({"type": "boolean"}, events=("reply",))
    address = await given_out(linking, links, either)
    assert (await receive(linking, mail(address.address, "yes\n").as_bytes())).status_code == 202
    outcome = await outcome_of(linking, either)
    assert outcome is not None
    assert (outcome.kind, outcome.payload["text"]) == ("signal", "yes")


async def test_a_mail_about_no_wait_is_kept(linking: Any, links: Any) -> None:
    address = await given_out(linking, links, None)
    answer = await receive(linking, mail(address.address).as_bytes())
    assert (answer.status_code, answer.json()["name"], answer.json()["state"]) == (202, "email", "free")


async def test_who_may_bring_mail(linking: Any, links: Any, waiting: Any) -> None:
    raw = mail("x@y").as_bytes()
    for given in ("", "Bearer", "Bearer something else", "Bearer é"):
        answer = await linking.http.post(
            "/inbound/email", content=raw, headers={"Content-Type": "message/rfc822", "Authorization": given.encode()}
        )
        assert answer.status_code == 401
    without = await waiting.http.post("/inbound/email", content=raw, headers={"Content-Type": "message/rfc822"})
    assert without.status_code == 404, "no mail domain is set"


async def test_a_mail_of_nothing_but_headers_is_read_as_far_as_it_counts(linking: Any, links: Any) -> None:
    address = await given_out(linking, links, None)
    raw = f"To: {address.address}\r\n".encode() + b"A: b\r\n" * 1_000_000 + b"Auto-Submitted: auto-replied\r\n\r\nHi"
    answer = await receive(linking, raw)
    assert answer.status_code == 202, "what comes after the first 256 KiB of the headers does not count"
    began = time.process_time()
    heading_of(raw)
    assert time.process_time() - began < 1


async def test_what_is_no_mail_is_refused(linking: Any, problem_of: Any) -> None:
    problem_of(await receive(linking, b"{}", **{"Content-Type": "application/json"}), 415, "unsupported-media-type")
    problem_of(await receive(linking, b"x" * (32 * 1024 * 1024 + 1)), 413, "body-too-large")
    answer = await receive(linking, b"\0\xff", **{"Content-Type": "application/octet-stream"})
    assert answer.json()["reason"] == "unknown-address"


async def test_a_huge_mail(linking: Any, links: Any) -> None:
    wait = await event_wait(linking)
    address = await given_out(linking, links, wait)
    message = mail(address.address, "Here is my portfolio.\n")
    message.add_attachment(b"\0" * (5 * 1024 * 1024), maintype="application", subtype="zip", filename="portfolio.zip")
    assert (await receive(linking, message.as_bytes())).status_code == 202
    outcome = await outcome_of(linking, wait)
    assert outcome is not None
    assert outcome.payload["text"] == "Here is my portfolio."
    assert outcome.payload["attachments"] == [
        {"name": "portfolio.zip", "type": "application/zip", "bytes": 5 * 1024 * 1024}
    ]


class Bringing:
    """What a mail server is configured to do: add the envelope's recipient, and post the mail."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def handle_DATA(self, _: Any, __: Any, envelope: Envelope) -> str:  # noqa: N802 - the library's name
        raw = b"".join(b"Delivered-To: %s\r\n" % to.encode() for to in envelope.rcpt_tos) + bytes(
            envelope.content or b""
        )
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"{self.url}/inbound/email", content=raw, headers=HEADERS)
        return "250 taken" if answer.is_success else "451 try again"


async def test_through_a_real_mail_server(linking: Any, links: Any) -> None:
    wait = await event_wait(linking)
    address = await given_out(linking, links, wait)
    port = free_port()
    server = Controller(Bringing(linking.url), hostname="127.0.0.1", port=port)
    server.start()
    try:
        message = mail("Hiring <hiring@example.com>", "Grüße aus Zürich – gern.\n")
        message.add_alternative("<p>Grüße aus Zürich</p>", subtype="html")

        def send() -> None:
            with smtplib.SMTP("127.0.0.1", port) as client:
                client.send_message(message, "zoe@example.com", [address.address])

        await asyncio.to_thread(send)
    finally:
        server.stop()
    outcome = await outcome_of(linking, wait)
    assert outcome is not None
    assert outcome.payload["text"] == "Grüße aus Zürich – gern."
