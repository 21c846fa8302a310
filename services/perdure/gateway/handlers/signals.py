"""Signals: send one to a thread (``perdure.gateway.signalling``), list them."""

from __future__ import annotations

from aiohttp import web

from perdure.chassis.clock import now
from perdure.gateway import waiting
from perdure.gateway.context import CONTEXT
from perdure.gateway.http.cursors import cursor_of
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.requests import (
    idempotency_key,
    query_choice,
    query_cursor,
    query_int,
    read_body,
    request_digest,
    require_payload,
)
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.gateway.resources.named import require_thread
from perdure.gateway.signalling import accept
from perdure.schemas.http import SignalCreate

PAGE, PAGE_LIMIT = 20, 100


async def send(request: web.Request) -> web.Response:
    """``POST /threads/{thread_id}/signals/{name}``."""
    context = request.app[CONTEXT]
    name = request.match_info["name"]
    if not waiting.is_signal_name(name):
        raise invalid("path:name", "must be 1 to 128 of A-Z a-z 0-9 . _ : -")
    wanted, _ = await read_body(request, SignalCreate)
    require_payload("/payload", wanted.payload)
    key = idempotency_key(request)
    thread_id = str((await require_thread(request.app[CONTEXT].store, request))["_id"])
    signal = waiting.signal_document(
        tenant=tenant_of(request),
        thread_id=thread_id,
        name=name,
        payload=wanted.payload,
        key=key,
        request=request_digest(request.path, {"payload": wanted.payload}),
        moment=now(),
    )
    accepted = await accept(context, signal)
    if accepted.replayed and accepted.signal["digest"] != signal["digest"]:
        raise RequestProblem(
            "signal-conflict",
            f"The Idempotency-Key was used for signal {signal['_id']!r} to thread {thread_id!r} with another name or "
            "payload. Use a new key for a new signal.",
        )
    view = waiting.signal_view(accepted.signal)
    replayed = {"Idempotent-Replayed": "true"} if accepted.replayed else {}
    return json_response(view, status=202, headers={"Location": f"/threads/{thread_id}/signals", **replayed})


async def list_signals(request: web.Request) -> web.Response:
    """``GET /threads/{thread_id}/signals``."""
    limit = query_int(request, "limit", PAGE, low=1, high=PAGE_LIMIT)
    state = query_choice(request, "state", waiting.SIGNAL_STATES)
    after = query_cursor(request, "after")
    thread_id = str((await require_thread(request.app[CONTEXT].store, request))["_id"])
    found = await request.app[CONTEXT].inbox.signals(thread_id, state=state, after=after, limit=limit)
    shown = [waiting.listed_signal(signal) for signal in found[:limit]]
    return json_response({"signals": shown, "cursor": cursor_of(found, "created_at", limit)})
