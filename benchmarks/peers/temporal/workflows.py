"""Workflows of the Temporal peer, in a module of their own because the SDK's sandbox imports it again."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    import activities

LONGEST = timedelta(seconds=5)
"""Then the server gives an activity to a worker again: under load a task was seen to be lost between the two."""


async def does(activity: Any, *given: Any) -> Any:
    """One activity."""
    return await workflow.execute_activity(activity, args=list(given), start_to_close_timeout=LONGEST)


@workflow.defn
class Chain:
    """Steps in a row."""

    @workflow.run
    async def run(self, messages: list[Any], steps: int, full: bool) -> int:
        """Returns the number of messages."""
        for number in range(steps):
            if full:
                messages = await does(activities.full_step, messages, number)
            else:
                messages = [*messages, await does(activities.step, number)]
        return len(messages)


@workflow.defn
class FanOut:
    """Steps at once."""

    @workflow.run
    async def run(self, width: int) -> int:
        """Returns the number of branches."""
        return len(await asyncio.gather(*(does(activities.step, number) for number in range(width))))


@workflow.defn
class Approve:
    """A step, a wait for a signal, a step."""

    def __init__(self) -> None:
        self._answer: str | None = None

    @workflow.signal
    async def approve(self, answer: str) -> None:
        """The signal."""
        self._answer = answer

    @workflow.run
    async def run(self, messages: list[Any]) -> list[Any]:
        """Returns the number of messages and the answer."""
        messages = [*messages, await does(activities.works)]
        await workflow.wait_condition(lambda: self._answer is not None)
        messages = [*messages, await does(activities.step, 1)]
        return [len(messages), self._answer]


@workflow.defn
class Sleeper:
    """A durable sleep until then."""

    @workflow.run
    async def run(self, due: float) -> None:
        """Notes in the worker how late it went on."""
        await workflow.sleep(max(0.0, due - workflow.now().timestamp()))
        await workflow.execute_local_activity(activities.notes_lateness, due, start_to_close_timeout=LONGEST)
