"""Approvals: the inbox of open questions, and answering one.

Nothing here decides who was first: the insert of the waking run does (ADR 6). An answer that does not fit wakes nobody.
"""

from __future__ import annotations

from aiohttp import web

from perdure.chassis import json
from perdure.gateway import waiting
from perdure.gateway.context import CONTEXT, json_response
from perdure.gateway.middleware import tenant_of
from perdure.gateway.problems import RequestProblem, invalid_fields, unknown_approval
from perdure.gateway.requests import query_choice, query_cursor, query_int, read_body, require_payload
from perdure.registry.answers import BrokenSchema, reasons
from perdure.registry.runs import now
from perdure.registry.waits import Woken
from perdure.schemas.documents import WaitDocument, WaitStatus
from perdure.schemas.http import ApprovalAnswer
from perdure.schemas.problem import InvalidField
from perdure.schemas.waits import OutcomeKind, Question, WaitOutcome

PAGE, PAGE_LIMIT = 20, 200
SHOWN_ANSWER = 200
"""Characters of an earlier answer in the sentence that refuses a later one."""


async def list_approvals(request: web.Request) -> web.Response:
    """``GET /approvals``."""
    limit = query_int(request, "limit", PAGE, low=1, high=PAGE_LIMIT)
    query = waiting.approvals_query(
        tenant_of(request),
        status=query_choice(request, "status", waiting.STATUSES) or waiting.OPEN,
        thread_id=request.query.get("thread_id"),
        graph=request.query.get("graph"),
        assigned_to=request.query.get("assigned_to"),
        after=query_cursor(request, "after"),
    )
    found = await request.app[CONTEXT].inbox.questions(query, limit)
    shown = [waiting.approval_view(wait) for wait in found[:limit]]
    return json_response({"approvals": shown, "cursor": waiting.cursor_of(found, "opened_at", limit)})


async def get(request: web.Request) -> web.Response:
    """``GET /approvals/{approval_id}``."""
    wait = await _require_question(request)
    woken = await _woken(request, wait)
    return json_response(waiting.approval_view(waiting.as_woken(wait, woken) if woken else wait))


async def answer(request: web.Request) -> web.Response:
    """``POST /approvals/{approval_id}``."""
    context = request.app[CONTEXT]
    wanted, _ = await read_body(request, ApprovalAnswer)
    require_payload("/answer", wanted.answer)
    wait = await _require_question(request)
    question = Question.model_validate(wait["question"])
    if wanted.action_digest is not None and wanted.action_digest != question.action_digest:
        raise RequestProblem(
            "action-mismatch",
            f"Question {wait['_id']!r} is about the action with the digest {question.action_digest}, not "
            f"{wanted.action_digest}. Read it again before you answer.",
        )
    if wait["status"] != WaitStatus.OPEN.value:
        woken = await _woken(request, wait)
        if woken is None:
            raise _closed(wait)
        return _second(wait, woken, wanted)
    _require_fitting(wait, question, wanted)
    outcome = WaitOutcome(
        kind=OutcomeKind.ANSWER,
        wait_id=wait["_id"],
        at=now(),
        payload=wanted.answer,
        by=wanted.by,
        action_digest=question.action_digest,
    )
    woken = await context.store.within(context.waits.wake(wait, outcome))
    return _accepted(wait, woken) if woken.won else _second(wait, woken, wanted)


async def _require_question(request: web.Request) -> WaitDocument:
    approval_id = request.match_info["approval_id"]
    found = await request.app[CONTEXT].inbox.question(approval_id, tenant_of(request))
    if found is None:
        raise unknown_approval(approval_id)
    return found


async def _woken(request: web.Request, wait: WaitDocument) -> Woken | None:
    context = request.app[CONTEXT]
    return await context.store.within(context.waits.woken(wait["tenant"], wait["_id"]))


def _require_fitting(wait: WaitDocument, question: Question, wanted: ApprovalAnswer) -> None:
    """Refuse an answer that does not fit the question's schema, with every reason."""
    if question.answer_schema is None:
        return
    try:
        found = reasons(question.answer_schema, wanted.answer)
    except BrokenSchema as error:
        raise RequestProblem(
            "broken-question",
            f"The schema of question {wait['_id']!r} is broken, so that no answer can be judged by it: {error}. The agent "
            f"stays asleep; correct the graph, and resume thread {wait['thread_id']!r} with a command.",
        ) from error
    if found:
        raise invalid_fields([InvalidField(pointer="/answer" + pointer, detail=reason) for pointer, reason in found])


def _accepted(wait: WaitDocument, woken: Woken, *, replayed: bool = False) -> web.Response:
    location = f"/threads/{wait['thread_id']}/runs/{woken.run['_id']}"
    headers = {"Location": location} | ({"Idempotent-Replayed": "true"} if replayed else {})
    view = waiting.approval_view(waiting.as_woken(wait, woken))
    return json_response(view, status=200 if replayed else 202, headers=headers)


def _second(wait: WaitDocument, woken: Woken, wanted: ApprovalAnswer) -> web.Response:
    """The answer to who comes second: the same once more if it is a repeat, else who was first.

    Raises:
        RequestProblem: ``already-answered``, ``approval-expired`` or ``approval-closed``.

    """
    if waiting.is_repeat(woken, wanted.by, wanted.answer):
        return _accepted(wait, woken, replayed=True)
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
        outcome=waiting.outcome_view(outcome.value()),
        headers={"Location": f"/threads/{wait['thread_id']}/runs/{woken.run['_id']}"},
    )


def _closed(wait: WaitDocument) -> RequestProblem:
    return RequestProblem(
        "approval-closed",
        f"Question {wait['_id']!r} is closed: thread {wait['thread_id']!r} went on another way. "
        f"GET /threads/{wait['thread_id']} shows where it is.",
    )
