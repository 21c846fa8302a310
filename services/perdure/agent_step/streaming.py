"""Runs a graph and tells what its nodes say on the way (ADR 29).

Contract: :func:`updates` yields what LangGraph says about the root graph's supersteps, as ``astream`` does in mode ``updates``, and
gives everything else to the run's chunks, in order. What a node said has been given to them before LangGraph stores the superstep.

Outside: gathering and sending (``chunks``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.pregel import Pregel

from perdure.agent_step.chunks import Asked, RunChunks

HIDDEN: Final = "langsmith:hidden"
"""A tag of runnables of which the Agent Server tells no event."""


async def updates(
    graph: Pregel[Any, Any, Any, Any],
    graph_input: Any,
    config: RunnableConfig,
    told: Asked,
    chunks: RunChunks,
    options: Mapping[str, Any],
) -> AsyncIterator[Any]:
    """Run the graph.

    Args:
        graph: The graph.
        graph_input: Its input, or a command, or nothing.
        config: LangGraph's configuration; for events with a ``run_id``, which LangChain then gives the graph's own.
        told: What to tell.
        chunks: Gets what the nodes say.
        options: More arguments of ``astream``.

    """
    modes = ["updates"]
    if told.modes & {"messages", "messages-tuple"}:
        modes.append("messages")
    if "custom" in told.modes:
        modes.append("custom")
    more = {**options, "stream_mode": modes, "subgraphs": told.subgraphs}
    parts = (
        _parts_and_events(graph, graph_input, config, chunks, more)
        if "events" in told.modes
        else graph.astream(graph_input, config, **more)
    )
    async with aclosing(parts) as stream:  # type: ignore[type-var]
        async for part in stream:
            ns, mode, said = part if told.subgraphs else ((), *part)
            if mode == "messages":
                chunks.message("|".join(ns), *said)
            elif mode == "custom":
                chunks.add(mode, "|".join(ns), said)
            elif not ns:
                yield said


async def _parts_and_events(
    graph: Pregel[Any, Any, Any, Any],
    graph_input: Any,
    config: RunnableConfig,
    chunks: RunChunks,
    options: Mapping[str, Any],
) -> AsyncIterator[Any]:
    """Yield what ``astream`` yields; the events beside it are given to the chunks."""
    root = str(config["run_id"])
    stream = graph.astream_events(graph_input, config, version="v2", **options)
    async with aclosing(stream) as events:  # type: ignore[type-var]
        async for event in events:
            if HIDDEN in (event.get("tags") or ()):
                continue
            if event["event"] == "on_chain_stream" and event["run_id"] == root:
                yield event["data"]["chunk"]
            else:
                chunks.add("events", "", event)
