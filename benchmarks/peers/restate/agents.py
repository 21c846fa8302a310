"""The agents of the Restate peer, served by hypercorn: ``hypercorn agents:app``. Run by ``driver.py``."""

from __future__ import annotations

import asyncio
import json
import os
import time
from datetime import timedelta
from typing import Any

import restate
from payload import message
from restate import Context, RunOptions, Service, Workflow, WorkflowContext, WorkflowSharedContext

SUSPEND = {"inactivity_timeout": timedelta(seconds=float(os.environ["SUSPEND_AFTER_S"]))}
"""After so long without progress a handler is suspended: nothing of it stays in memory."""
_counts = {"parked": 0}
chains = Service("chains")
approvals = Workflow("approvals", **SUSPEND)
sleepers = Workflow("sleepers", **SUSPEND)


async def step(number: int) -> dict[str, Any]:
    """A step whose result, one message, is persisted."""
    await asyncio.sleep(0)
    return message(number)


async def full_step(messages: list[Any], number: int) -> list[Any]:
    """A step whose result is the whole state."""
    await asyncio.sleep(0)
    return [*messages, message(number)]


async def works() -> dict[str, Any]:
    """What an agent does before it waits."""
    _counts["parked"] += 1
    return message(0)


@chains.handler()
async def chain(ctx: Context, given: dict[str, Any]) -> int:
    """Steps in a row."""
    messages = given["messages"]
    for number in range(given["steps"]):
        if given["full"]:
            messages = await ctx.run_typed(f"step {number}", full_step, RunOptions(), messages=messages, number=number)
        else:
            messages = [*messages, await ctx.run_typed(f"step {number}", step, RunOptions(), number=number)]
    return len(messages)


@chains.handler()
async def fan_out(ctx: Context, width: int) -> int:
    """Steps at once."""
    branches = [ctx.run_typed(f"branch {number}", step, RunOptions(), number=number) for number in range(width)]
    return len(await restate.gather(*branches))


@approvals.main()
async def run(ctx: WorkflowContext, messages: list[Any]) -> list[Any]:
    """A step, a wait for a signal, a step."""
    messages = [*messages, await ctx.run_typed("works", works)]
    answer = await ctx.promise("approval", type_hint=str).value()
    messages = [*messages, await ctx.run_typed("notes", step, RunOptions(), number=1)]
    return [len(messages), answer]


@approvals.handler()
async def approve(ctx: WorkflowSharedContext, answer: str) -> None:
    """The signal."""
    await ctx.promise("approval", type_hint=str).resolve(answer)


@sleepers.main("run")
async def sleep(ctx: WorkflowContext, due: float) -> float:
    """A durable sleep until then."""
    lead = await ctx.run_typed("lead", lambda: max(0.0, due - time.time()))
    await ctx.sleep(timedelta(seconds=lead))
    late = time.time() - due
    return await ctx.run_typed("late", lambda: late)


_restate = restate.app([chains, approvals, sleepers])


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Restate's application, and one page for the driver: how many agents have come to their wait in this process."""
    if scope["type"] == "http" and scope["path"] == "/parked":
        body = json.dumps(_counts).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})
        return
    await _restate(scope, receive, send)
