"""The pages on which people answer: what they show, and the headers they go out with. Pure functions of what is given.

Contract: works without JavaScript, and allows none. Everything that is shown is escaped, and characters that would make a text look
like another one (direction overrides, invisible characters) are written out, so that what is seen is what is asked.
The style is in the page and allowed by its digest; nothing else is loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from perdure.gateway.forms import Field, Kind, decision_of, form_of, inputs_of
from perdure.registry.runs import now
from perdure.schemas.documents import WaitDocument
from perdure.schemas.validation import Finding, Verdict
from perdure.schemas.waits import Question

TEMPLATES: Final = Path(__file__).parent / "templates"
NAME: Final = "name"
"""The form's control for who answers by a shared link."""
JOINERS: Final = frozenset("\u200c\u200d")
"""Invisible, and needed by several scripts and by emoji."""
UNSEEN: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
STRETCHES: Final = (
    (timedelta(days=2), 86_400, "days"),
    (timedelta(hours=2), 3_600, "hours"),
    (timedelta(0), 60, "minutes"),
)
_MARKS: Final = {True: ("holds", "holds"), False: ("broken", "does not hold"), None: ("unknown", "unknown")}


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence above the question; ``kind`` is ``wrong`` or ``warn``."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Asking:
    """What the page of an open question shows.

    Attributes:
        typed: What was typed already, by the names of the form's controls.
        wrong: Why it does not do, by the pointer of a field.
        proof: Of the form.
        shared: Whether several people have the link, so that who answers must say who it is.

    """

    wait: WaitDocument
    recipient: str
    proof: str
    shared: bool = False
    verdict: Verdict | None = None
    typed: Mapping[str, str] | None = None
    wrong: Mapping[str, list[str]] | None = None
    notice: Notice | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """A page that says something and asks nothing.

    Attributes:
        asked: The question, where it may be shown.
        answered: The answer that counts, as JSON.
        typed: What the reader typed that does not count, with the labels of its fields.

    """

    title: str
    sentences: Sequence[str]
    asked: str | None = None
    answered: str | None = None
    typed: Sequence[tuple[str, str]] = ()
    thread_id: str | None = None


def ask_page(asking: Asking, status: int = 200) -> web.Response:
    """The page of an open question."""
    wait = asking.wait
    question = Question.model_validate(wait["question"])
    form = form_of(question.answer_schema)
    return _page(
        "ask.html",
        status,
        graph=wait["graph_id"],
        node=", ".join(wait.get("nodes") or ()),
        thread_id=wait["thread_id"],
        question=question.question,
        assigned_to=wait.get("assigned_to"),
        escalations=wait.get("escalations", 0),
        expires_at=wait.get("due_at"),
        details=[_detail(key, value) for key, value in question.details.items()],
        action=pretty(question.action) if question.action is not None else None,
        digest=question.action_digest,
        findings=[_finding(one) for one in asking.verdict.findings] if asking.verdict else [],
        read_at=asking.verdict.read_at if asking.verdict else None,
        form=form,
        decision=decision_of(form),
        typed=asking.typed or {},
        wrong=asking.wrong or {},
        notice=asking.notice,
        recipient=asking.recipient,
        shared=asking.shared,
        name=NAME,
        proof=asking.proof,
    )


def told_page(told: Told, status: int) -> web.Response:
    """A page that says something."""
    return _page("told.html", status, **{name: getattr(told, name) for name in Told.__slots__})


def typed_shown(form: Field, typed: Mapping[str, str]) -> list[tuple[str, str]]:
    """What somebody typed, with the labels of the fields, so that nobody has to type it again."""
    shown = []
    for field in (*inputs_of(form), *filter(None, [decision_of(form)])):
        text = typed.get(field.name, "")
        if text and field.kind is Kind.CHOICE:
            text = next((one.label for one in field.choices if one.value == text), text)
        elif text and field.kind is Kind.DECISION:
            text = "Approve" if text == "true" else "Reject"
        if text:
            shown.append((field.label, text))
    return shown


def pretty(value: Any) -> str:
    """JSON for people: indented, keys in their order, no character escaped that can be seen."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def visible(text: Any) -> str:
    """Text in which every character can be seen: the others are written as their number."""
    return "".join(_seen(one) for one in str(text))


def policy() -> str:
    """The Content-Security-Policy of every page."""
    return f"default-src 'none'; style-src 'sha256-{_style()[1]}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


def headers() -> dict[str, str]:
    """What every page goes out with, also a redirect: nobody keeps it, frames it, or learns its address."""
    return {
        "Content-Security-Policy": policy(),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "X-Robots-Tag": "noindex, nofollow",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def _page(template: str, status: int, **shown: Any) -> web.Response:
    text = _environment().get_template(template).render(css=Markup(_style()[0]), **shown)  # noqa: S704 - our own file
    return web.Response(text=text, status=status, content_type="text/html", headers=headers())


def _seen(character: str) -> str:
    if character in "\n\t" or character in JOINERS or unicodedata.category(character) not in UNSEEN:
        return character
    return f"\\u{{{ord(character):x}}}"


def _detail(key: str, value: Any) -> tuple[str, str, bool]:
    """Key, text, and whether the text is JSON."""
    if isinstance(value, str):
        return key, value, False
    return key, pretty(value), isinstance(value, dict | list)


def _finding(found: Finding) -> dict[str, Any]:
    mark, word = _MARKS[found.holds]
    return {
        "name": found.name,
        "mark": mark,
        "word": word,
        "compared": found.holds is not None,
        "believed": json.dumps(found.believed, ensure_ascii=False, default=str),
        "fresh": json.dumps(found.fresh, ensure_ascii=False, default=str),
        "drift": f"drift {found.drift:+,.12g}".replace("-", "−") if found.drift else None,
        "reason": found.reason,
    }


def said_moment(at: datetime) -> str:
    """A moment as people write it."""
    return f"{at.day} {at:%B %Y, %H:%M} UTC"


def _distance(at: datetime) -> str:
    """How far a moment is from now: ``in 3 hours``, ``5 minutes ago``."""
    away = at - now()
    seconds, unit = next((size, unit) for least, size, unit in STRETCHES if abs(away) >= least)
    count = int(abs(away).total_seconds() // seconds)
    if count == 0:
        return "now"
    said = f"{count} {unit if count != 1 else unit.removesuffix('s')}"
    return f"in {said}" if away > timedelta(0) else f"{said} ago"


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ident(name: str) -> str:
    """An HTML id for a field, whatever characters its name has."""
    return "f" + hashlib.sha256(name.encode(errors="replace")).hexdigest()[:12]


@cache
def _style() -> tuple[str, str]:
    """The style as it stands in the page, and its digest."""
    text = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "visible": visible,
        "moment": said_moment,
        "distance": _distance,
        "ident": _ident,
        "first_upper": _first_upper,
    }
    return made
