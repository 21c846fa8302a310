"""Graphs of a LangGraph project: ``langgraph.json`` read, its code imported, its graphs compiled once.

Contract: the file as LangGraph's own tools read it: ``graphs`` maps an id to ``<module or file path>:<variable>`` (or an object
with ``path``); the rest of it is read by :mod:`perdure.chassis.project`. A variable is a compiled graph, a ``StateGraph``, or a
function (also async) of no argument or of a config that returns one. Every mistake is a :class:`ConfigurationError` that names
file, graph and what to change.

Outside: installing dependencies.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from perdure.agent_step.shown import initial_values
from perdure.chassis import json
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.explain import import_mistake
from perdure.chassis.project import load_variable, open_project, read_project, read_targets
from perdure.chassis.telemetry import logger

log = logger(__name__)

DEEPEST_DRAWING: Final = 8
"""Levels of subgraphs that are drawn, at most."""
_WANTED: Final = "Name a compiled graph, a StateGraph, or a function that returns one"


@dataclass(frozen=True, slots=True)
class ServedGraph:
    """A compiled graph and what others need to know about it."""

    graph_id: str
    graph: Pregel[Any, Any, Any, Any]
    version: str
    """Digest of the graph's nodes and edges."""
    nodes: tuple[str, ...]
    initial: dict[str, Any] = field(default_factory=dict)
    """Values that channels have before anything is written to them."""
    drawing: dict[str, Any] | None = None
    """Nodes and edges as LangGraph draws them, with subgraphs as nodes; ``None`` where it cannot."""

    def document(self) -> dict[str, Any]:
        """The fields of its document in ``graphs``."""
        return {
            "version": self.version,
            "nodes": list(self.nodes),
            "input_schema": _schema(self.graph.get_input_jsonschema, self.graph_id),
            "output_schema": _schema(self.graph.get_output_jsonschema, self.graph_id),
            "drawings": _drawings(self.graph, self.graph_id, self.drawing) if self.drawing is not None else [],
        }


def _silent(graph_id: str, target: str) -> None:
    """Report nothing."""


async def load_graphs(
    path: Path, saver: BaseCheckpointSaver[Any], importing: Callable[[str, str], None] = _silent
) -> dict[str, ServedGraph]:
    """Read the project and compile its graphs with our saver.

    Args:
        path: The project's ``langgraph.json``.
        saver: The graphs' checkpointer from now on.
        importing: Called with id and target before each graph's code is imported.

    Raises:
        ConfigurationError: something in the file or the code is wrong.

    """
    file = path.resolve()
    targets = read_targets(file)
    open_project(file, read_project(file))
    served = {}
    for graph_id, target in targets.items():
        importing(graph_id, target)
        served[graph_id] = await _load(file, graph_id, target, saver)
    return served


async def _load(file: Path, graph_id: str, target: str, saver: BaseCheckpointSaver[Any]) -> ServedGraph:
    where = f"{file}: graph {graph_id!r}"
    graph = await _resolve(load_variable(file, target, where), where)
    if isinstance(graph, StateGraph):
        graph = graph.compile()
    if not isinstance(graph, Pregel):
        raise ConfigurationError(f"{where}: {target} is a {type(graph).__name__}, not a LangGraph graph. {_WANTED}")
    if isinstance(graph.checkpointer, BaseCheckpointSaver):
        log.warning("graph.checkpointer_replaced", graph=graph_id, theirs=type(graph.checkpointer).__name__)
    # Here once, or LangGraph would make another copy of the saver for every run.
    graph.checkpointer = saver.with_allowlist(schema_types(graph))
    nodes = tuple(sorted(name for name in graph.nodes if not name.startswith("__")))
    drawing = _drawing(graph)
    return ServedGraph(graph_id, graph, _version(drawing or nodes), nodes, initial_values(graph.channels), drawing)


def schema_types(graph: Pregel[Any, Any, Any, Any]) -> set[tuple[str, ...]]:
    """The types that the graph's schemas name, as LangGraph collects them when it is strict; empty when it is not."""
    return graph._serde_allowlist or set()  # noqa: SLF001 - LangGraph has no other way to ask


async def _resolve(value: Any, where: str) -> Any:
    if isinstance(value, Pregel | StateGraph) or not callable(value):
        return value
    if inspect.isclass(value):
        raise ConfigurationError(f"{where}: {value.__name__} is a class, not a LangGraph graph. {_WANTED}")
    try:
        wanted = len([p for p in inspect.signature(value).parameters.values() if p.default is p.empty])
        made = value({"configurable": {}}) if wanted else value()
        return await made if inspect.isawaitable(made) else made
    except Exception as error:
        raise ConfigurationError(f"{where}: the factory failed: {import_mistake(error)}") from error


def _version(structure: Any) -> str:
    return hashlib.sha256(json.dumps(structure)).hexdigest()[:16]


def _drawing(graph: Pregel[Any, Any, Any, Any]) -> dict[str, Any] | None:
    try:
        return _drawn(graph, 0)
    except Exception as error:
        log.warning("graph.structure_unknown", error=str(error))
        return None


def _drawn(graph: Pregel[Any, Any, Any, Any], depth: int) -> dict[str, Any]:
    drawing: dict[str, Any] = json.loads(json.dumps(graph.get_graph(xray=depth).to_json()))
    return drawing


def _drawings(graph: Pregel[Any, Any, Any, Any], graph_id: str, first: dict[str, Any]) -> list[dict[str, Any]]:
    """The first drawing, then with subgraphs opened one level more each, until none is left."""
    found = [first]
    try:
        for depth in range(1, DEEPEST_DRAWING + 1):
            drawing = _drawn(graph, depth)
            if drawing == found[-1]:
                break
            found.append(drawing)
    except Exception as error:
        log.debug("graph.drawing_unknown", graph=graph_id, error=str(error))
    return found


def _schema(get: Any, graph_id: str) -> dict[str, Any]:
    try:
        schema: dict[str, Any] = json.loads(json.dumps(get()))
        return schema
    except Exception as error:
        log.debug("graph.schema_unknown", graph=graph_id, error=str(error))
        return {}
