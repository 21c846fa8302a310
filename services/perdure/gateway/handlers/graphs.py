"""Graphs: what workers have registered and how many serve it now, also in the Agent Server's shape of assistants."""

from __future__ import annotations

import asyncio

from aiohttp import web

from perdure.gateway import domain
from perdure.gateway.context import CONTEXT
from perdure.gateway.http.requests import read_body
from perdure.gateway.http.responses import json_response
from perdure.schemas.http import AssistantSearch


async def list_graphs(request: web.Request) -> web.Response:
    """``GET /graphs``."""
    context = request.app[CONTEXT]
    graphs, workers = await asyncio.gather(context.registry.all(), context.workers.counts())
    return json_response([domain.graph_view(graph, workers[graph["_id"]]) for graph in graphs])


async def search_assistants(request: web.Request) -> web.Response:
    """``POST /assistants/search``."""
    wanted, _ = await read_body(request, AssistantSearch)
    views = [domain.assistant_view(graph) for graph in await request.app[CONTEXT].registry.all()]
    found = [view for view in views if _matches(view, wanted)]
    return json_response(found[wanted.offset : wanted.offset + wanted.limit])


async def get_assistant(request: web.Request) -> web.Response:
    """``GET /assistants/{assistant_id}``."""
    graph = await request.app[CONTEXT].registry.resolve(request.match_info["assistant_id"])
    return json_response(domain.assistant_view(graph))


async def get_schemas(request: web.Request) -> web.Response:
    """``GET /assistants/{assistant_id}/schemas``."""
    graph = await request.app[CONTEXT].registry.resolve(request.match_info["assistant_id"])
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


def _matches(view: domain.Document, wanted: AssistantSearch) -> bool:
    if wanted.graph_id is not None and view["graph_id"] != wanted.graph_id:
        return False
    if wanted.name is not None and wanted.name.lower() not in view["name"].lower():
        return False
    return all(view["metadata"].get(name) == value for name, value in (wanted.metadata or {}).items())
