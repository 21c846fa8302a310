"""Answering a history: the JSON array is written as the states are read, so that neither its length nor its size is held in memory.

Contract: what is wrong before the first states are there is a problem document. Later the status is sent already: the connection
is closed in the middle of the body, so that no client takes half a history for a whole one, and the reason is in the log.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from aiohttp import web

from perdure.chassis.telemetry import logger
from perdure.gateway.http.thread_ids import shown
from perdure.gateway.stores.store import Store

log = logger(__name__)

PORTION_BYTES: Final = 256 * 1024
"""Small states are sent together, up to so many bytes."""


async def answer_history(request: web.Request, store: Store, states: AsyncGenerator[bytes]) -> web.StreamResponse:
    """Answer an array of states, given as JSON.

    Raises:
        RequestProblem: ``store-unavailable``, before anything is sent.

    """
    async with aclosing(states):
        portion, more = await _portion(store, states)
        if not more:
            return web.Response(body=b"[" + b",".join(portion) + b"]", content_type="application/json")
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        try:
            await response.write(shown(request, b"[" + b",".join(portion)))
            while more:
                portion, more = await _portion(store, states)
                if portion:
                    await response.write(shown(request, b"," + b",".join(portion)))
            await response.write(b"]")
            await response.write_eof()
        except ConnectionError:
            pass  # the client is gone
        except Exception:
            log.exception("gateway.history_broken_off", path=request.path)
            if request.transport is not None:
                request.transport.close()
        return response


async def _portion(store: Store, states: AsyncGenerator[bytes]) -> tuple[list[bytes], bool]:
    """The next states, and whether there may be more."""
    portion: list[bytes] = []
    nbytes = 0
    while nbytes < PORTION_BYTES:
        state = await store.patiently(anext(states, None))
        if state is None:
            return portion, False
        portion.append(state)
        nbytes += len(state)
    return portion, True
