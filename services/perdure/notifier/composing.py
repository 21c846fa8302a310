"""The words of a notice: subject, facts and blocks, for e-mail and Slack alike, and the links by which it is answered.

Contract: :func:`words_of` is pure. The texts of :class:`Composed` are plain: whoever shows them escapes them; ``text`` and ``html``
are the mail's, made from templates that do (``templates/``). A link is made at each attempt and is the same each time.

Outside: the page and the mailbox where answers arrive (the gateway).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from perdure.registry.answer_links import SHARED, AnswerLinks
from perdure.registry.reply_addresses import ReplyAddresses
from perdure.schemas.notices import APPROVALS, DIGEST, TEST, Channel, NoticeKind

TEMPLATES: Final = Path(__file__).parent / "templates"
VALUE_LIMIT: Final = 4_000
DIGEST_LINES: Final = 100

HEADINGS: Final[dict[str, str]] = {
    NoticeKind.COMPLETED: "{graph} has finished",
    NoticeKind.FAILED: "{graph} failed",
    NoticeKind.CANCELLED: "{graph} was cancelled",
    NoticeKind.TIMED_OUT: "{graph} timed out",
    NoticeKind.PAUSED: "{graph} has stopped at a break point",
    NoticeKind.APPROVAL_WANTED: "{graph} asks: {question}",
    NoticeKind.APPROVAL_EXPIRING: "Soon too late: {graph} asks: {question}",
    NoticeKind.STUCK: "{graph} is stuck",
    NoticeKind.RECOVERED: "{graph} goes on again",
    NoticeKind.BATCH_FINISHED: "Batch {batch} has finished",
    NoticeKind.BATCH_THRESHOLD: "Batch {batch}: too many failures",
    TEST: "This is a test",
    DIGEST: "{count} notices",
}
FACTS: Final[tuple[tuple[str, str], ...]] = (
    ("Thread", "thread_id"),
    ("Run", "run_id"),
    ("Graph", "graph_id"),
    ("Batch", "batch_id"),
    ("Status", "status"),
    ("Stands at", "nodes"),
    ("Asked", "assigned_to"),
    ("Asked before", "asked_before"),
    ("Expires", "expires_at"),
    ("Since", "since"),
    ("Stuck since", "stuck_since"),
    ("Expected by", "expected_by"),
    ("Items", "total"),
    ("Succeeded", "succeeded"),
    ("Failed", "failed"),
    ("Cancelled", "cancelled"),
    ("Threshold", "threshold"),
    ("What was done", "action_taken"),
    ("Action digest", "action_digest"),
)


@dataclass(frozen=True, slots=True)
class Composed:
    """A notice in words.

    Attributes:
        subject: One line.
        summary: What happened or is asked, in sentences; may be empty.
        facts: Names and values.
        blocks: Titles and longer texts.
        footer: Where this comes from.
        answer_url: The page where the question is answered.
        reply_to: The address by which it is answered.
        message_id: A mail's, where a reply is recognised by it.

    """

    subject: str
    summary: str
    facts: tuple[tuple[str, str], ...]
    blocks: tuple[tuple[str, str], ...]
    footer: str
    answer_url: str | None = None
    reply_to: str | None = None
    message_id: str | None = None
    text: str = ""
    html: str = ""


class Composer:
    """Puts notices into words.

    Args:
        links: Makes links; ``None``: there are none.
        addresses: Keeps reply addresses.
        link_days: How long a question that never expires can be answered by link.

    """

    def __init__(self, links: AnswerLinks | None, addresses: ReplyAddresses, link_days: int) -> None:
        self._links = links
        self._addresses = addresses
        self._link_time = timedelta(days=link_days)
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )

    def answer_url(self, delivery: Mapping[str, Any]) -> str | None:
        """Where the question is answered; ``None`` when it is none, or links are not offered."""
        if self._links is None or not delivery.get("wait_id"):
            return None
        return self._links.url(
            wait_id=delivery["wait_id"],
            tenant=delivery["tenant"],
            recipient=_recipient(delivery),
            expires_at=self._until(delivery),
        )

    async def compose(self, delivery: Mapping[str, Any]) -> Composed:
        """A delivery in words, with its links; a reply address is durable when this returns."""
        composed = replace(words_of(delivery), answer_url=self.answer_url(delivery))
        events = delivery["data"].get("events") or ()
        replied = (
            delivery["channel"] == Channel.EMAIL and delivery.get("wait_id") and events
        )  # a mail answers no question
        if self._links is not None and self._links.mail_domain and replied:
            reply = self._links.reply_to(
                thread_id=delivery["thread_id"],
                tenant=delivery["tenant"],
                recipient=_recipient(delivery),
                expires_at=self._until(delivery),
                wait_id=delivery["wait_id"],
                events=events,
            )
            await self._addresses.store(reply.document)
            composed = replace(composed, reply_to=reply.address, message_id=reply.message_id(delivery["_id"]))
        return replace(
            composed,
            text=self._templates.get_template("mail.txt.j2").render(notice=composed),
            html=self._templates.get_template("mail.html.j2").render(notice=composed),
        )

    def _until(self, delivery: Mapping[str, Any]) -> datetime:
        due_at: datetime | None = delivery.get("question_due_at")
        return due_at or delivery["occurred_at"] + self._link_time


def words_of(delivery: Mapping[str, Any]) -> Composed:
    """A delivery in words."""
    kind, data = delivery["kind"], delivery["data"]
    shown = dict(data)
    if kind == NoticeKind.BATCH_THRESHOLD:
        shown["action_taken"] = shown.pop("action", None)
    facts = tuple((name, _text(shown[key])) for name, key in FACTS if shown.get(key) not in (None, "", []))
    return Composed(
        subject=_heading(kind, data),
        summary=_summary(kind, data),
        facts=facts,
        blocks=tuple(_blocks(kind, data)),
        footer=f"Perdure, notice {delivery['_id']}, {delivery['occurred_at'].isoformat()}",
    )


def line_of(kind: str, data: Mapping[str, Any]) -> str:
    """A notice in one line, for a digest."""
    where = data.get("thread_id") or data.get("batch_id") or ""
    return f"{_heading(kind, data)} ({where})" if where else _heading(kind, data)


def _heading(kind: str, data: Mapping[str, Any]) -> str:
    question = str(data.get("question") or "").partition("\n")[0]
    return HEADINGS[kind].format_map(
        {
            "graph": data.get("graph_id") or "An agent",
            "question": question if len(question) <= 100 else question[:99] + "…",
            "batch": data.get("batch_id") or "",
            "count": data.get("count", 0),
        }
    )


def _summary(kind: str, data: Mapping[str, Any]) -> str:
    if kind in APPROVALS:
        return _text(data.get("question") or "")
    if kind == TEST:
        return "Somebody tried this subscription. Notices will arrive here."
    if kind == NoticeKind.STUCK:
        return _text(data.get("reason") or "")
    error = data.get("error")
    return _text(f"{error.get('type')}: {error.get('message')}") if isinstance(error, Mapping) else ""


def _blocks(kind: str, data: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    if kind == DIGEST:
        told = data.get("notices") or ()
        lines = [line_of(one["kind"], one["data"]) for one in told[:DIGEST_LINES]]
        more = [f"... and {data['count'] - len(lines)} more"] if data.get("count", 0) > len(lines) else []
        return [("What happened", "\n".join([*lines, *more]))]
    if kind in APPROVALS:
        found = [("The action", data.get("action")), ("What to know", data.get("details"))]
        said = readable if "interrupt" in data else _text  # what a node wrote for a program is put into words
        return [(title, _bounded(said(value))) for title, value in found if value not in (None, {}, "")]
    return []


def _text(value: Any) -> str:
    """A value for people, bounded."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        text = ", ".join(value)
    else:
        text = orjson.dumps(value, default=repr, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()
    return _bounded(text)


def readable(value: Any, indent: str = "") -> str:
    """A value as an indented outline: ``key: value`` and ``- item`` lines, texts as they are, without braces and quotes."""
    if isinstance(value, Mapping) and value:
        return "\n".join(f"{indent}{key}:{_below(one, indent)}" for key, one in value.items())
    if isinstance(value, list) and value:
        return "\n".join(f"{indent}-{_below(one, indent)}" for one in value)
    return indent + _scalar(value)


def _below(value: Any, indent: str) -> str:
    """What follows a key: on the same line if it is short, else below it."""
    inner = indent + "  "
    if isinstance(value, Mapping | list) and value:
        return "\n" + readable(value, inner)
    text = _scalar(value)
    if "\n" not in text:
        return f" {text}"
    return "\n" + "\n".join(inner + line for line in text.split("\n"))


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=repr).decode()


def _bounded(text: str) -> str:
    return text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - 1] + "…"


def _recipient(delivery: Mapping[str, Any]) -> str:
    """Who is taken for the one that answers: the address of a mail, else the subscription."""
    return str(delivery["target"]) if delivery["channel"] == Channel.EMAIL else f"{SHARED}{delivery['subscription_id']}"
