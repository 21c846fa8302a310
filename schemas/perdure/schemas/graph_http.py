"""The HTTP contract of graphs, which are also shown as assistants: request and response bodies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from perdure.schemas.bodies import Body, Metadata


class AssistantSearch(Body):
    """Which assistants. Each graph that a worker serves is one assistant."""

    graph_id: str | None = None
    name: str | None = None
    metadata: Metadata | None = None
    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0)


class Graph(BaseModel):
    """A graph that a worker has registered."""

    graph_id: str
    assistant_id: str
    version: str | None
    nodes: list[str]
    input_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None
    updated_at: datetime | None
    workers: int = Field(description="Living workers that serve it now. With 0, runs are accepted and wait.")


class GraphDrawing(BaseModel):
    """What LangGraph's ``Graph.to_json`` says of a graph."""

    nodes: list[dict[str, Any]]
    """``id``, ``type`` and ``data`` of each."""
    edges: list[dict[str, Any]]
    """``source``, ``target``, and ``conditional`` where a function decides."""


class GraphSchemas(BaseModel):
    """The JSON schemas of a graph; null where they are not known."""

    graph_id: str
    input_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None
    state_schema: dict[str, Any] | None
    config_schema: dict[str, Any] | None
    context_schema: dict[str, Any] | None


class Assistant(BaseModel):
    """A graph in the Agent Server's shape."""

    assistant_id: str
    graph_id: str
    name: str
    description: str | None
    config: dict[str, Any]
    context: dict[str, Any]
    metadata: Metadata
    version: int
    created_at: datetime | None
    updated_at: datetime | None
