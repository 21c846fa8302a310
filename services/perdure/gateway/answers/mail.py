"""Mails as they come in (RFC 5322): whom they are for, whether a person wrote them, and what that person wrote. Pure functions.

Contract: any bytes are read; what is damaged is read as far as it goes. Everything that is given out is bounded, and nothing of
it is trusted: ``From`` is what the mail says. Reading takes time in proportion to the mail's size: no regular expression sees it
whole.

``text`` is what the person wrote now: without the quoted mail and the signature below, where they can be told for certain;
``full_text`` has them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email import policy
from email.parser import BytesHeaderParser, BytesParser
from email.utils import getaddresses, parsedate_to_datetime
from typing import Any, Final

from perdure.gateway.answers.mail_html import text_of_html

TEXT_LIMIT: Final = 48 * 1024
"""Characters of a text that are kept: twice as many stay below what a signal may hold."""
LINE_LIMIT: Final = 1_000
"""Characters of a subject, a name or an id that are kept."""
ATTACHMENTS: Final = 50
"""Attachments that are named; their content is not kept."""
HEADER_LIMIT: Final = 16 * 1024
HEADERS_LIMIT: Final = 256 * 1024
"""Bytes of a mail that its headers are looked for in."""
TO: Final = ("Delivered-To", "X-Original-To", "Envelope-To", "To", "Cc")
THREAD: Final = ("In-Reply-To", "References")
BULK: Final = frozenset({"bulk", "junk", "list", "auto_reply"})
MACHINES: Final = ("X-Autoreply", "X-Autorespond", "X-Autoresponder")

_CONTROLS: Final = dict.fromkeys(one for one in (*range(32), *range(127, 160)) if one not in (9, 10, 13))
_MARKED: Final = re.compile(
    r"-{2,}\s*(Original Message|Ursprüngliche Nachricht|Message d'origine|Mensaje original)\s*-{2,}", re.IGNORECASE
)
_OUTLOOK: Final = re.compile(r"_{20,}\s*")
_HEADER: Final = re.compile(r"\*?(From|Von|De|Da|Van|Från|Fra)\s*:\*?\s*\S", re.IGNORECASE)
_SENT: Final = re.compile(
    r"\*?(Sent|Date|Gesendet|Datum|Envoyé|Enviado|Inviato|Verzonden|Skickat|Sendt)\s*:\*?\s*\S", re.IGNORECASE
)
_INTRODUCTION_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Heading:
    """What the headers of a mail say.

    Attributes:
        addressed: The headers that may hold a reply token, the surest first.
        automatic: Why no person wrote it; ``None``: one may have.

    """

    message_id: str
    sender: str
    sender_name: str
    subject: str
    sent_at: datetime | None
    addressed: tuple[str, ...]
    automatic: str | None


@dataclass(frozen=True, slots=True)
class Letter:
    """What a person wrote."""

    text: str
    full_text: str
    attachments: tuple[dict[str, Any], ...]

    @property
    def truncated(self) -> bool:
        """Whether ``full_text`` was cut."""
        return len(self.full_text) >= TEXT_LIMIT


def heading_of(raw: bytes) -> Heading:
    """The headers of a mail, of the first ``HEADERS_LIMIT`` bytes; takes milliseconds for as many: not for the event loop."""
    message = BytesHeaderParser(policy=policy.compat32).parsebytes(_head(raw))

    def line(name: str) -> str:
        return _line(str(message.get(name) or ""))

    name, address = _address(str(message.get("From") or ""))
    found = [str(value)[:HEADER_LIMIT] for header in TO for value in message.get_all(header, [])]
    # The newest mail of a conversation is named last.
    found += [
        " ".join(reversed(str(value)[-HEADER_LIMIT:].split()))
        for header in THREAD
        for value in message.get_all(header, [])
    ]
    return Heading(
        message_id=line("Message-ID") or f"<sha256.{hashlib.sha256(raw).hexdigest()}>",
        sender=_line(address),
        sender_name=_line(_decoded(name)),
        subject=_line(_decoded(message.get("Subject"))),
        sent_at=_date(line("Date")),
        addressed=tuple(found),
        automatic=_automatic(message),
    )


def _head(raw: bytes) -> bytes:
    """The headers' bytes: the beginning of a mail without its body."""
    head = raw[:HEADERS_LIMIT]
    ends = [end for end in (head.find(b"\n\n"), head.find(b"\r\n\r\n")) if end >= 0]
    return head[: min(ends)] if ends else head


def letter_of(raw: bytes) -> Letter:
    """The text of a mail; an empty one where it cannot be read. Takes a second for tens of megabytes: not for the event loop."""
    plain: list[str] = []
    html: list[str] = []
    attachments: list[dict[str, Any]] = []
    try:
        for part in _parts(BytesParser(policy=policy.compat32).parsebytes(raw)):
            kind = part.get_content_type()
            attached = part.get_content_disposition() == "attachment" or part.get_filename() is not None
            if attached or kind not in ("text/plain", "text/html"):
                attachments.append(_attachment(part))
            else:
                (plain if kind == "text/plain" else html).append(_text_of(part))
    except RecursionError:  # parts in parts in parts: nobody's mail program writes that
        return Letter("", "", ())
    chosen = plain if any(text.strip() for text in plain) else html
    full = "\n".join(text.strip("\n") for text in chosen)[:TEXT_LIMIT]
    return Letter(text=written(full), full_text=full, attachments=tuple(attachments[:ATTACHMENTS]))


