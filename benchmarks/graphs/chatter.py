"""``chatter``: a node that says ``chunks`` things, by a chat model that streams or by the stream writer, ``pause_s`` apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph


class Scripted(BaseChatModel):
    """A chat model that says ``chunks`` tokens."""

    chunks: int
    pause_s: float

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("token " * self.chunks))])

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for _number in range(self.chunks):
            await asyncio.sleep(self.pause_s)
            yield ChatGenerationChunk(message=AIMessageChunk(content="token "))


class State(TypedDict, total=False):
    chunks: int
    pause_s: float
    by: str
    said: int


async def says(state: State) -> dict[str, Any]:
    """Says them; the same work, whether somebody listens or not."""
    said = 0
    if state["by"] == "writer":
        write = get_stream_writer()
        for said in range(1, state["chunks"] + 1):
            await asyncio.sleep(state["pause_s"])
            write({"progress": said, "text": "token "})
    else:
        async for _ in Scripted(chunks=state["chunks"], pause_s=state["pause_s"]).astream("hi"):
            said += 1
    return {"said": said}


builder = StateGraph(State)
builder.add_node("says", says)
builder.add_edge(START, "says")
builder.add_edge("says", END)
graph = builder.compile()
