"""What nodes say while they run, on ``perdure.stream`` for an hour (ADR 29).

Contract: records of one run come in order, from one producer. A lost record is a gap in the numbers, never a lost state: what is
durable is told from the history.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from perdure.schemas.message import Message

EPHEMERAL_MODES = frozenset({"messages", "messages-tuple", "custom", "events"})
"""Stream modes of the Agent Server that need what only the worker sees."""


class Chunk(BaseModel):
    """One thing that a node said."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mode: str
    """LangGraph's stream mode: ``messages`` (data is ``[message, metadata]``), ``custom``; or ``events`` (data is one event of
    ``astream_events`` version 2)."""
    ns: str = ""
    """The checkpoint namespace of the subgraph that said it, parts joined by ``|``; empty for the root graph."""
    data: Any = None
    """As JSON."""


class StreamChunks(Message):
    """Chunks that a run's nodes made one after another, or none: then ``seq`` has just become durable."""

    TYPE: ClassVar[str] = "perdure.stream.chunks"
    VERSION: ClassVar[int] = 1

    run_id: str
    epoch: int = Field(ge=0)
    """How often the run had been claimed when it said this."""
    seq: int = Field(ge=0)
    """The newest sequence number of the thread that was durable then."""
    first: int = Field(default=1, ge=1)
    """The number of the first chunk, counted from 1 since ``seq`` became durable."""
    before: int = Field(default=0, ge=0)
    """In a record without chunks: how many chunks there were since the sequence number before it became durable."""
    checkpoint: bool = False
    """In a record without chunks: whether what became durable is a checkpoint, so that nothing begins or ends with it."""
    chunks: tuple[Chunk, ...] = ()
    modes: tuple[str, ...] = ()
    """Which of ``EPHEMERAL_MODES`` the worker tells since the sequence number before. Of another mode there may have been more than
    the numbers say."""
    subgraphs: bool = False
    """Whether it tells what subgraphs say, too."""


STREAM: dict[tuple[str, int], type[Message]] = {(StreamChunks.TYPE, StreamChunks.VERSION): StreamChunks}
