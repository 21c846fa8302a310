"""What a probe gets: clients of one server, a web server that records webhooks, and what many probes do first.

Nothing here knows which server it is: a Perdure, or the reference.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
from langgraph_sdk.client import LangGraphClient
from tests.compatibility.wire import Wire
from tests.support.polling import until
from tests.support.web import RecordingServer

ENDED = ("success", "error", "timeout", "interrupted")
TIMEOUT_S = 45.0

Document = dict[str, Any]


class Stage:
    """One probe's clients: ``sdk`` is the Python SDK, ``http`` is for what it cannot say. Both are noted by ``wire``."""

    def __init__(self, url: str, shared: httpx.AsyncBaseTransport, hooks: RecordingServer) -> None:
        self.url = url
        self.hooks = hooks
        self.wire = Wire(shared)
        self.http = httpx.AsyncClient(base_url=url, transport=self.wire, timeout=TIMEOUT_S)
        self.sdk = LangGraphClient(self.http)

    async def thread(self, **more: Any) -> str:
        """A new thread's id."""
        return str((await self.sdk.threads.create(**more))["thread_id"])

    async def walked(self, n: int = 2, **more: Any) -> tuple[str, Document]:
        """A new thread on which ``walk`` took ``n`` steps: its id, and the run."""
        thread = await self.thread()
        return thread, await self.walk(thread, n, **more)

    async def walk(self, thread: str, n: int = 2, **more: Any) -> Document:
        """The run that took ``n`` more steps on a thread, once it has ended."""
        run = await self.sdk.runs.create(thread, "walk", input={"n": n}, **more)
        return await self.ended(run)

    async def asked(self, **more: Any) -> tuple[str, Document]:
        """A new thread on which ``ask`` waits for an answer: its id, and the run."""
        thread = await self.thread()
        run = await self.sdk.runs.create(thread, "ask", input={}, **more)
        return thread, await self.ended(run)

    async def held(self, thread: str | None = None) -> Document:
        """A run that is running and takes ten minutes unless it is cancelled."""
        thread = thread or await self.thread()
        run = await self.sdk.runs.create(thread, "walk", input={"n": 1, "delay_s": 600})
        reading = partial(self.sdk.runs.get, thread, run["run_id"])
        return await until(reading, "the run is running", TIMEOUT_S, holds=lambda one: one["status"] == "running")

    async def ended(self, run: Mapping[str, Any]) -> Document:
        """The run once it has ended; its thread's status may follow a moment later."""
        reading = partial(self.sdk.runs.get, run["thread_id"], run["run_id"])
        return await until(reading, "the run has ended", TIMEOUT_S, holds=lambda one: one["status"] in ENDED)

    async def at_rest(self, thread: str, *statuses: str) -> Document:
        """The thread once it has one of these statuses; ``idle`` or ``interrupted`` when none is given."""
        reading = partial(self.sdk.threads.get, thread)
        wanted = statuses or ("idle", "interrupted")
        return await until(reading, f"the thread is {wanted}", TIMEOUT_S, holds=lambda one: one["status"] in wanted)

    async def values(self, thread: str) -> Document:
        """The values of the thread's newest state."""
        return dict((await self.sdk.threads.get_state(thread))["values"])

    async def hooked(self, path: str, count: int = 1) -> list[Document]:
        """The bodies that came to a path of ``hooks``, once there are so many."""
        return await until(
            partial(self.hooks.bodies, path), f"the webhook {path}", TIMEOUT_S, holds=lambda all_: len(all_) >= count
        )

    async def close(self) -> None:
        await self.http.aclose()


def mark() -> Document:
    """Metadata that nothing else has."""
    return {"mark": uuid.uuid4().hex}


@asynccontextmanager
async def refusal(*statuses: int) -> AsyncIterator[None]:
    """The request inside is answered with one of these statuses, 422 when none is given."""
    status = 200
    try:
        yield
    except Exception as error:  # the SDK's errors, or httpx's: both keep the response
        response = getattr(error, "response", None)
        if response is None:
            raise
        status = response.status_code
    assert status in (statuses or (422,)), f"answered {status}"


async def eventually(condition: Callable[[], Awaitable[Any]], what: str, holds: Callable[[Any], object] = bool) -> Any:
    """The condition's first value that holds, within the time that a probe has."""
    return await until(condition, what, TIMEOUT_S, holds=holds)
