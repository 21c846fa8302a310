"""Messages so far, from their chunks: mode ``messages`` of the Agent Server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

from langchain_core.messages import AIMessageChunk, BaseMessageChunk, message_chunk_to_message

KEPT: Final = 64
"""Messages under way at once, at most."""


class Partials:
    """What one reader was told of the messages under way."""

    def __init__(self) -> None:
        self._messages: dict[str, BaseMessageChunk | None] = {}

    def add(self, data: Any) -> Iterator[tuple[str, Any]]:
        """Add one chunk, ``[message, metadata]``. Yields names and data of the events that tell it, without the message so far."""
        message, metadata = data
        name = str(message.get("id"))
        if name not in self._messages:
            if len(self._messages) >= KEPT:
                del self._messages[next(iter(self._messages))]
            self._messages[name] = None
            yield "messages/metadata", {name: {"metadata": metadata}}
        if message.get("type") != "AIMessageChunk":
            yield "messages/complete", [message]
            return
        chunk = AIMessageChunk.model_validate(message)
        before = self._messages[name]
        so_far: Any = chunk if before is None else before + chunk
        self._messages[name] = so_far

    def so_far(self, name: str) -> tuple[str, Any]:
        """Name and data of the event that tells a message so far; ``name``: its id."""
        return "messages/partial", [
            message_chunk_to_message(cast("BaseMessageChunk", self._messages[name])).model_dump()
        ]
