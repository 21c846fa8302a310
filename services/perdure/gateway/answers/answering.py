"""Answering a question, whichever way the answer comes: as JSON over HTTP, or from a page.

Contract: nothing here decides who was first: the insert of the waking run does (ADR 6). An answer that does not fit wakes nobody.
Every refusal is a :class:`perdure.gateway.http.problems.RequestProblem`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from perdure.chassis import json
from perdure.chassis.clock import now
from perdure.gateway.answers.questions import Questions
from perdure.gateway.answers.views import approval_view, as_woken, is_repeat, outcome_view
from perdure.gateway.auth.caller import KnownSignature
from perdure.gateway.http.aside import Aside
from perdure.gateway.http.problems import RequestProblem, invalid_fields
from perdure.gateway.http.requests import require_payload
from perdure.gateway.stores.store import Store
from perdure.registry.answers import BrokenSchema, reasons, require_schema
from perdure.registry.questions import question_in
from perdure.registry.waits import Waits, Woken
from perdure.schemas.documents import WaitDocument, WaitStatus
from perdure.schemas.http import ApprovalAnswer
from perdure.schemas.problem import InvalidField
from perdure.schemas.thread_ids import shown_id
from perdure.schemas.waits import OutcomeKind, Question, WaitOutcome

SHOWN_ANSWER = 200
"""Characters of an earlier answer in the sentence that refuses a later one."""


@dataclass(frozen=True, slots=True)
class Counted:
    """An answer that counts.

    Attributes:
        view: The question as it ended (``perdure.schemas.http.Approval``).
        location: The run that goes on.
        replayed: It is a repeat of the answer that ended the question.

    """

    view: dict[str, Any]
    location: str
    replayed: bool


JUDGED_AT_ONCE = 2


class Answering:
    """Finds questions and answers them. Schemas are the graphs' and answers the clients': they are judged beside the event loop."""

    def __init__(self, store: Store, questions: Questions, waits: Waits) -> None:
        self._store = store
        self._questions = questions
        self._waits = waits
        self._judging = Aside(JUDGED_AT_ONCE, "answers")

    async def require(self, approval_id: str, tenant: str) -> WaitDocument:
        """A question of this tenant.

        Raises:
            RequestProblem: ``unknown-approval``.

        """
        found = await self._questions.find(approval_id, tenant)
        if found is None:
            raise unknown_approval(approval_id)
        return found

    async def view_of(self, wait: WaitDocument) -> dict[str, Any]:
        """A question as it is, or as it ended."""
        woken = await self._woken(wait)
        (view,) = await self.views_of([as_woken(wait, woken) if woken else wait])
        return view

    async def views_of(self, waits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Questions as their documents say."""
        return await self._judging.run(lambda: [approval_view(wait) for wait in waits])

    async def question_of(self, wait: WaitDocument) -> Question:
        """What a wait asks."""
        return await self._judging.run(question_in, wait)

    async def require_judgeable(self, question: Question) -> None:
        """Refuse a question whose schema judges no answer.

        Raises:
            BrokenSchema: it does not.

        """
        await self._judging.run(require_schema, question.answer_schema or {})

    async def answer(self, wait: WaitDocument, wanted: ApprovalAnswer, signature: KnownSignature) -> Counted:
        """Answer a question; the signature is recorded, not whom the answer names.

        Raises:
            RequestProblem: ``body-too-large``, ``invalid-request`` (with every reason under ``/answer``), ``action-mismatch``,
                ``broken-question``, ``already-answered``, ``approval-expired`` or ``approval-closed``.

        """
        require_payload("/answer", wanted.answer)
        question = await self.question_of(wait)
        if wanted.action_digest is not None and wanted.action_digest != question.action_digest:
            raise RequestProblem(
                "action-mismatch",
                f"Question {wait['_id']!r} is about the action with the digest {question.action_digest}, not "
                f"{wanted.action_digest}. Read it again before you answer.",
            )
        if wait["status"] != WaitStatus.OPEN.value:
            woken = await self._woken(wait)
            if woken is None:
                raise _closed(wait)
            return await self._judging.run(_second, wait, woken, wanted, signature)
        await self._require_fitting(wait, question, wanted)
        outcome = WaitOutcome(
            kind=OutcomeKind.ANSWER,
            wait_id=wait["_id"],
            at=now(),
            payload=wanted.answer,
            by=signature.by,
            on_behalf_of=signature.on_behalf_of,
            # A plain answer approves no effect: only ask_human binds its answer to an action.
            action_digest=None if "interrupt" in wait else question.action_digest,
        )
        woken = await self._store.within(self._waits.wake(wait, outcome))
        if woken.won:
            return await self._judging.run(partial(_counted, wait, woken, replayed=False))
        return await self._judging.run(_second, wait, woken, wanted, signature)

    async def _require_fitting(self, wait: WaitDocument, question: Question, wanted: ApprovalAnswer) -> None:
        """Refuse an answer that does not fit the question's schema, with every reason."""
        if question.answer_schema is None:
            return
        try:
            found = await self._judging.run(reasons, question.answer_schema, wanted.answer)
        except BrokenSchema as error:
            raise RequestProblem(
                "broken-question",
                f"The schema of question {wait['_id']!r} is broken, so that no answer can be judged by it: {error}. The agent "
                f"stays asleep; correct the graph, and resume thread {shown_id(wait['thread_id'])!r} with a command.",
            ) from error
        if found:
            raise invalid_fields(
                [InvalidField(pointer="/answer" + pointer, detail=reason) for pointer, reason in found]
            )

    async def _woken(self, wait: WaitDocument) -> Woken | None:
        return await self._store.within(self._waits.woken(wait["tenant"], wait["_id"]))


