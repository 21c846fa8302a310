"""The pages on which people answer: what they show. Pure functions of what is given.

How pages are made is in ``perdure.gateway.http.pages``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from perdure.gateway.answers.forms import Field, Kind, decision_of, form_of
from perdure.gateway.answers.typed import inputs_of
from perdure.gateway.http.pages import Pages, pretty
from perdure.registry.questions import question_in
from perdure.schemas.documents import WaitDocument
from perdure.schemas.validation import Finding, Verdict

PAGES: Final = Pages(Path(__file__).parent / "templates")
NAME: Final = "name"
"""The form's control for who answers by a shared link."""
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
    question = question_in(wait)
    form = form_of(question.answer_schema)
    return PAGES.render(
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
    return PAGES.render("told.html", status, **{name: getattr(told, name) for name in Told.__slots__})


def typed_shown(form: Field, typed: Mapping[str, str]) -> list[tuple[str, str]]:
    """What somebody typed, with the labels of the fields, so that nobody has to type it again."""
    shown = []
    for field in (*inputs_of(form, typed), *filter(None, [decision_of(form)])):
        text = typed.get(field.name, "")
        if text and field.choices:
            text = next((one.label for one in field.choices if one.value == text), text)
        elif text and field.kind is Kind.DECISION:
            text = "Approve" if text == "true" else "Reject"
        if text:
            shown.append((field.label, text))
    return shown


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
