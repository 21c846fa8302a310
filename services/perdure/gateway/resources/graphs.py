"""Graphs: what workers have registered and how many serve it now, also in the Agent Server's shape of assistants."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from perdure.gateway.auth.reach import reach_of
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.requests import read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, Parameter, Route
from perdure.gateway.stores.graphs import ServedGraphs
from perdure.gateway.stores.workers import Workers
from perdure.registry.runs import assistant_id_of
from perdure.schemas import graph_http
from perdure.schemas.documents import GraphDocument
from perdure.schemas.graph_http import AssistantSearch
from perdure.schemas.scopes import Scope

Document = dict[str, Any]

DEEPEST: Final = 1_000
OF_SYSTEM: Final = {"auth": {"created_by": "system"}}
"""What the conditions of ``auth`` handlers are about where they govern graphs: nobody owns one."""
XRAY = Parameter(
    "xray",
    {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1, "maximum": DEEPEST}], "default": False},
    "Whether subgraphs are opened, or how many levels of them.",
)


class GraphsResource:
    """The graphs that are served."""

    def __init__(self, graphs: ServedGraphs, workers: Workers) -> None:
        self._graphs = graphs
        self._workers = workers

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "GET", "/graphs", self.list_graphs, "listGraphs", "The graphs, and how many workers serve each", "Graphs",
                {200: (graph_http.Graph,)}, scope=Scope.GRAPHS_READ,
            ),
            Route(
                "POST", "/assistants/search", self.search_assistants, "searchAssistants", "The graphs, as assistants",
                "Graphs", {200: (graph_http.Assistant,)}, graph_http.AssistantSearch, problems=BODY,
                scope=Scope.GRAPHS_READ,
            ),
            Route(
                "GET", "/assistants/{assistant_id}", self.get_assistant, "getAssistant", "A graph, as an assistant",
                "Graphs", {200: graph_http.Assistant}, problems=("unknown-graph", "not-ready"), scope=Scope.GRAPHS_READ,
            ),
            Route(
                "GET", "/assistants/{assistant_id}/graph", self.get_drawing, "getAssistantGraph",
                "A graph's nodes and edges", "Graphs", {200: graph_http.GraphDrawing}, parameters=(XRAY,),
                problems=("unknown-graph", "not-ready"), scope=Scope.GRAPHS_READ,
            ),
            Route(
                "GET", "/assistants/{assistant_id}/schemas", self.get_schemas, "getAssistantSchemas",
                "A graph's schemas", "Graphs", {200: graph_http.GraphSchemas}, problems=("unknown-graph", "not-ready"),
                scope=Scope.GRAPHS_READ,
            ),
        )
        # fmt: on

    async def list_graphs(self, request: web.Request) -> web.Response:
        """``GET /graphs``."""
        graphs, workers = await asyncio.gather(self._graphs.all(), self._workers.counts())
        if not reach_of(request).covers(OF_SYSTEM):
            graphs = []
        return json_response([graph_view(graph, workers[graph["_id"]]) for graph in graphs])

    async def search_assistants(self, request: web.Request) -> web.Response:
        """``POST /assistants/search``."""
        wanted, _ = await read_body(request, AssistantSearch)
        graphs = await self._graphs.all() if reach_of(request).covers(OF_SYSTEM) else []
        views = [assistant_view(graph) for graph in graphs]
        matching = [view for view in views if _matches(view, wanted)]
        return json_response(matching[wanted.offset : wanted.offset + wanted.limit])

    async def get_assistant(self, request: web.Request) -> web.Response:
        """``GET /assistants/{assistant_id}``."""
        graph = await self._resolve(request)
        return json_response(assistant_view(graph))

    async def get_drawing(self, request: web.Request) -> web.Response:
        """``GET /assistants/{assistant_id}/graph``."""
        depth = _depth(request.query.get("xray", "false"))
        graph = await self._resolve(request)
        drawings = graph.get("drawings") or [{"nodes": [], "edges": []}]
        return json_response(drawings[min(depth, len(drawings) - 1)])

    async def get_schemas(self, request: web.Request) -> web.Response:
        """``GET /assistants/{assistant_id}/schemas``."""
        graph = await self._resolve(request)
        return json_response(
            {
                "graph_id": graph["_id"],
                "input_schema": graph.get("input_schema"),
                "output_schema": graph.get("output_schema"),
                "state_schema": None,
                "config_schema": None,
                "context_schema": None,
            }
        )

    async def _resolve(self, request: web.Request) -> GraphDocument:
        """The graph that the path names, if the caller may see graphs."""
        named = request.match_info["assistant_id"]
        if not reach_of(request).covers(OF_SYSTEM):
            raise RequestProblem("unknown-graph", f"There is no graph or assistant {named!r}.")
        return await self._graphs.resolve(named)


def _depth(xray: str) -> int:
    """How many levels of subgraphs ``xray`` opens."""
    named = {"false": 0, "true": DEEPEST}
    if xray.lower() in named:
        return named[xray.lower()]
    if not xray.isdecimal() or not 1 <= int(xray) <= DEEPEST:
        raise invalid("query:xray", f"must be true, false or a number from 1 to {DEEPEST}")
    return int(xray)


def _matches(view: Document, wanted: AssistantSearch) -> bool:
    if wanted.graph_id is not None and view["graph_id"] != wanted.graph_id:
        return False
    if wanted.name is not None and wanted.name.lower() not in view["name"].lower():
        return False
    return all(view["metadata"].get(name) == value for name, value in (wanted.metadata or {}).items())


def graph_view(graph: Mapping[str, Any], workers: int) -> Document:
    """A registered graph as clients see it; ``workers``: how many serve it now."""
    return {
        "graph_id": graph["_id"],
        "assistant_id": assistant_id_of(graph["_id"]),
        "version": graph.get("version"),
        "nodes": list(graph.get("nodes") or ()),
        "input_schema": graph.get("input_schema"),
        "output_schema": graph.get("output_schema"),
        "updated_at": graph.get("updated_at"),
        "workers": workers,
    }


def assistant_view(graph: Mapping[str, Any]) -> Document:
    """A registered graph in the Agent Server's shape of an assistant."""
    return {
        "assistant_id": assistant_id_of(graph["_id"]),
        "graph_id": graph["_id"],
        "name": graph["_id"],
        "description": None,
        "config": graph.get("config") or {},
        "context": {},
        "metadata": {"created_by": "system"},
        "version": 1,
        "created_at": graph.get("updated_at"),
        "updated_at": graph.get("updated_at"),
    }
