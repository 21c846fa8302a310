"""What a resource brings: the rows of the route table, pages, and what several rows share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web
from pydantic import BaseModel

from perdure.schemas.scopes import Need

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter or a request header."""

    name: str
    schema: Mapping[str, object]
    description: str = ""
    where: str = "query"


@dataclass(frozen=True, slots=True)
class Plain:
    """A body that no model describes: a sentence about it, its JSON schema (empty: any JSON), its media type."""

    description: str
    schema: Mapping[str, object] = field(default_factory=dict)
    media_type: str = "application/json"


Answer = type[BaseModel] | tuple[type[BaseModel]] | Plain | str
"""The body of an answer: a model, a list of it, another body, or a sentence where there is none."""


@dataclass(frozen=True, slots=True)
class Route:
    """One operation.

    Attributes:
        answers: By status.
        problems: Names from ``perdure.gateway.http.problems.TITLES`` that this operation may answer, besides those of all.
        scope: What a caller needs, or why no caller is needed.

    """

    method: str
    path: str
    handle: Handle
    name: str
    summary: str
    tag: str
    answers: dict[int, Answer]
    body: type[BaseModel] | tuple[type[BaseModel]] | None = None
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[str, ...] = field(default=())
    scope: Need = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Page:
    """A page for people, which the API description leaves out; what answers GET answers HEAD, too."""

    method: str
    path: str
    handle: Handle
    scope: Need


class Resource(Protocol):
    """What brings routes."""

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""


class ForPeople(Protocol):
    """What brings pages."""

    def pages(self) -> tuple[Page, ...]:
        """The pages for people."""


def page_of(default: int, highest: int) -> Parameter:
    """How many entries of a list."""
    return Parameter("limit", {"type": "integer", "minimum": 1, "maximum": highest, "default": default})


def idempotency_key_of(description: str) -> Parameter:
    """The header ``Idempotency-Key``; the description says what the same key answers."""
    return Parameter("Idempotency-Key", {"type": "string", "minLength": 1, "maxLength": 255}, description, "header")


TEXT, FLAG = {"type": "string"}, {"type": "boolean"}
NUMBER = Plain("The number.", {"type": "integer", "minimum": 0})
CURSOR = Parameter("cursor", TEXT, "The `cursor` of the page before.")
AFTER = Parameter("after", TEXT, "The `cursor` of the page before.")
BODY = ("malformed-json", "body-too-large", "unsupported-media-type", "body-too-slow", "busy")
