"""What mails, Slack and webhooks say: nothing that people or graphs write can break out of its place."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from standardwebhooks import Webhook

from perdure.notifier.channels.email import mail_of
from perdure.notifier.channels.slack import escape, message_of
from perdure.notifier.channels.webhook import body_of, headers_of
from perdure.notifier.composing import VALUE_LIMIT, Composed, Composer, readable, words_of
from perdure.notifier.settings import NotifierSettings
from perdure.registry.answer_links import AnswerLinks
from perdure.registry.subscriptions import new_secret
from perdure.schemas.notices import TYPES

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
EVIL = "<script>alert(1)</script>\r\nBcc: eve@example.com\n<!channel> <https://evil.example|click> & \"'>{{ 7 * 7 }}\x00\x1b[31m"
FIELDS = (
    "thread_id", "run_id", "graph_id", "assistant_id", "batch_id", "status", "nodes", "assigned_to", "asked_before",
    "expires_at", "since", "stuck_since", "expected_by", "threshold", "action", "action_digest", "question", "details",
    "reason", "answer_schema",
)  # fmt: skip


class NoAddresses:
    """Keeps reply addresses for a test."""

    stored: list[Any]

    def __init__(self) -> None:
        self.stored = []

    async def store(self, document: Any) -> None:
        self.stored.append(document)


def delivery(kind: str, channel: str = "email", **data: Any) -> dict[str, Any]:
    return {
        "_id": "msg_00112233445566778899aabbccddeeff",
        "tenant": "acme",
        "subscription_id": "s1",
        "kind": kind,
        "channel": channel,
        "target": "ann@example.com",
        "thread_id": "th",
        "occurred_at": NOW,
        "created_at": NOW,
        "data": data,
        "wait_id": "th:i0" if kind.startswith("approval") else None,
        "question_due_at": None,
    }


def hostile(kind: str) -> dict[str, Any]:
    data: dict[str, Any] = dict.fromkeys(FIELDS, EVIL)
    data |= {
        "error": {"type": EVIL, "message": EVIL, "node": EVIL},
        "metadata": {EVIL: EVIL},
        "details": {EVIL: [EVIL]},
    }
    data |= {"count": 2, "notices": [{"kind": "failed", "data": {"graph_id": EVIL, "thread_id": EVIL}}] * 2}
    return delivery(kind, **data)


@pytest.fixture
def composer() -> Composer:
    links = AnswerLinks(["x" * 32], "https://agents.example.com", "mail.example.com")
    return Composer(links, NoAddresses(), 30)  # type: ignore[arg-type]


def parsed(composed: Composed, told: dict[str, Any]) -> Any:
    raw = mail_of(told, composed, NotifierSettings(notifier_mail_name=EVIL)).as_bytes()
    return email.message_from_bytes(raw, policy=email.policy.default)


@pytest.mark.parametrize("kind", sorted(TYPES))
async def test_a_mail_holds_no_script_and_no_header_of_others(kind: str, composer: Composer) -> None:
    told = hostile(kind)
    mail = parsed(await composer.compose(told), told)
    assert mail["Bcc"] is None
    assert mail["To"] == "ann@example.com"
    assert "\n" not in mail["Subject"]
    assert mail["Auto-Submitted"] == "auto-generated"
    html = mail.get_body(("html",)).get_content()
    assert "<script>" not in html
    assert "<https://evil" not in html
    if kind not in ("test", "batch_finished", "batch_threshold"):
        assert "&lt;script&gt;" in html
    assert "49" not in mail.get_body(("plain",)).get_content().replace("{{ 7 * 7 }}", "")


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_slack_neither_links_nor_mentions(kind: str) -> None:
    message = message_of(words_of(hostile(kind)))
    assert len(message["blocks"]) <= 50
    assert "<" not in message["text"]
    for block in message["blocks"]:
        texts = [block.get("text"), *block.get("fields", []), *block.get("elements", [])]
        for text in texts:
            if isinstance(text, dict) and text.get("type") == "mrkdwn":
                assert text["verbatim"] is True, "Slack would make a link of an address in it"
                assert "<" not in text["text"]
                assert ">" not in text["text"]


def test_escaping_is_cut_between_characters() -> None:
    for limit in range(10, 60):
        shown = escape("a<b>&" * 20, limit)
        assert len(shown) <= limit
        assert not any(part and not part.startswith(("lt;", "gt;", "amp;")) for part in shown.split("&")[1:])
    assert escape("&lt;", 100) == "&amp;lt;"


async def test_a_question_can_be_answered_from_the_mail(composer: Composer) -> None:
    told = delivery(
        "approval_wanted", question="Pay 82,000?", events=["reply"], action={"pay": 82000}, graph_id="payer"
    )
    composed = await composer.compose(told)
    mail = parsed(composed, told)
    url = composed.answer_url
    assert url is not None
    assert url.startswith("https://agents.example.com/answer/")
    assert url in mail.get_body(("plain",)).get_content()
    assert url in mail.get_body(("html",)).get_content()
    assert mail["Reply-To"] == composed.reply_to
    assert mail["Message-ID"] == composed.message_id
    assert '"pay": 82000' in mail.get_body(("plain",)).get_content()
    again = await composer.compose(told)
    assert (again.answer_url, again.reply_to, again.message_id) == (url, composed.reply_to, composed.message_id)
    assert composer._addresses.stored[0]["events"] == ["reply"]  # type: ignore[attr-defined]


async def test_no_reply_is_offered_where_a_reply_would_be_ignored(composer: Composer) -> None:
    told = delivery("approval_wanted", question="Pay 82,000?", events=[], graph_id="payer")
    composed = await composer.compose(told)
    assert composed.answer_url is not None
    assert composed.reply_to is None
    assert "reply to this mail" not in composed.text + composed.html


async def test_without_links_there_are_none() -> None:
    told = delivery("approval_wanted", question="Pay?")
    composed = await Composer(None, NoAddresses(), 30).compose(told)  # type: ignore[arg-type]
    assert (composed.answer_url, composed.reply_to) == (None, None)
    assert parsed(composed, told)["Message-ID"] == "<msg_00112233445566778899aabbccddeeff@localhost>"


async def test_slack_has_an_answer_button(composer: Composer) -> None:
    composed = await composer.compose(delivery("approval_wanted", "slack", question="Pay?"))
    buttons = [e for b in message_of(composed)["blocks"] if b["type"] == "actions" for e in b["elements"]]
    assert [one["url"] for one in buttons] == [composed.answer_url]
    assert composed.reply_to is None


def test_a_signature_holds_for_every_valid_secret_and_no_other() -> None:
    told = delivery("completed", "webhook", thread_id="th", name="Zoë 💥")
    body, (old, new, other) = body_of(told), (new_secret() for _ in range(3))
    headers = headers_of(told["_id"], body, [new, old], datetime.now(UTC))
    assert headers["webhook-id"] == told["_id"]
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        assert Webhook(secret).verify(body, headers)["type"] == "run.completed"
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(other).verify(body, headers)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(new).verify(body + b" ", headers)
    assert "webhook-signature" not in headers_of(told["_id"], body, [], datetime.now(UTC))
    assert orjson.loads(body)["data"]["name"] == "Zoë 💥"


OUTLINE = """\
to: ann@example.com
lines:
  - 1
  -
    sku: A-7
    note:
      first
      second
