"""The shape of an HTTP error: an RFC 9457 problem document that says what, where and what to do."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MEDIA_TYPE = "application/problem+json"


class InvalidField(BaseModel):
    """One thing that is wrong with a request."""

    model_config = ConfigDict(frozen=True)

    pointer: str
    """Where: a JSON Pointer into the body, or ``query:<name>``, ``path:<name>``, ``header:<name>``."""
    detail: str
    position: int | None = None
    """Where in a text that has a syntax, such as ``query:q``: characters from 0."""


class Problem(BaseModel):
    """RFC 9457 problem details. ``type`` is a stable URN; ``detail`` names the thing and what to do about it."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(examples=["urn:perdure:problem:unknown-thread"])
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    instance: str | None = None
    errors: tuple[InvalidField, ...] = ()
    outcome: dict[str, Any] | None = None
    """Of a wait that is over: how it ended (``perdure.schemas.http.ApprovalOutcome``)."""
