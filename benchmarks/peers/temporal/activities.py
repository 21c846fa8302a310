"""Activities of the Temporal peer: each result is persisted by the server before the workflow goes on."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from payload import message
from temporalio import activity

counts = {"parked": 0}
late_s: dict[str, asyncio.Future[float]] = {}
"""Worker and driver are one process: thousands of long polls for results at once exceed the server's limit of pollers."""


@activity.defn
async def step(number: int) -> dict[str, Any]:
    """A step whose result is one message."""
    await asyncio.sleep(0)
    return message(number)


@activity.defn
async def full_step(messages: list[Any], number: int) -> list[Any]:
    """A step whose result is the whole state."""
    await asyncio.sleep(0)
    return [*messages, message(number)]


@activity.defn
async def works() -> dict[str, Any]:
    """What an agent does before it waits."""
    counts["parked"] += 1
    return message(0)


@activity.defn
async def notes_lateness(due: float) -> None:
    """The sleeper's code runs again."""
    if (waiting := late_s.get(activity.info().workflow_id)) and not waiting.done():
        waiting.set_result(time.time() - due)
