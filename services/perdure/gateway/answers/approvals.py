"""Approvals: the inbox of open questions, and answering one (``perdure.gateway.answers.answering``)."""

from __future__ import annotations

from aiohttp import web

from perdure.gateway.answers.answering import Answering
from perdure.gateway.answers.questions import Questions
from perdure.gateway.answers.views import OPEN, STATUSES, approvals_query
from perdure.gateway.auth.caller import caller_of, tenant_of
from perdure.gateway.http.cursors import cursor_of
from perdure.gateway.http.requests import query_choice, query_cursor, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import AFTER, BODY, TEXT, Parameter, Route, page_of
from perdure.gateway.http.thread_ids import query_thread
from perdure.gateway.stores.store import Store
from perdure.gateway.stores.visible import visible_threads
from perdure.schemas import http
from perdure.schemas.documents import WaitDocument
from perdure.schemas.http import ApprovalAnswer
from perdure.schemas.scopes import Scope

PAGE, PAGE_LIMIT = 20, 200


class ApprovalsResource:
    """Questions to people: list, see, answer."""

    def __init__(self, store: Store, questions: Questions, answering: Answering) -> None:
        self._store = store
        self._questions = questions
        self._answering = answering

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "GET", "/approvals", self.list_approvals, "listApprovals", "Questions to people, oldest first", "Waits",
                {200: http.ApprovalPage},
                parameters=(
                    page_of(20, 200), AFTER,
                    Parameter("status", {"enum": ["open", "answered", "expired", "closed", "all"], "default": "open"}),
                    Parameter("assigned_to", TEXT, "Only those that this person or group is asked now."),
                    Parameter("thread_id", TEXT, "Only those of this thread."),
                    Parameter("graph", TEXT, "Only those of this graph: a graph id or an assistant id."),
                ), scope=Scope.APPROVALS_READ,
            ),
            Route(
                "GET", "/approvals/{approval_id}", self.get, "getApproval", "A question", "Waits", {200: http.Approval},
                problems=("unknown-approval",), scope=Scope.APPROVALS_READ,
            ),
            Route(
                "POST", "/approvals/{approval_id}", self.answer, "answerApproval",
                "Answer a question and wake its agent; 200 for a repeat of the answer that did", "Waits",
                {200: http.Approval, 202: http.Approval}, http.ApprovalAnswer,
                problems=(
                    *BODY, "unknown-approval", "already-answered", "approval-expired", "approval-closed", "action-mismatch",
                    "broken-question",
                ), scope=Scope.APPROVALS_ANSWER,
            ),
        )
        # fmt: on

    async def list_approvals(self, request: web.Request) -> web.Response:
        """``GET /approvals``."""
        limit = query_int(request, "limit", PAGE, low=1, high=PAGE_LIMIT)
        query = approvals_query(
            tenant_of(request),
            status=query_choice(request, "status", STATUSES) or OPEN,
            thread_id=query_thread(request),
            graph=request.query.get("graph"),
            assigned_to=request.query.get("assigned_to"),
            after=query_cursor(request, "after"),
        )
        if (visible := await visible_threads(self._store, request)) is not None:
            query["$and"] = [*query.get("$and", ()), {"thread_id": {"$in": visible}}]
        found = await self._questions.page(query, limit)
        shown = await self._answering.views_of(found[:limit])
        return json_response({"approvals": shown, "cursor": cursor_of(found, "opened_at", limit)})

    async def get(self, request: web.Request) -> web.Response:
        """``GET /approvals/{approval_id}``."""
        return json_response(await self._answering.view_of(await self._require_question(request)))

    async def answer(self, request: web.Request) -> web.Response:
        """``POST /approvals/{approval_id}``."""
        wanted, _ = await read_body(request, ApprovalAnswer)
        signature = caller_of(request).must_sign(wanted.by)
        counted = await self._answering.answer(await self._require_question(request), wanted, signature)
        headers = {"Location": counted.location} | ({"Idempotent-Replayed": "true"} if counted.replayed else {})
        return json_response(counted.view, status=200 if counted.replayed else 202, headers=headers)

    async def _require_question(self, request: web.Request) -> WaitDocument:
        return await self._answering.require(request.match_info["approval_id"], tenant_of(request))
