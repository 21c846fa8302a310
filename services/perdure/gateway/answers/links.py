"""The page behind a link: shows what is asked, and takes the answer.

Contract: opening a link changes nothing, however often and by whomever (mail scanners do). An answer goes the same way as one over
``POST /approvals/{id}``; the link is used up by the answer that counts, because its question is. After it the browser is sent to
the same address by GET, so that a reload sends nothing again. What was typed is shown again whenever it was not taken.

Every outcome is a page; no problem document, log line or metric holds a link.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from perdure.chassis.clock import now
from perdure.chassis.telemetry import logger
from perdure.gateway.answers.answering import Answering
from perdure.gateway.answers.forms import form_of
from perdure.gateway.answers.pages import NAME, PAGES, Asking, Notice, Told, ask_page, told_page, typed_shown
from perdure.gateway.answers.questions import Questions
from perdure.gateway.answers.typed import place, read
from perdure.gateway.auth.caller import KnownSignature
from perdure.gateway.http.pages import pretty, said_moment
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.requests import read_form
from perdure.gateway.http.route import Page
from perdure.registry.answer_links import NOT_OFFERED, AnswerClaims, AnswerLinks, ExpiredLink, LinkProblem
from perdure.registry.answers import BrokenSchema
from perdure.schemas.documents import WaitDocument, WaitStatus
from perdure.schemas.http import ApprovalAnswer
from perdure.schemas.scopes import Exempt
from perdure.schemas.waits import Question

log = logger(__name__)

PATH: Final = "/answer/"
"""Below it is the link's token, which lets its holder answer."""
LINK: Final = Exempt("The link's own token lets its holder answer one question.")
COOKIE: Final = "perdure_answer"
FORM_LIMIT: Final = 2 * 1024 * 1024
"""Bytes of a posted form: an answer of 512 KiB, percent-encoded."""
BY_LIMIT: Final = 256
"""Characters of who answered, as ``perdure.schemas.http.ApprovalAnswer`` has it."""
FOREIGN: Final = frozenset({"cross-site", "same-site"})
ENDED: Final = frozenset({"already-answered", "approval-expired", "approval-closed"})
PLACED: Final = frozenset({"invalid-request", "body-too-large"})


@dataclass(frozen=True, slots=True)
class Opened:
    """A link that was opened, and the question behind it."""

    token: str
    links: AnswerLinks
    claims: AnswerClaims
    wait: WaitDocument
    question: Question