def unknown_approval(approval_id: str) -> RequestProblem:
    """No such question in the caller's tenant."""
    return RequestProblem("unknown-approval", f"There is no question {approval_id!r}; GET /approvals lists them.")


def _counted(wait: WaitDocument, woken: Woken, *, replayed: bool) -> Counted:
    view = approval_view(as_woken(wait, woken))
    return Counted(view, f"/threads/{shown_id(wait['thread_id'])}/runs/{woken.run['_id']}", replayed)


def _second(wait: WaitDocument, woken: Woken, wanted: ApprovalAnswer, signature: KnownSignature) -> Counted:
    """The answer to who comes second: the same once more if it is a repeat, else who was first.

    Raises:
        RequestProblem: ``already-answered``, ``approval-expired`` or ``approval-closed``.

    """
    if is_repeat(woken, signature, wanted.answer):
        return _counted(wait, woken, replayed=True)
    outcome, name = woken.outcome, f"Question {wait['_id']!r}"
    if outcome.kind is OutcomeKind.ANSWER:
        said = json.dumps(outcome.payload).decode()
        shown = said if len(said) <= SHOWN_ANSWER else said[:SHOWN_ANSWER] + "..."
        who = f"by {outcome.by!r}" if outcome.by is not None else "by a plain command"
        problem = "already-answered", f"{name} was answered {who} at {outcome.at.isoformat()} with {shown}."
    elif outcome.kind is OutcomeKind.DUE:
        problem = (
            "approval-expired",
            f"{name} expired at {outcome.at.isoformat()}; the agent went on without an answer.",
        )
    else:
        ended = f"signal {outcome.name!r}" if outcome.kind is OutcomeKind.SIGNAL else "a verdict"
        problem = "approval-closed", f"{name} is closed: {ended} came first, at {outcome.at.isoformat()}."
    raise RequestProblem(
        *problem,
        outcome=outcome_view(outcome.value()),
        headers={"Location": f"/threads/{shown_id(wait['thread_id'])}/runs/{woken.run['_id']}"},
    )


def _closed(wait: WaitDocument) -> RequestProblem:
    return RequestProblem(
        "approval-closed",
        f"Question {wait['_id']!r} is closed: thread {shown_id(wait['thread_id'])!r} went on another way. "
        f"GET /threads/{shown_id(wait['thread_id'])} shows where it is.",
    )
