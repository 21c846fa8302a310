"""JSON answers that stay open until there is something to say, as long as that takes.

Contract: the status 200 and the headers are sent at once, then a newline every few seconds, which JSON parsers skip and which keeps
proxies and clients from giving up, then the value. What fails on the way is the value ``{"__error__": {"error", "message"}}``: the
status is sent already. A gateway that ends closes the connection in the middle of the body, so that no client takes half an answer
for a whole one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

from aiohttp import web
from pymongo.errors import PyMongoError

from perdure.chassis.outage import is_outage
from perdure.chassis.telemetry import logger
from perdure.checkpoint.errors import NotebookError
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.responses import as_json
from perdure.gateway.http.thread_ids import shown

log = logger(__name__)

LOOK_S = 0.5
"""How often an open answer looks whether its client is still there, in seconds."""
AGAIN_S = 1.0


class Closing(Exception):
    """The gateway ends: nobody can wait here any longer."""


async def open_answer(
    request: web.Request,
    value: Callable[[], Awaitable[Any]],
    *,
    headers: Mapping[str, str],
    heartbeat_s: float,
    left: Callable[[], Awaitable[None]] | None = None,
) -> web.StreamResponse:
    """Answer 200 now and the value when it is there.

    Args:
        request: What is answered.
        value: Waits for the value. It is asked again while a server is away, and raises ``Closing`` when this gateway ends.
        headers: Of the answer.
        heartbeat_s: Time between two newlines, in seconds.
        left: Called once if the client goes away before it has the value.

    """
    response = web.StreamResponse(headers=headers)
    response.content_type = "application/json"
    waiting = asyncio.create_task(_value(request.path, value), name="open-answer")
    try:
        await response.prepare(request)
        while not await _within(waiting, heartbeat_s, request):
            await response.write(b"\n")
        await response.write(shown(request, as_json(waiting.result())))
        await response.write_eof()
    except Closing:
        _hang_up(request)
    except ConnectionError:
        if left is not None:
            await left()
    finally:
        waiting.cancel()
    return response


async def _within(waiting: asyncio.Task[Any], heartbeat_s: float, request: web.Request) -> bool:
    """Wait for the value until the next newline is due; whether it is there.

    Raises:
        ConnectionError: the client is gone.

    """
    loop = asyncio.get_running_loop()
    due = loop.time() + heartbeat_s
    while not waiting.done() and (rest := due - loop.time()) > 0:
        if request.transport is None or request.transport.is_closing():
            raise ConnectionResetError
        await asyncio.wait({waiting}, timeout=min(rest, LOOK_S))
    return waiting.done()


async def _value(path: str, value: Callable[[], Awaitable[Any]]) -> Any:
    while True:
        try:
            return await value()
        except RequestProblem as problem:
            if not problem.retryable:
                return _error(problem.problem.type, problem.problem.detail)
        except NotebookError as error:
            log.exception("gateway.damaged_state")
            return _error("damaged-state", str(error))
        except Closing:
            raise
        except Exception as error:
            if not (isinstance(error, PyMongoError) and is_outage(error)):
                error_id = uuid4().hex
                log.exception("gateway.internal_error", error_id=error_id, path=path)
                return _error(
                    "internal-error", f"Something failed that should not. The gateway's log has it under {error_id}."
                )
        await asyncio.sleep(AGAIN_S)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"__error__": {"error": kind, "message": message}}


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
