"""Signals: send one to a thread, list them.

A signal is durable before it is answered; what hinders its delivery after that is left to the scheduler's sweep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from perdure.chassis.telemetry import logger
from perdure.gateway import domain, waiting
from perdure.gateway.context import CONTEXT, Context, json_response
from perdure.gateway.handlers.threads import require_thread
from perdure.gateway.middleware import tenant_of
from perdure.gateway.problems import RequestProblem, invalid
from perdure.gateway.requests import (
    idempotency_key,
    query_choice,
    query_cursor,
    query_int,
    read_body,
    require_payload,
)
from perdure.registry.runs import now
from perdure.schemas.http import SignalCreate

log = logger(__name__)

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
    thread_id = str((await require_thread(request))["_id"])
    signal = waiting.signal_document(
        tenant=tenant_of(request),
        thread_id=thread_id,
        name=name,
        payload=wanted.payload,
        key=key,
        request=domain.request_digest(request.path, {"payload": wanted.payload}),
        moment=now(),
    )
    context.store.require_available()
    earlier = await context.store.within(context.signals.store(signal))
    if earlier is not None and earlier["digest"] != signal["digest"]:
        raise RequestProblem(
            "signal-conflict",
            f"The Idempotency-Key was used for signal {signal['_id']!r} to thread {thread_id!r} with another name or "
            "payload. Use a new key for a new signal.",
        )
    kept = earlier or signal
    view = waiting.signal_view(kept if kept["offered"] else await _offer(context, kept))
    replayed = {"Idempotent-Replayed": "true"} if earlier is not None else {}
    return json_response(view, status=202, headers={"Location": f"/threads/{thread_id}/signals", **replayed})


async def list_signals(request: web.Request) -> web.Response:
    """``GET /threads/{thread_id}/signals``."""
    limit = query_int(request, "limit", PAGE, low=1, high=PAGE_LIMIT)
    state = query_choice(request, "state", waiting.SIGNAL_STATES)
    after = query_cursor(request, "after")
    thread_id = str((await require_thread(request))["_id"])
    found = await request.app[CONTEXT].inbox.signals(thread_id, state=state, after=after, limit=limit)
    shown = [waiting.listed_signal(signal) for signal in found[:limit]]
    return json_response({"signals": shown, "cursor": waiting.cursor_of(found, "created_at", limit)})


async def _offer(context: Context, signal: Mapping[str, Any]) -> Mapping[str, Any]:
    """Offer a stored signal to the open waits; the signal as it is afterwards, or as it was when that fails."""
    try:
        async with asyncio.timeout(context.store.timeout_s):
            await context.signals.offer(signal["thread_id"])
            return await context.inbox.signal(signal["_id"]) or signal
    except Exception as error:  # it is durable, so the answer is 202; the sweep offers it again
        log.warning("gateway.signal_left_to_sweep", signal_id=signal["_id"], reason=repr(error))
        return signal
