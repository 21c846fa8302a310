"""``tokens``: one step whose chat model says sixty words, 25 ms apart; each word is the time at which it was said.

So whoever reads the stream knows how long each word travelled, on a machine with one clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import END, START, MessagesState, StateGraph

WORDS = 60
PAUSE_S = 0.025


class Clock(BaseChatModel):
    """A chat model that says what time it is."""

    @property
    def _llm_type(self) -> str:
        return "clock"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(f"{time.time():.6f} "))])

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for _number in range(WORDS):
            await asyncio.sleep(PAUSE_S)
            yield ChatGenerationChunk(message=AIMessageChunk(f"{time.time():.6f} "))


async def talk(state: MessagesState) -> dict[str, Any]:
    """Ask the model."""
    return {"messages": [await Clock().ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("talk", talk)
builder.add_edge(START, "talk")
builder.add_edge("talk", END)
graph = builder.compile()