paid: false
by: null
none: {}"""


def test_a_value_is_said_as_an_outline() -> None:
    value = {
        "to": "ann@example.com", "lines": [1, {"sku": "A-7", "note": "first\nsecond"}], "paid": False, "by": None, "none": {},
    }  # fmt: skip
    assert readable(value) == OUTLINE
    assert readable("as it is\n") == "as it is\n"
    assert readable([[1], "x"]) == "-\n  - 1\n- x"


async def test_a_plain_interrupt_is_said_readably_everywhere(composer: Composer) -> None:
    interrupt = {"id": "i0", "value": {"question": "Send it?", "mail": {"to": "<b>ann</b>"}}}
    data = {
        "question": "Send it?",
        "details": {"mail": {"to": "<b>ann</b>"}},
        "action": {"name": "send"},
        "interrupt": interrupt,
    }
    told = delivery("approval_wanted", graph_id="mailer", **data)
    mail = parsed(await composer.compose(told), told)
    assert "mail:\n  to: <b>ann</b>\n" in mail.get_body(("plain",)).get_content().replace("\r\n", "\n")
    assert "mail:\n  to: &lt;b&gt;ann&lt;/b&gt;" in mail.get_body(("html",)).get_content().replace("\r\n", "\n")
    sections = [
        block["text"]
        for block in message_of(words_of(told))["blocks"]
        if block["type"] == "section" and "text" in block
    ]
    assert {"type": "plain_text", "text": "What to know\nmail:\n  to: <b>ann</b>", "emoji": False} in sections
    assert {"type": "plain_text", "text": "The action\nname: send", "emoji": False} in sections


def test_a_large_value_is_cut() -> None:
    told = delivery("approval_wanted", question="?", details={"x": "y" * 60_000}, interrupt={"id": "i", "value": None})
    ((_, text),) = words_of(told).blocks
    assert len(text) == VALUE_LIMIT
