"""Dead letters over HTTP: what operators see, and what they ask for."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from perdure.schemas.bodies import Body
from perdure.schemas.deadletter import LetterState, Reason

REDRIVE_LIMIT = 1000
"""Letters that one request redrives at most."""


class Decision(Body):
    """Who decides about a dead letter."""

    by: str | None = Field(
        default=None,
        max_length=256,
        description="Who asks for it; kept with the letter. A known caller is recorded in its place, and this as `on_behalf_of`.",
    )


class RedriveMany(Decision):
    """Redrive open dead letters, the oldest first. What is left out does not matter."""

    topic: str | None = None
    reason: Reason | None = None
    type: str | None = Field(default=None, description="The message's type.")
    thread_id: str | None = None
    limit: int = Field(default=100, ge=1, le=REDRIVE_LIMIT)


class DeadLetter(BaseModel):
    """A record that could not be handled."""

    id: str = Field(description="Where it was: `<topic>:<partition>:<offset>`.")
    state: LetterState
    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    consumer: str = Field(description="Which process gave it up.")
    died_at: datetime
    type: str | None
    thread_id: str | None
    size: int = Field(description="Of the value, in bytes.")
    redrives: int = Field(description="How often this letter was redriven.")
    redriven_at: datetime | None
    redriven_by: str | None
    redriven_from: str | None = Field(description="The letter that it was before, where it failed again.")
    earlier_redrives: int = Field(description="How often the record had been redriven when it failed here.")
    dropped_at: datetime | None
    dropped_by: str | None
    on_behalf_of: str | None = Field(description="In whose name a known caller decided last, as the caller said.")
    expires_at: datetime = Field(description="When it is removed.")


class DeadLetterPage(BaseModel):
    """Dead letters, newest first."""

    items: list[DeadLetter]
    cursor: str | None = Field(description="For the next page; null on the last one.")


class LetterHeader(BaseModel):
    """One of the original headers."""

    name: str
    value: str
    encoding: Literal["text", "base64"]


class DeadLetterContent(DeadLetter):
    """A dead letter and the record itself."""

    key: str
    key_encoding: Literal["text", "base64"]
    headers: list[LetterHeader] = Field(description="The original ones, in their order.")
    value: Any = Field(description="The value if it is JSON, else its bytes in base64.")
    value_encoding: Literal["json", "base64"]


class RedriveRefusal(BaseModel):
    """A letter that could not be redriven."""

    id: str
    detail: str


class RedrivenMany(BaseModel):
    """What became of the letters that a redrive found."""

    redriven: list[str] = Field(description="Ids, in the order in which they were sent.")
    refused: list[RedriveRefusal]
    more: bool = Field(description="Whether open letters that fit were left for another request.")
