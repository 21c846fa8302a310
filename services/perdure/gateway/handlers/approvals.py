"""Approvals: the inbox of open questions, and answering one (``perdure.gateway.answering``)."""

from __future__ import annotations

from aiohttp import web

from perdure.gateway import answering, waiting
from perdure.gateway.context import CONTEXT
from perdure.gateway.http.cursors import cursor_of
from perdure.gateway.http.requests import query_choice, query_cursor, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.schemas.documents import WaitDocument
from perdure.schemas.http import ApprovalAnswer

PAGE, PAGE_LIMIT = 20, 200


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
    return json_response({"approvals": shown, "cursor": cursor_of(found, "opened_at", limit)})


async def get(request: web.Request) -> web.Response:
    """``GET /approvals/{approval_id}``."""
    return json_response(await answering.view_of(request.app[CONTEXT], await _require_question(request)))


async def answer(request: web.Request) -> web.Response:
    """``POST /approvals/{approval_id}``."""
    wanted, _ = await read_body(request, ApprovalAnswer)
    counted = await answering.answer(request.app[CONTEXT], await _require_question(request), wanted)
    headers = {"Location": counted.location} | ({"Idempotent-Replayed": "true"} if counted.replayed else {})
    return json_response(counted.view, status=200 if counted.replayed else 202, headers=headers)


async def _require_question(request: web.Request) -> WaitDocument:
    return await answering.require_question(request.app[CONTEXT], request.match_info["approval_id"], tenant_of(request))
