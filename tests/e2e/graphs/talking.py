"""``agent``: a chat agent with a scripted model that streams its words, for the clients that people chat with.

It answers what the last person's message asks for: with ``slow``, many words, ten in a second; with ``transfer``, some words,
then a ``HumanInterrupt`` that somebody has to accept; else some words.

``speaks``: supersteps that each say some words and then wait for a file, so that a test decides when each of them ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

SLOW_WORDS = 300
SLOW_PAUSE_S = 0.1
PAUSE_S = 0.02


class Scripted(BaseChatModel):
    """Says words, one chunk each."""

    words: list[str]
    pause_s: float

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
        text = "".join([chunk.text async for chunk in self._astream()])
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for word in self.words:
            await asyncio.sleep(self.pause_s)
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))


def asked(state: MessagesState) -> str:
    """What the last person's message says."""
    return next((str(m.content) for m in reversed(state["messages"]) if isinstance(m, HumanMessage)), "")


async def agent(state: MessagesState) -> dict[str, Any]:
    text = asked(state)
    if "slow" in text:
        model = Scripted(words=[f"word-{n}" for n in range(SLOW_WORDS)], pause_s=SLOW_PAUSE_S)
    else:
        model = Scripted(words=["I", "heard:", *text.split()], pause_s=PAUSE_S)
    return {"messages": [await model.ainvoke(state["messages"])]}


def approve(_: MessagesState) -> dict[str, Any]:
    """Waits for a person, as agent-inbox and agent-chat-ui know it."""
    answer = interrupt(
        [
            {
                "action_request": {"action": "transfer", "args": {"amount": 5000}},
                "config": {"allow_ignore": True, "allow_respond": True, "allow_edit": True, "allow_accept": True},
                "description": "Transfer 5,000 EUR?",
            }
        ]
    )
    decision = answer[0]["type"] if isinstance(answer, list) else answer
    return {"messages": [AIMessage(f"The decision was: {decision}")]}


def then(state: MessagesState) -> str:
    return "approve" if "transfer" in asked(state) else END


builder = StateGraph(MessagesState)
builder.add_node("agent", agent)
builder.add_node("approve", approve)
builder.add_edge(START, "agent")
builder.add_conditional_edges("agent", then, ["approve", END])
builder.add_edge("approve", END)
graph = builder.compile()


class Speech(MessagesState):
    folder: str
    """Step ``n`` ends when there is a file ``n`` in it."""
    steps: int
    done: int


async def speak(state: Speech) -> dict[str, Any]:
    number = state.get("done", 0)
    model = Scripted(words=[f"step-{number}", "has", "words"], pause_s=PAUSE_S)
    message = await model.ainvoke(state["messages"])
    while not (Path(state["folder"]) / str(number)).exists():
        await asyncio.sleep(0.05)
    return {"messages": [message], "done": number + 1}


speaking = StateGraph(Speech)
speaking.add_node("speak", speak)
speaking.add_edge(START, "speak")
speaking.add_conditional_edges(
    "speak", lambda state: "speak" if state["done"] < state["steps"] else END, ["speak", END]
)
speaks = speaking.compile()