class LinkPages:
    """The page behind a link."""

    def __init__(
        self, links: AnswerLinks | None, questions: Questions, answering: Answering, *, public_url: str | None
    ) -> None:
        self._links = links
        """``None``: not offered."""
        self._questions = questions
        self._answering = answering
        self._public_url = public_url
        """Where browsers see the gateway."""

    def pages(self) -> tuple[Page, ...]:
        """The pages for people."""
        return (Page("GET", f"{PATH}{{token}}", self.show, LINK), Page("POST", f"{PATH}{{token}}", self.post, LINK))

    async def show(self, request: web.Request) -> web.Response:
        """``GET /answer/{token}``."""
        try:
            opened = await self._open(request)
            if opened.wait["status"] == WaitStatus.OPEN.value:
                return await self._ask(request, opened)
            return told_page(_ended(await self._answering.view_of(opened.wait), opened.claims), 200)
        except RequestProblem as problem:
            return _refused(problem)

    async def post(self, request: web.Request) -> web.Response:
        """``POST /answer/{token}``."""
        try:
            opened = await self._open(request)
            typed = await read_form(request, FORM_LIMIT)
            return await self._take(request, opened, typed)
        except RequestProblem as problem:
            return _refused(problem)

    async def _open(self, request: web.Request) -> Opened:
        """Open the link of a request.

        Raises:
            RequestProblem: ``link-refused``, ``unknown-approval`` or ``broken-question``.

        """
        token = request.match_info["token"]
        if self._links is None:
            log.warning("gateway.links_not_offered", detail=NOT_OFFERED)
            raise RequestProblem("link-refused", "Questions cannot be answered by link here.")
        try:
            claims = self._links.open(token, now())
        except ExpiredLink as error:
            log.info("gateway.link_expired", wait_id=error.claims.wait_id, recipient=error.claims.recipient)
            until = said_moment(error.claims.expires_at)
            raise RequestProblem("link-refused", f"It was good until {until}.", status=410) from error
        except LinkProblem as error:
            log.info("gateway.link_refused", reason=type(error).__name__)
            raise RequestProblem("link-refused", str(error)) from error
        wait = await self._answering.require(claims.wait_id, claims.tenant)
        question = await self._answering.question_of(wait)
        try:
            await self._answering.require_judgeable(question)
        except BrokenSchema as error:
            raise RequestProblem(
                "broken-question", f"No answer can be judged by the question's schema: {error}."
            ) from error
        return Opened(token, self._links, claims, wait, question)

    async def _take(self, request: web.Request, opened: Opened, typed: Mapping[str, str]) -> web.Response:
        """Take what was typed as the answer."""
        form = form_of(opened.question.answer_schema)
        if not _is_own(request, opened, typed):
            notice = Notice(
                "warn", "Nothing was sent yet: your browser did not send this page's cookie. Please send it again."
            )
            return await self._ask(request, opened, typed, notice=notice, status=403)
        answer, wrong = read(form, typed)
        by = _answerer(opened.claims, typed)
        if by is None:
            wrong = {**wrong, NAME: ["must be answered"]}
        if wrong or by is None:
            return await self._correct(request, opened, typed, wrong)
        wanted = ApprovalAnswer(answer=answer, by=by, action_digest=_digest(opened, typed))
        try:
            await self._answering.answer(opened.wait, wanted, KnownSignature(by, None))
        except RequestProblem as problem:
            return await self._not_taken(request, opened, typed, problem)
        log.info("gateway.answered_by_link", wait_id=opened.wait["_id"], by=by)
        response = web.Response(status=303, headers={**PAGES.headers(), "Location": opened.token})
        response.del_cookie(COOKIE, path=self._cookie_path())
        return response

    async def _not_taken(
        self, request: web.Request, opened: Opened, typed: Mapping[str, str], problem: RequestProblem
    ) -> web.Response:
        """What an answer that was not taken is answered with."""
        name = problem.problem.type.rpartition(":")[2]
        form = form_of(opened.question.answer_schema)
        if name in PLACED:
            found = [(error.pointer.removeprefix("/answer"), error.detail) for error in problem.problem.errors]
            return await self._correct(request, opened, typed, place(form, found))
        if name in ENDED:
            view = await self._answering.view_of(opened.wait)
            return told_page(_ended(view, opened.claims, typed_shown(form, typed)), 409)
        if name == "action-mismatch":
            notice = Notice("wrong", "The action is not the one that you saw. Nothing was sent; please read it again.")
            return await self._ask(request, opened, typed, notice=notice, status=409)
        if problem.retryable:
            notice = Notice(
                "warn", "It is not known whether your answer arrived: the database does not answer. Send it again."
            )
            return await self._ask(request, opened, typed, notice=notice, status=problem.status)
        raise problem

    async def _correct(
        self, request: web.Request, opened: Opened, typed: Mapping[str, str], wrong: Mapping[str, list[str]]
    ) -> web.Response:
        notice = Notice("wrong", "Nothing was sent yet. Please correct what is marked below.")
        return await self._ask(request, opened, typed, wrong=wrong, notice=notice, status=422)

    async def _ask(
        self,
        request: web.Request,
        opened: Opened,
        typed: Mapping[str, str] | None = None,
        *,
        wrong: Mapping[str, list[str]] | None = None,
        notice: Notice | None = None,
        status: int = 200,
    ) -> web.Response:
        """The page of an open question, with the cookie that its form needs."""
        given = request.cookies.get(COOKIE, "")
        nonce = given if 20 <= len(given) <= 64 else secrets.token_urlsafe(24)
        try:
            verdict = await self._questions.verdict_on(opened.wait)
        except RequestProblem:
            if notice is None:
                raise
            verdict = None
        asking = Asking(
            wait=opened.wait,
            recipient=opened.claims.recipient,
            shared=opened.claims.shared,
            proof=opened.links.proof(nonce, opened.token),
            verdict=verdict,
            typed=typed,
            wrong=wrong,
            notice=notice,
        )
        response = ask_page(asking, status)
        secure = (self._public_url or "").startswith("https:")
        response.set_cookie(COOKIE, nonce, path=self._cookie_path(), httponly=True, secure=secure, samesite="Strict")
        return response

    def _cookie_path(self) -> str:
        """Where the pages are, as browsers see it."""
        return f"{urlsplit(self._public_url or '').path.rstrip('/')}/answer"


