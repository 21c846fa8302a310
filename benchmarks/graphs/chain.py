"""The workload: five supersteps in a row, each of which appends one message of about 200 bytes to a chat-like list.

Text is random base64, different each time, so that it does not compress away. A run starts with one message that makes
the state as big as wanted (``text``, ``first_message``).
"""

from __future__ import annotations

import asyncio
import base64
import operator
import os
import random
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph

STEPS = 5
_ENVELOPE = 45
_TEXT = base64.b64encode(os.urandom(1 << 20)).decode()


class State(TypedDict):
    messages: Annotated[list[dict[str, Any]], operator.add]


def text(size: int) -> str:
    """``size`` characters, at most 1 MiB, different at each call."""
    offset = random.randrange(len(_TEXT) - size)
    return _TEXT[offset : offset + size]


def first_message(size: int) -> dict[str, Any]:
    """A message whose JSON has about ``size`` bytes."""
    return {"role": "user", "i": -1, "content": text(max(1, size - _ENVELOPE))}


def step(number: int) -> Callable[[State], Awaitable[dict[str, Any]]]:
    """A node that appends one message."""

    async def node(_: State) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"messages": [{"role": "assistant", "i": number, "content": text(160)}]}

    return node


builder = StateGraph(State)
names = [f"step_{number}" for number in range(STEPS)]
for number, name in enumerate(names):
    builder.add_node(name, step(number))
for before, after in zip([START, *names], [*names, END], strict=True):
    builder.add_edge(before, after)
graph = builder.compile()