def _parts(message: Any) -> Iterator[Any]:
    """The parts of a mail that are no containers; a mail within it is one part."""
    if message.get_content_maintype() == "multipart" and message.is_multipart():
        for part in message.get_payload():
            yield from _parts(part)
    else:
        yield message


def written(full: str) -> str:
    """What was written above the quoted mail and the signature; all of it when nothing is above them."""
    lines = full.split("\n")
    end = next((number for number in range(len(lines)) if _begins_history(lines, number)), len(lines))
    kept = lines[:end]
    while kept and (not kept[-1].strip() or kept[-1].lstrip().startswith(">")):
        kept.pop()
    text = "\n".join(kept).strip()
    return text or full.strip()


def _begins_history(lines: list[str], number: int) -> bool:
    """Whether the signature, or the mail that is answered, begins at a line."""
    line = lines[number].rstrip("\r")
    if line in ("-- ", "--"):
        return True
    stripped = line.strip()
    if _MARKED.fullmatch(stripped):
        return True
    following = [one.strip() for one in lines[number + 1 : number + 7]]
    if _OUTLOOK.fullmatch(stripped):
        return any(map(_HEADER.match, following))
    if _HEADER.match(stripped):
        return any(map(_SENT.match, following[:3]))
    return _introduces(stripped, lines, number)


def _introduces(stripped: str, lines: list[str], number: int) -> bool:
    """Whether a line begins the sentence that ends in a colon right before a quote, as in any language: ``On ... wrote:``."""
    if not stripped or stripped.startswith(">") or (number and lines[number - 1].strip()):
        return False
    for last in range(number, min(number + _INTRODUCTION_LINES, len(lines))):
        said = lines[last].strip()
        if not said or said.startswith(">"):
            return False
        if said.endswith(":"):
            quote = next((one.lstrip() for one in lines[last + 1 : last + 3] if one.strip()), "")
            return quote.startswith(">") and not _answers_between(lines, last + 1)
    return False


def _answers_between(lines: list[str], begin: int) -> bool:
    """Whether something was written below or between what is quoted: then the quote belongs to it, and is kept."""
    below = iter(lines[begin:])
    for line in below:
        if line.rstrip("\r") in ("-- ", "--"):
            return False
        if line.strip() and not line.lstrip().startswith(">"):
            return True
    return False


def _automatic(message: Any) -> str | None:
    """Why no person wrote a mail (RFC 3834)."""
    submitted = str(message.get("Auto-Submitted") or "no").partition(";")[0].strip().lower()
    if submitted != "no":
        return f"Auto-Submitted: {submitted[:40]}"
    precedence = str(message.get("Precedence") or "").strip().lower()
    if precedence in BULK:
        return f"Precedence: {precedence}"
    if str(message.get("Return-Path") or "").strip() == "<>":
        return "an empty return path"
    if message.get_content_type() in ("multipart/report", "message/delivery-status"):
        return "a delivery report"
    return next((f"{name} is set" for name in MACHINES if message.get(name)), None)


def _text_of(part: Any) -> str:
    content = part.get_payload(decode=True)
    data = content if isinstance(content, bytes) else b""
    try:
        text = data.decode(part.get_content_charset() or "utf-8", errors="replace")
    except LookupError:  # a character set that nobody knows
        text = data.decode("utf-8", errors="replace")
    if part.get_content_subtype() == "html":
        text = text_of_html(text)
    return _clean(text.replace("\r\n", "\n").replace("\r", "\n"))[:TEXT_LIMIT]


def _attachment(part: Any) -> dict[str, Any]:
    content = part.get_payload(decode=True)
    return {
        "name": _line(_decoded(part.get_filename())),
        "type": _line(part.get_content_type()),
        "bytes": len(content) if isinstance(content, bytes) else 0,
    }


def _decoded(value: Any) -> str:
    """A header's text, with its encoded words (RFC 2047) decoded."""
    if value is None:
        return ""
    text = str(value)[: 4 * LINE_LIMIT]
    return str(policy.default.header_factory("Subject", text.replace("\r", "").replace("\n", "")))


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
        return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _line(text: str) -> str:
    return " ".join(_clean(text).split())[:LINE_LIMIT]


def _clean(text: str) -> str:
    """Text that UTF-8 can hold, without control characters but tabs and line breaks."""
    return text.encode("utf-8", "replace").decode("utf-8").translate(_CONTROLS)


def same_address(one: str, other: str) -> bool:
    """Whether two addresses are the same mailbox, as people mean it: names and case left aside."""
    bare = [_address(text)[1].strip().lower() for text in (one, other)]
    return bool(bare[0]) and bare[0] == bare[1]


def _address(header: str) -> tuple[str, str]:
    """Name and address of the first mailbox in a header; the name's encoded words are left, so that none becomes an address."""
    try:
        return next(iter(getaddresses([header[: 4 * LINE_LIMIT]])), ("", ""))
    except RecursionError:  # comments in comments in comments
        return "", ""
