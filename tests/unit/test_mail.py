"""Mails as they come in: headers, texts in every encoding, quotes and signatures, and what no person wrote."""

from __future__ import annotations

import time
from email.message import EmailMessage

import orjson
import pytest

from perdure.chassis.errors import ConfigurationError
from perdure.gateway.answers.mail import TEXT_LIMIT, heading_of, letter_of, same_address, written
from perdure.gateway.app import make_app
from perdure.gateway.http.values import PAYLOAD_LIMIT
from perdure.gateway.settings import GatewaySettings


def mail(text: str = "Yes.\n", **headers: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in {"From": "Zoe <zoe@example.com>", "To": "reply@mail.example.com", **headers}.items():
        message[name.replace("_", "-")] = value
    message.set_content(text)
    return message


GMAIL = f"""\
Monday at ten is fine.

Best, Zoë

On Tue, 24 Nov 2026 at 09:12, Perdure <reply+abc@mail.example.com>
wrote:

> Can you come on Monday?
> --{" "}
> Perdure
"""
GERMAN = "Passt mir gut.\n\nAm 24.11.2026 um 09:12 schrieb Perdure:\n> Passt Montag?\n"
OUTLOOK = """\
Monday is fine.

________________________________
From: Perdure <reply@mail.example.com>
Sent: Tuesday, November 24, 2026 9:12 AM
To: Zoe
Subject: Interview

Can you come on Monday?
"""
PLAIN_OUTLOOK = "Fine.\n\nFrom: Perdure <a@b.example>\nSent: Tuesday\nTo: Zoe\nSubject: Interview\n\nCan you come?\n"
MARKED = "Fine.\n\n-----Original Message-----\nCan you come?\n"
SIGNED = "Fine.\n\n-- \nZoë Example\nHead of things\n"
INLINE = "On Tuesday Perdure wrote:\n> Can you come on Monday?\nYes.\n> Or on Tuesday?\nNo.\n"
ABOVE = "Yes to both.\n\nOn Tuesday Perdure wrote:\n> Can you come?\n> Can you stay?\n"


@pytest.mark.parametrize(
    ("full", "text"),
    [
        (GMAIL, "Monday at ten is fine.\n\nBest, Zoë"),
        (GERMAN, "Passt mir gut."),
        (OUTLOOK, "Monday is fine."),
        (PLAIN_OUTLOOK, "Fine."),
        (MARKED, "Fine."),
        (SIGNED, "Fine."),
        (ABOVE, "Yes to both."),
        (INLINE, INLINE.strip()),
        ("> only a quote\n", "> only a quote"),
        ("Our terms:\n\nFrom: Monday on\nTo: Friday\n", "Our terms:\n\nFrom: Monday on\nTo: Friday"),
        ("He wrote:\nnothing is quoted\n", "He wrote:\nnothing is quoted"),
        ("a -- b\n--not a signature\n", "a -- b\n--not a signature"),
        ("", ""),
    ],
)
def test_what_was_written_now(full: str, text: str) -> None:
    assert written(full) == text


def test_headers() -> None:
    message = mail(
        From="=?utf-8?q?Zo=C3=AB_M=C3=BCller?= <Zoe@Example.com>",
        Subject="Re: Gespräch\u2014Montag",
        Message_ID="<m-1@example.com>",
        Date="Tue, 24 Nov 2026 10:00:00 +0100",
        Delivered_To="reply+one@mail.example.com",
        In_Reply_To="<two.d@mail.example.com>",
        References="<four.d@x> <three.d@mail.example.com>",
    )
    heading = heading_of(message.as_bytes())
    assert (heading.sender, heading.sender_name) == ("Zoe@Example.com", "Zoë Müller")
    assert heading.subject == "Re: Gespräch\u2014Montag"
    assert heading.message_id == "<m-1@example.com>"
    assert heading.sent_at is not None
    assert heading.sent_at.isoformat() == "2026-11-24T09:00:00+00:00"
    assert heading.addressed == (
        "reply+one@mail.example.com",
        "reply@mail.example.com",
        "<two.d@mail.example.com>",
        "<three.d@mail.example.com> <four.d@x>",
    )
    assert heading.automatic is None


def test_a_name_is_no_address() -> None:
    heading = heading_of(
        b"From: =?utf-8?q?boss=40example=2Ecom_=3Cboss=40example=2Ecom=3E=2C?= <zoe@example.com>\r\n\r\n"
    )
    assert (heading.sender, heading.sender_name) == ("zoe@example.com", "boss@example.com <boss@example.com>,")


def test_a_mail_without_an_id_has_one_of_its_content() -> None:
    one, other = (heading_of(mail(text).as_bytes()).message_id for text in ("a", "b"))
    assert one.startswith("<sha256.")
    assert one != other


@pytest.mark.parametrize(
    ("header", "value", "automatic"),
    [
        ("Auto-Submitted", "auto-replied (vacation)", True),
        ("Auto-Submitted", "auto-generated; owner=x", True),
        ("Auto-Submitted", "no", False),
        ("Precedence", "Bulk", True),
        ("Precedence", "first-class", False),
        ("Return-Path", "<>", True),
        ("Return-Path", "<zoe@example.com>", False),
        ("X-Autoreply", "yes", True),
        ("X-Whatever", "bulk", False),
    ],
)
def test_what_no_person_wrote(header: str, value: str, automatic: bool) -> None:
    message = mail()
    message[header] = value
    assert (heading_of(message.as_bytes()).automatic is not None) is automatic


def test_a_delivery_report_is_automatic() -> None:
    raw = b'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n--b--\r\n'
    assert heading_of(raw).automatic == "a delivery report"


@pytest.mark.parametrize("encoding", ["7bit", "8bit", "quoted-printable", "base64"])
def test_encodings(encoding: str) -> None:
    text = "Yes, Monday.\n" if encoding == "7bit" else "Grüße aus Zürich, 日本 😀 = ok\n"
    message = EmailMessage()
    message.set_content(text, cte=encoding)
    assert letter_of(message.as_bytes()).text == text.strip()


@pytest.mark.parametrize(
    ("charset", "data"),
    [("iso-8859-1", b"Gr\xfc\xdfe"), ("windows-1252", b"Gr\xfc\xdfe"), ("x-unknown", "Grüße".encode())],
)
def test_character_sets(charset: str, data: bytes) -> None:
    raw = (
        b"Content-Type: text/plain; charset=" + charset.encode() + b"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + data
    )
    assert letter_of(raw).text == "Grüße"


def test_the_text_is_preferred_and_attachments_are_named() -> None:
    message = mail("The text.\n")
    message.add_alternative("<p>The <b>HTML</b>.</p>", subtype="html")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="Lebenslauf Zoë.pdf")
    message.add_attachment("secret attachment", filename="notes.txt")
    letter = letter_of(message.as_bytes())
    assert letter.text == "The text."
    assert letter.attachments == (
        {"name": "Lebenslauf Zoë.pdf", "type": "application/pdf", "bytes": 4},
        {"name": "notes.txt", "type": "text/plain", "bytes": 18},
    )


