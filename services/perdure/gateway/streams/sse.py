"""Server-sent events: the answer that stays open and tells one event after another.

Contract: the headers go out at once, then each event as it comes, and a comment every few seconds, which keeps proxies and clients
from giving up. Nothing is made before the client took what was sent: a client that reads slowly holds the socket's buffer and no
more. A client that is gone is noticed within ``LOOK_S``. A gateway that ends closes the connection in the middle, so that no client
takes a part for the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Final
from uuid import uuid4

from aiohttp import web

from perdure.chassis.telemetry import logger
from perdure.gateway.http.responses import as_json
from perdure.gateway.http.thread_ids import shown
from perdure.gateway.streams.open_answer import Closing

log = logger(__name__)

LOOK_S: Final = 0.5
"""How often it is looked whether the client is still there, in seconds."""
HEARTBEAT: Final = b": heartbeat\r\n\r\n"
HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
BUFFER_BYTES: Final = 64 * 1024
"""What may wait for one client in the gateway, in bytes."""


def event_bytes(name: str, data: bytes, place: str | None) -> bytes:
    """One event as it is sent. The data is JSON, so it has no line breaks."""
    end = f"id: {place}\r\n\r\n" if place is not None else "\r\n"
    return b"event: %b\r\ndata: %b\r\n%b" % (_line(name), data, end.encode())


async def stream(
    request: web.Request,
    events: AsyncGenerator[bytes, None],
    *,
    headers: Mapping[str, str],
    heartbeat_s: float,
    left: Callable[[], Awaitable[None]] | None = None,
) -> web.StreamResponse:
    """Answer 200 now and the events as they come.

    Args:
        request: What is answered.
        events: The events as bytes; raises ``Closing`` when this gateway ends.
        headers: Of the answer.
        heartbeat_s: Time between two comments, in seconds.
        left: Called once if the client goes away before the end.

    """
    response = web.StreamResponse(headers={**HEADERS, **headers})
    response.content_type = "text/event-stream"
    response.headers["Content-Type"] = "text/event-stream; charset=utf-8"
    await response.prepare(request)
    try:
        if request.transport is not None:
            request.transport.set_write_buffer_limits(high=BUFFER_BYTES)
        async with aclosing(events):
            await _write(request, response, events, heartbeat_s)
        await response.write_eof()
    except Closing:
        if request.transport is not None:
            request.transport.close()
    except ConnectionError:
        if left is not None:
            await left()
    except Exception:
        error_id = uuid4().hex
        log.exception("gateway.internal_error", error_id=error_id, path=request.path)
        await _fail(response, error_id)
    return response


async def _write(
    request: web.Request, response: web.StreamResponse, events: AsyncGenerator[bytes, None], heartbeat_s: float
) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time() + heartbeat_s
    is_writing = False

    async def tell() -> None:
        nonlocal is_writing
        async for data in events:
            is_writing = True
            await response.write(shown(request, data))
            is_writing = False

    telling = asyncio.create_task(tell(), name="tell")
    try:
        while True:
            await asyncio.wait({telling}, timeout=min(max(0.0, due - loop.time()), LOOK_S))
            if telling.done():
                telling.result()
                return
            if _is_gone(request):
                raise ConnectionResetError
            if loop.time() >= due:
                due = max(due + heartbeat_s, loop.time())
                if not is_writing:
                    await response.write(HEARTBEAT)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _fail(response: web.StreamResponse, error_id: str) -> None:
    """Tell the client in the stream that something failed that should not: the status was sent already."""
    message = f"Something failed that should not. The gateway's log has it under {error_id}."
    await response.write(event_bytes("error", as_json({"error": "internal-error", "message": message}), None))
    await response.write_eof()


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _line(text: str) -> bytes:
    return text.replace("\r", "").replace("\n", "").encode()
