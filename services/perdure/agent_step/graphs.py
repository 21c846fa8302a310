"""Graphs of a LangGraph project: ``langgraph.json`` read, its code imported, its graphs compiled once.

Contract: the file as LangGraph's own tools read it: ``graphs`` maps an id to ``<module or file path>:<variable>`` (or an object
with ``path``), ``dependencies`` are local folders (put on the import path) or installed distributions, ``env`` is a file or a
mapping. A variable is a compiled graph, a ``StateGraph``, or a function (also async) of no argument or of a config that returns
one. Every mistake is a :class:`ConfigurationError` that names file, graph and what to change.

Outside: installing dependencies.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dotenv import dotenv_values
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from perdure.chassis import json
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.telemetry import logger

log = logger(__name__)

_REQUIREMENT = re.compile(r"^[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class ServedGraph:
    """A compiled graph and what others need to know about it."""

    graph_id: str
    graph: Pregel[Any, Any, Any, Any]
    version: str
    """Digest of the graph's nodes and edges."""
    nodes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The fields of its document in ``graphs``."""
        return {
            "version": self.version,
            "nodes": list(self.nodes),
            "input_schema": _schema(self.graph.get_input_jsonschema, self.graph_id),
            "output_schema": _schema(self.graph.get_output_jsonschema, self.graph_id),
        }


async def load_graphs(path: Path, saver: BaseCheckpointSaver[Any]) -> dict[str, ServedGraph]:
    """Read the project and compile its graphs with our saver.

    Raises:
        ConfigurationError: something in the file or the code is wrong.

    """
    file = path.resolve()
    if not file.is_file():
        raise ConfigurationError(
            f"{file} does not exist: set PERDURE_LANGGRAPH_CONFIG to the project's langgraph.json, or start in its folder"
        )
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigurationError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("graphs"), dict) or not config["graphs"]:
        raise ConfigurationError(f'{file}: "graphs" must map at least one graph id to "<file.py>:<variable>"')
    _set_environment(file, config.get("env"))
    _add_dependencies(file, config.get("dependencies", []))
    return {graph_id: await _load(file, graph_id, spec, saver) for graph_id, spec in config["graphs"].items()}


def _set_environment(file: Path, env: Any) -> None:
    """Set the project's variables; those of the process's own environment win."""
    if env is None:
        return
    if isinstance(env, str):
        source = (file.parent / env).resolve()
        if not source.is_file():
            raise ConfigurationError(f'{file}: "env" names {source}, which does not exist')
        env = dotenv_values(source)
    if not isinstance(env, dict):
        raise ConfigurationError(f'{file}: "env" must be the path of a .env file or an object')
    for name, value in env.items():
        if value is not None:
            os.environ.setdefault(name, str(value))


def _add_dependencies(file: Path, dependencies: Any) -> None:
    if not isinstance(dependencies, list):
        raise ConfigurationError(f'{file}: "dependencies" must be a list of folders and distribution names')
    for dependency in ["."] + [str(d) for d in dependencies]:
        if dependency.startswith((".", "/")):
            folder = (file.parent / dependency).resolve()
            if not folder.is_dir():
                raise ConfigurationError(f'{file}: "dependencies" names {folder}, which is no folder')
            for place in (folder / "src", folder):
                if place.is_dir() and str(place) not in sys.path:
                    sys.path.insert(0, str(place))
            continue
        name = _REQUIREMENT.match(dependency)
        try:
            importlib.metadata.distribution(name[0] if name else dependency)
        except importlib.metadata.PackageNotFoundError as error:
            raise ConfigurationError(
                f"{file}: the dependency {dependency!r} is not installed in {sys.prefix}; install it there and start again"
            ) from error


async def _load(file: Path, graph_id: str, spec: Any, saver: BaseCheckpointSaver[Any]) -> ServedGraph:
    where = f"{file}: graph {graph_id!r}"
    target = spec.get("path") if isinstance(spec, dict) else spec
    if not isinstance(target, str) or ":" not in target:
        raise ConfigurationError(f'{where}: {spec!r} must have the form "<file.py or module>:<variable>"')
    source, _, variable = target.rpartition(":")
    module = _import(file, source, where)
    if not hasattr(module, variable):
        raise ConfigurationError(f"{where}: {source} has no variable {variable!r}")
    graph = await _resolve(getattr(module, variable), where)
    if isinstance(graph, StateGraph):
        graph = graph.compile()
    if not isinstance(graph, Pregel):
        raise ConfigurationError(f"{where}: {target} is a {type(graph).__name__}, not a LangGraph graph")
    if isinstance(graph.checkpointer, BaseCheckpointSaver):
        log.warning("graph.checkpointer_replaced", graph=graph_id, theirs=type(graph.checkpointer).__name__)
    graph.checkpointer = saver
    nodes = tuple(sorted(name for name in graph.nodes if not name.startswith("__")))
    return ServedGraph(graph_id, graph, _version(graph, nodes), nodes)


async def _resolve(value: Any, where: str) -> Any:
    if isinstance(value, Pregel | StateGraph) or not callable(value):
        return value
    try:
        wanted = len([p for p in inspect.signature(value).parameters.values() if p.default is p.empty])
        made = value({"configurable": {}}) if wanted else value()
        return await made if inspect.isawaitable(made) else made
    except Exception as error:
        raise ConfigurationError(f"{where}: the factory failed: {type(error).__name__}: {error}") from error


def _import(file: Path, source: str, where: str) -> ModuleType:
    is_path = source.endswith(".py") or "/" in source
    try:
        return _import_path((file.parent / source).resolve(), where) if is_path else importlib.import_module(source)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{where}: importing {source} failed: {type(error).__name__}: {error}") from error


def _import_path(path: Path, where: str) -> ModuleType:
    """Import a file under its dotted name when it can be found so (its classes then unpickle and revive), else by path."""
    if not path.is_file():
        raise ConfigurationError(f"{where}: {path} does not exist")
    for place in map(Path, sys.path):
        if place.is_absolute() and path.is_relative_to(place) and place != Path("/"):
            name = ".".join(path.relative_to(place).with_suffix("").parts)
            if name.replace(".", "").isidentifier():
                found = importlib.util.find_spec(name)
                if found and found.origin and Path(found.origin).resolve() == path:
                    return importlib.import_module(name)
    name = f"perdure_project_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{where}: {path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _version(graph: Pregel[Any, Any, Any, Any], nodes: tuple[str, ...]) -> str:
    try:
        structure: Any = graph.get_graph().to_json()
    except Exception as error:
        log.warning("graph.structure_unknown", error=str(error))
        structure = nodes
    return hashlib.sha256(json.dumps(structure)).hexdigest()[:16]


def _schema(get: Any, graph_id: str) -> dict[str, Any]:
    try:
        schema: dict[str, Any] = json.loads(json.dumps(get()))
        return schema
    except Exception as error:
        log.debug("graph.schema_unknown", graph=graph_id, error=str(error))
        return {}
