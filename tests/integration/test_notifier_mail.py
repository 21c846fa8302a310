"""E-mail against real SMTP servers, with and without TLS; Slack against a receiver."""

from __future__ import annotations

import asyncio
import email
import email.policy
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiosmtpd.smtp import SMTP, AuthResult
from tests.integration.notifier_stage import Stage, receiving, staged, succeeded

from perdure.schemas.events import InterruptInfo, RunInterrupted
from perdure.schemas.waits import Question, Wait, WaitKind

LINKS = {
    "link_secret": "s" * 32,
    "public_url": "https://agents.example.com",
    "mail_domain": "mail.example.com",
}
EVIL = '<script>alert(1)</script>" onload="x\r\nBcc: eve@example.com'


class Mailbox:
    """A mail server's handler: keeps mails, and refuses what a test says."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.recipients: list[str] = []
        self.refusals: dict[str, list[str]] = {}

    async def handle_RCPT(self, _: Any, __: Any, envelope: Any, address: str, ___: Any) -> str:  # noqa: N802
        if said := self.refusals.get(address):
            return said.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _: Any, __: Any, envelope: Any) -> str:  # noqa: N802
        self.recipients += envelope.rcpt_tos
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"

    def to(self, address: str) -> list[Any]:
        return [mail for mail in self.mails if mail["To"] == address]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of localhost, key and certificate in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def served(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@asynccontextmanager
async def mail_server(
    mailbox: Mailbox, *, tls: ssl.SSLContext | None = None, starttls: ssl.SSLContext | None = None, **more: Any
) -> AsyncIterator[int]:
    """A mail server on a free port."""

    def serve() -> SMTP:
        return SMTP(mailbox, tls_context=starttls, require_starttls=starttls is not None, **more)

    server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def smtp(port: int, tls: str = "none", **more: Any) -> dict[str, Any]:
    return {
        "notifier_smtp_host": "localhost",
        "notifier_smtp_port": port,
        "notifier_smtp_tls": tls,
        "notifier_mail_from": "perdure@example.com",
        "notifier_timeout_s": 3.0,
        **more,
    }


@pytest.fixture(scope="module")
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture(scope="module")
async def stage(database_uri: str, mailbox: Mailbox) -> AsyncIterator[Stage]:
    async with mail_server(mailbox) as port, staged(database_uri, **smtp(port), **LINKS) as found:
        yield found


def asks(tenant: str, interrupt: str = "i0", **question: Any) -> RunInterrupted:
    due_at = datetime.now(UTC) + timedelta(hours=2)
    asked = Question(
        **({"question": "Pay 82,000?", "action": {"pay": 82000}, "assigned_to": "ann@example.com"} | question)
    )
    value = Wait(kind=WaitKind.APPROVAL, due_at=due_at, question=asked, events=("reply",)).value()
    like = succeeded(tenant).model_dump(exclude={"steps", "checkpoint_id"})
    return RunInterrupted(**like, interrupts=(InterruptInfo(id=interrupt, value=value),), next=("pay",))


async def test_a_mail_says_what_happened(stage: Stage, mailbox: Mailbox) -> None:
    (delivery,) = await stage.tell("zoe@example.com", channel="email")
    done = await stage.until(delivery, "delivered")
    (mail,) = mailbox.to("zoe@example.com")
    assert mail["From"] == "Perdure <perdure@example.com>"
    assert mail["Subject"] == "audit has finished"
    assert mail["Message-ID"] == f"<{delivery['_id']}@example.com>"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    assert delivery["thread_id"] in mail.get_body(("plain",)).get_content()
    assert done["attempts"][0]["status"] == 250


async def test_a_question_goes_to_whoever_is_asked_and_can_be_answered(stage: Stage, mailbox: Mailbox) -> None:
    subscription = await stage.subscribe("assigned_to", ("approval_wanted",), channel="email")
    question = asks(subscription["tenant"])
    await stage.happen(question, question)
    (delivery,) = await stage.deliveries(subscription)
    await stage.until(delivery, "delivered")
    (mail,) = mailbox.to("ann@example.com")
    assert mail["Reply-To"].startswith("reply+")
    assert mail["Message-ID"].endswith(f".{delivery['_id']}@mail.example.com>")
    assert "https://agents.example.com/answer/" in mail.get_body(("html",)).get_content()
    (address,) = await stage.db.reply_addresses.find({"thread_id": question.thread_id}).to_list(None)
    assert (address["wait_id"], address["events"]) == (f"{question.thread_id}:i0", ["reply"])
    assert mail["Reply-To"].partition("@")[0].removeprefix("reply+") not in str(address), "only its digest is stored"


async def test_a_plain_interrupt_is_mailed_readably_with_its_link_and_takes_no_reply(
    stage: Stage, mailbox: Mailbox
) -> None:
    subscription = await stage.subscribe("max@example.com", ("approval_wanted",), channel="email")
    call = {"name": "send_mail", "args": {"to": EVIL, "lines": ["one", "two"]}}
    value = {
        "action_requests": [call | {"description": "Shall I send it?"}],
        "review_configs": [{"action_name": "send_mail", "allowed_decisions": ["approve", "reject"]}],
    }
    like = succeeded(subscription["tenant"]).model_dump(exclude={"steps", "checkpoint_id"})
    asked = RunInterrupted(**like, interrupts=(InterruptInfo(id="i0", value=value),), next=("tools",))
    await stage.happen(asked, asked)
    (delivery,) = await stage.deliveries(subscription)
    await stage.until(delivery, "delivered")
    (mail,) = mailbox.to("max@example.com")
    assert mail["Reply-To"] is None
    plain, html = (mail.get_body((kind,)).get_content().replace("\r\n", "\n") for kind in ("plain", "html"))
    assert mail["Subject"] == "audit asks: Shall I send it?"
    assert "name: send_mail\nargs:\n  to:" in plain
    assert "  lines:\n    - one\n    - two" in plain
    assert '{"' not in plain
    assert "<script>" not in html
    assert "https://agents.example.com/answer/" in plain


async def test_4xx_is_tried_again_under_the_same_message_id_and_5xx_is_dead(stage: Stage, mailbox: Mailbox) -> None:
    mailbox.refusals = {"busy@example.com": ["451 later"], "nobody@example.com": ["550 no such user"] * 9}
    (busy,) = await stage.tell("busy@example.com", channel="email")
    (nobody,) = await stage.tell("nobody@example.com", channel="email")
    done, dead = await stage.until(busy, "delivered"), await stage.until(nobody, "dead")
    assert [(one["status"], one["outcome"]) for one in done["attempts"]] == [(451, "retry"), (250, "delivered")]
    assert [one["status"] for one in dead["attempts"]] == [550]
    assert "no such user" in dead["reason"]
    assert len(mailbox.to("busy@example.com")) == 1


async def test_nothing_that_a_graph_writes_becomes_a_header_or_a_script(stage: Stage, mailbox: Mailbox) -> None:
    subscription = await stage.subscribe("eva@example.com", ("approval_wanted",), channel="email")
    question = asks(subscription["tenant"], question=EVIL, details={EVIL: EVIL}, action=EVIL, assigned_to=EVIL)
    await stage.happen(question.model_copy(update={"graph_id": EVIL, "next": (EVIL,)}))
    (delivery,) = await stage.deliveries(subscription)
    await stage.until(delivery, "delivered")
    (mail,) = mailbox.to("eva@example.com")
    assert mail["Bcc"] is None
    assert "<script>" not in mail.get_body(("html",)).get_content()
    assert 'onload="x' not in mail.get_body(("html",)).get_content()
    assert mailbox.recipients.count("eve@example.com") == 0


async def test_an_answered_question_is_not_told_any_more(stage: Stage, mailbox: Mailbox) -> None:
    subscription = await stage.subscribe("late@example.com", ("approval_expiring",), channel="email", lead_s=7199.5)
    subscription |= {"lead_s": 3600.0}
    question = asks(subscription["tenant"])
    await stage.happen(question)
    (delivery,) = await stage.deliveries(subscription)
    assert delivery["due_at"] > datetime.now(UTC) + timedelta(minutes=50)
    await stage.db.waits.insert_one({"_id": f"{question.thread_id}:i0", "status": "answered", "escalations": 0})
    await stage.db.deliveries.update_one({"_id": delivery["_id"]}, {"$set": {"due_at": datetime.now(UTC)}})
    dropped = await stage.until(delivery, "dropped")
    assert dropped["reason"] == "answered meanwhile"
    assert not mailbox.to("late@example.com")


async def test_a_digest_tells_once(stage: Stage, mailbox: Mailbox) -> None:
    subscription = await stage.subscribe("daily@example.com", channel="email", digest_s=1.0)
    await stage.happen(*(succeeded(subscription["tenant"], thread=f"digest-{n}") for n in range(3)))
    gathered = [one for one in await stage.deliveries(subscription) if one["kind"] == "completed"]
    assert {one["state"] for one in gathered} == {"gathered"}
    for one in gathered:
        assert (await stage.until(one, "delivered"))["digest"]
    mails = mailbox.to("daily@example.com")
    told = "".join(mail.get_body(("plain",)).get_content() for mail in mails)
    assert [told.count(f"audit has finished (digest-{n})") for n in range(3)] == [1, 1, 1]
    assert len(mails) <= 2, "the three may fall into two windows"


async def test_what_a_digest_missed_goes_into_the_next(stage: Stage, mailbox: Mailbox) -> None:
    subscription = await stage.subscribe("orphan@example.com", channel="email", digest_s=1.0)
    await stage.happen(succeeded(subscription["tenant"], thread="orphan-1"))
    notice = next(one for one in await stage.deliveries(subscription) if one["kind"] == "completed")
    await stage.until(notice, "delivered")
    # As if it had been stored when the digest was on its way already.
    long_ago = datetime.now(UTC) - timedelta(minutes=1)
    late = {"$set": {"state": "gathered", "created_at": long_ago}}
    await stage.db.deliveries.update_one({"_id": notice["_id"]}, late)
    await stage.db.deliveries.update_one({"_id": notice["digest"]}, {"$set": {"members": []}})
    await stage.parts.sweeper.turn()
    again = await stage.until(notice, "delivered")
    assert again["digest"] != notice["digest"]
    assert len(mailbox.to("orphan@example.com")) == 2


@pytest.mark.parametrize("mode", ["tls", "starttls"])
async def test_tls_with_a_certificate_that_is_trusted(database_uri: str, certificate: Path, mode: str) -> None:
    box = Mailbox()
    served_as = {mode: served(certificate)}
    async with (
        mail_server(box, **served_as) as port,
        staged(database_uri, **smtp(port, mode, notifier_smtp_ca_file=str(certificate / "cert.pem"))) as stage,
    ):
        (delivery,) = await stage.tell("ann@example.com", channel="email")
        await stage.until(delivery, "delivered")
    assert len(box.mails) == 1


@pytest.mark.parametrize("mode", ["tls", "starttls"])
async def test_a_certificate_that_is_not_trusted_sends_nothing(database_uri: str, certificate: Path, mode: str) -> None:
    box = Mailbox()
    served_as = {mode: served(certificate)}
    async with mail_server(box, **served_as) as port, staged(database_uri, **smtp(port, mode)) as stage:
        (delivery,) = await stage.tell("ann@example.com", channel="email")
        tried = await stage.attempts(delivery, 1)
        assert tried["state"] == "pending"
        assert "certificate" in tried["reason"].lower()
    assert not box.mails


async def test_a_server_without_starttls_is_not_trusted_in_the_clear(database_uri: str) -> None:
    box = Mailbox()
    async with mail_server(box) as port, staged(database_uri, **smtp(port, "starttls")) as stage:
        (delivery,) = await stage.tell("ann@example.com", channel="email")
        tried = await stage.attempts(delivery, 1)
        assert "STARTTLS" in tried["reason"].upper()
    assert not box.mails


async def test_it_logs_in(database_uri: str, certificate: Path) -> None:
    box, seen = Mailbox(), []

    def check(_: Any, __: Any, ___: Any, ____: str, data: Any) -> AuthResult:
        seen.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)

    options: dict[str, Any] = {"authenticator": check, "auth_required": True, "starttls": served(certificate)}
    async with mail_server(box, **options) as port:
        login = {"notifier_smtp_user": "me", "notifier_smtp_password": "right"}
        login["notifier_smtp_ca_file"] = str(certificate / "cert.pem")
        async with staged(database_uri, **smtp(port, "starttls", **login)) as stage:
            (delivery,) = await stage.tell("ann@example.com", channel="email")
            await stage.until(delivery, "delivered")
        login["notifier_smtp_password"] = "wrong-secret"
        async with staged(database_uri, **smtp(port, "starttls", **login)) as stage:
            (delivery,) = await stage.tell("ann@example.com", channel="email")
            tried = await stage.attempts(delivery, 1)
            assert tried["state"] == "pending"
            assert "PERDURE_NOTIFIER_SMTP_USER" in tried["reason"]
            assert "wrong-secret" not in str(tried)
    assert seen[0] == (b"me", b"right")


async def test_without_a_mail_server_a_mail_is_dead_with_what_to_do(database_uri: str) -> None:
    async with staged(database_uri) as stage:
        (delivery,) = await stage.tell("ann@example.com", channel="email")
        assert "PERDURE_NOTIFIER_SMTP_HOST" in (await stage.until(delivery, "dead"))["reason"]


async def test_slack_gets_blocks_with_a_button(database_uri: str) -> None:
    async with receiving() as slack, staged(database_uri, **LINKS) as stage:
        subscription = await stage.subscribe(f"{slack.url}/services/T0/B0/x", ("approval_wanted",), channel="slack")
        await stage.happen(asks(subscription["tenant"], question="Pay <!channel>?"))
        (delivery,) = await stage.deliveries(subscription)
        await stage.until(delivery, "delivered")
        (request,) = slack.got
        body = orjson.loads(request.body)
        assert [one["type"] for one in body["blocks"]][:2] == ["header", "section"]
        assert "<!channel>" not in body["text"]
        (actions,) = [one for one in body["blocks"] if one["type"] == "actions"]
        assert actions["elements"][0]["url"].startswith("https://agents.example.com/answer/")
