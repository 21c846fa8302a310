"""States: the newest one, the one at a checkpoint, the history."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from perdure.gateway.context import CONTEXT
from perdure.gateway.http.problems import invalid
from perdure.gateway.http.requests import query_bool, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.resources.named import require_thread, unknown_checkpoint
from perdure.schemas.http import HistoryRequest, StateAtCheckpoint


async def state(request: web.Request) -> web.Response:
    """``GET /threads/{thread_id}/state``."""
    subgraphs = query_bool(request, "subgraphs")
    return await _state(request, _id(request, "checkpoint_id"), _ns(request), subgraphs=subgraphs)


async def state_at(request: web.Request) -> web.Response:
    """``GET /threads/{thread_id}/state/{checkpoint_id}``."""
    return await _state(
        request,
        _text("path:checkpoint_id", request.match_info["checkpoint_id"]),
        _ns(request),
        subgraphs=query_bool(request, "subgraphs"),
    )


async def state_at_checkpoint(request: web.Request) -> web.Response:
    """``POST /threads/{thread_id}/state/checkpoint``."""
    wanted, _ = await read_body(request, StateAtCheckpoint)
    checkpoint = wanted.checkpoint
    return await _state(request, checkpoint.checkpoint_id, checkpoint.checkpoint_ns or "", subgraphs=wanted.subgraphs)


async def history(request: web.Request) -> web.Response:
    """``GET /threads/{thread_id}/history``."""
    page = request.app[CONTEXT].settings.gateway_history_page
    limit = query_int(request, "limit", page, low=1, high=1000)
    return await _history(request, limit, _id(request, "before"), _ns(request), None)


async def history_post(request: web.Request) -> web.Response:
    """``POST /threads/{thread_id}/history``."""
    wanted, _ = await read_body(request, HistoryRequest)
    ns = wanted.checkpoint.checkpoint_ns if wanted.checkpoint else None
    return await _history(request, wanted.limit, _before(wanted.before), ns or "", wanted.metadata)


async def _state(request: web.Request, checkpoint_id: str | None, ns: str, *, subgraphs: bool) -> web.Response:
    context = request.app[CONTEXT]
    thread = await require_thread(request.app[CONTEXT].store, request)
    thread_id, head = str(thread["_id"]), thread.get("head")
    if checkpoint_id is not None:
        found = await context.store.patiently(context.states.at(thread_id, checkpoint_id, ns, subgraphs=subgraphs))
        if found is None:
            raise unknown_checkpoint(thread_id, checkpoint_id)
        return json_response(found)
    floor = head if isinstance(head, str) and not ns else None
    found = await context.store.patiently(context.states.newest(thread_id, ns, floor=floor, subgraphs=subgraphs))
    return json_response(found or _nothing(thread_id, ns))


async def _history(
    request: web.Request, limit: int, before: str | None, ns: str, metadata: dict[str, Any] | None
) -> web.Response:
    context = request.app[CONTEXT]
    thread = await require_thread(request.app[CONTEXT].store, request)
    reading = context.states.history(str(thread["_id"]), ns, limit=limit, before=before, metadata=metadata)
    return json_response(await context.store.patiently(reading))


def _nothing(thread_id: str, ns: str) -> dict[str, Any]:
    """The state of a thread before its first checkpoint."""
    return {
        "values": {},
        "next": [],
        "tasks": [],
        "checkpoint": {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": None},
        "metadata": {},
        "created_at": None,
        "parent_checkpoint": None,
        "interrupts": [],
        "waits": [],
    }


def _ns(request: web.Request) -> str:
    return _text("query:checkpoint_ns", request.query.get("checkpoint_ns", ""))


def _id(request: web.Request, name: str) -> str | None:
    return _text(f"query:{name}", request.query[name]) if request.query.get(name) else None


def _text(pointer: str, text: str) -> str:
    if any(character < " " for character in text):
        raise invalid(pointer, "holds a control character")
    return text


def _before(before: str | dict[str, Any] | None) -> str | None:
    """``before`` names a checkpoint by id, as a checkpoint, or as a config that holds one."""
    if before is None or isinstance(before, str):
        return before
    inner = before.get("configurable")
    found = (inner if isinstance(inner, dict) else before).get("checkpoint_id")
    if not isinstance(found, str):
        raise invalid("/before", "names no checkpoint_id")
    return _text("/before", found)