def _is_own(request: web.Request, opened: Opened, typed: Mapping[str, str]) -> bool:
    """Whether our own page sent the form: it has the proof that belongs to the cookie, and no other site sent it."""
    if request.headers.get("Sec-Fetch-Site") in FOREIGN:
        return False
    return opened.links.proves(typed.get("proof", ""), request.cookies.get(COOKIE, ""), opened.token)


def _answerer(claims: AnswerClaims, typed: Mapping[str, str]) -> str | None:
    """Who answers: the recipient of the link, or who says to be behind a shared one; ``None`` when nobody says it."""
    if not claims.shared:
        return _line(claims.recipient) or "somebody with a link"
    name = _line(typed.get(NAME, ""))
    return f"{name[: BY_LIMIT // 2]} ({_line(claims.recipient)})"[:BY_LIMIT] if name else None


def _line(text: str) -> str:
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())[:BY_LIMIT]


def _digest(opened: Opened, typed: Mapping[str, str]) -> str | None:
    """The digest of the action that was shown; an empty one fits a question without an action only."""
    shown = typed.get("action_digest", "")
    return shown or (None if opened.question.action_digest is None else "none")


def _ended(view: Mapping[str, Any], claims: AnswerClaims, typed: list[tuple[str, str]] | None = None) -> Told:
    """What became of a question that is over."""
    outcome: Mapping[str, Any] = view["outcome"] or {}
    lost = ["Your answer was not used."] if typed is not None else []
    asked, thread_id, answered = view["question"], view["thread_id"], None
    at = said_moment(datetime.fromisoformat(outcome["at"])) if "at" in outcome else ""
    if view["status"] == "answered":
        answered = pretty(outcome["answer"])
        if not claims.shared and outcome["by"] == claims.recipient and typed is None:
            title, said = "Your answer is recorded", [f"You answered at {at}. The agent goes on with it."]
        elif claims.shared and typed is None:
            title, said = "The answer is recorded", [f"{outcome['by']} answered at {at}. The agent goes on with it."]
        else:
            who = outcome["by"] if outcome["by"] is not None else "a plain command"
            title, said = "This was answered already", [f"{who} was first, at {at}."]
    elif view["status"] == "expired":
        title, said = "Too late", [f"The question expired at {at}. The agent went on without an answer."]
    else:
        title, said = "Nobody needs to answer this any more", ["The agent went on another way."]
    return Told(title, [*said, *lost], asked, answered, typed or (), thread_id)


def _refused(problem: RequestProblem) -> web.Response:
    """The page of a link that leads to no question."""
    name = problem.problem.type.rpartition(":")[2]
    help_ = "Whoever sent you the link can send a new one, or answer in the inbox."
    told = {
        "link-refused": Told(
            "This link has expired" if problem.status == 410 else "This link does not work", [str(problem), help_]
        ),
        "unknown-approval": Told("The question is gone", ["It was removed with its agent.", "Nothing is left to do."]),
        "broken-question": Told(
            "This question cannot be answered", [str(problem), "Please tell whoever runs the agent."]
        ),
        "store-unavailable": Told(
            "Please try again in a moment", ["The database does not answer. Reload this page; nothing was changed."]
        ),
    }
    return told_page(told.get(name) or Told(problem.problem.title, [str(problem)]), problem.status)
