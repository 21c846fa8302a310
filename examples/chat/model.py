"""The clerk's voice: a chat model that needs no key. It says what the last message asks it to say, word by word.

Put any other LangChain chat model in its place: the graph does not know the difference.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

PAUSE_S = 0.03
"""Between two words."""


class Clerk(BaseChatModel):
    """Repeats the last message, which the graph wrote for it."""

    @property
    def _llm_type(self) -> str:
        return "clerk"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(str(messages[-1].content)))])

    async def _astream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for word in re.findall(r"\S+\s*", str(messages[-1].content)):
            await asyncio.sleep(PAUSE_S)
            yield ChatGenerationChunk(message=AIMessageChunk(word))