def test_a_mail_of_html_only() -> None:
    message = EmailMessage()
    message.set_content(
        "<html><head><style>p { color: red }</style><title>No</title></head><body><p>Monday at <b>ten</b>&nbsp;is\n fine &amp; good"
        "</p><script>alert(1)</script><div>Best,<br>Zoë</div><div>On Tuesday Perdure wrote:</div>"
        "<blockquote><p>Can you come?</p></blockquote></body></html>",
        subtype="html",
    )
    letter = letter_of(message.as_bytes())
    assert letter.text == "Monday at ten is fine & good\n\nBest,\nZoë"
    assert "> Can you come?" in letter.full_text
    assert "alert" not in letter.full_text
    assert "color" not in letter.full_text


def test_a_mail_within_a_mail_is_not_read() -> None:
    message = mail("See below.\n")
    message.add_attachment(mail("A secret of somebody else.\n"))
    letter = letter_of(message.as_bytes())
    assert letter.full_text.strip() == "See below."
    assert [one["type"] for one in letter.attachments] == ["message/rfc822"]


def test_the_largest_mail_fits_into_a_signal() -> None:
    letter = letter_of(mail("\U0001f600\x01\x07" * 100_000).as_bytes())
    assert letter.text == letter.full_text == "\U0001f600" * TEXT_LIMIT
    assert len(orjson.dumps([letter.text, letter.full_text])) < PAYLOAD_LIMIT


def test_long_texts_are_cut() -> None:
    letter = letter_of(mail("x" * 70 + "\n" + "word " * 100_000).as_bytes())
    assert len(letter.full_text) == TEXT_LIMIT
    assert letter.truncated


DEEP = b"".join(b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(3_000))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\xff\xfe",
        b"no headers at all",
        b"Subject: =?utf-8?b?////?=\r\nFrom: <<>>,,@\r\nDate: never\r\n\r\n\xff",
        b'Content-Type: multipart/mixed; boundary="a"\r\n\r\n--b\r\n',
        b"Content-Transfer-Encoding: base64\r\n\r\nnot base64!!",
        b"Content-Type: text/html\r\n\r\n" + b"<!--" * 60_000,
        b"Content-Type: text/html\r\n\r\n" + b"<div>" * 50_000,
        b"Content-Type: text/html\r\n\r\n" + b"<a <a " * 50_000,
        b"Subject: " + b"=?utf-8?q?x?= " * 50_000 + b"\r\n\r\n",
        b"From: " + b"(" * 5_000 + b"\r\n\r\n",
        b"References: " + b"<a@b> " * 200_000 + b"\r\n\r\n",
        b"\r\n\r\n" + b"x:\r\n> y\r\n\r\n" * 100_000,
        b"\r\n\r\n" + b"-" * 1_000_000,
        b"\r\n\r\n" + b"\r\n" * 1_000_000,
        DEEP,
    ],
)
def test_any_bytes_are_read_in_a_reasonable_time(raw: bytes) -> None:
    started = time.process_time()
    heading, letter = heading_of(raw), letter_of(raw)
    assert time.process_time() - started < 5
    assert "\0" not in letter.full_text + heading.subject
    (letter.full_text + heading.subject + heading.sender_name).encode()


def test_addresses() -> None:
    assert same_address("ZOE@example.com", "Zoë Müller <zoe@example.com>")
    assert not same_address("zoe@example.com", "bob@example.com")
    assert not same_address("", "")


async def test_a_mail_domain_needs_a_secret() -> None:
    with pytest.raises(ConfigurationError, match="PERDURE_INBOUND_SECRET"):
        make_app(GatewaySettings(mail_domain="mail.example.com"))
