"""A LangGraph project's ``langgraph.json`` and its code: read, put on the import path, imported.

Contract: the file as LangGraph's own tools read it: ``dependencies`` are local folders (put on the import path) or installed
distributions, ``env`` is a file or a mapping, code is named ``<module or file path>:<variable>``. Every mistake, and every block
that would be without effect here (:data:`NOT_SERVED`), is a :class:`ConfigurationError` that names the file and what to change.

Outside: what the variables are (``perdure.agent_step.graphs``, ``perdure.validator.fetchers``) and installing dependencies.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from dotenv import dotenv_values

from perdure.chassis import json
from perdure.chassis.errors import ConfigurationError

NOT_SERVED = {
    "auth": "nobody would be asked who they are; put a proxy that authenticates in front of the gateway",
    "store": "graphs would run without their long-term store; keep such data in a database of your own",
    "http": "custom routes and middleware would not be there; serve them beside Perdure",
    "checkpointer": "checkpoints are Perdure's own; retention is set in docs/retention.md",
    "ui": "UI components would not be served; serve them with your web application",
    "webhooks": "webhooks would not be restricted by it; see PERDURE_NOTIFIER_ALLOWED_TARGETS",
    "encryption": "nothing would be encrypted by it; encrypt the database's storage",
}
"""Blocks of a ``langgraph.json`` that change what a server does and that are not served, each with what that means."""

_REQUIREMENT = re.compile(r"^[A-Za-z0-9._-]+")


def read_project(file: Path) -> dict[str, Any]:
    """What an existing ``langgraph.json`` says.

    Raises:
        ConfigurationError: it is no JSON object, or has a block that is not supported.

    """
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigurationError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigurationError(f"{file} must hold a JSON object")
    for name, meaning in NOT_SERVED.items():
        if config.get(name):
            raise ConfigurationError(
                f'{file}: "{name}" is not supported: {meaning}. Remove the block to start without it'
            )
    return config


def open_project(file: Path, config: dict[str, Any]) -> None:
    """Set the project's environment variables and put its code on the import path.

    Raises:
        ConfigurationError: ``env`` or ``dependencies`` cannot be used.

    """
    _set_environment(file, config.get("env"))
    _add_dependencies(file, config.get("dependencies", []))


def load_variable(file: Path, target: Any, where: str) -> Any:
    """What ``<file.py or module>:<variable>`` names.

    Args:
        file: The ``langgraph.json``; paths are relative to its folder.
        target: The name.
        where: Who names it, for errors.

    Raises:
        ConfigurationError: it cannot be imported, or there is no such variable.

    """
    if not isinstance(target, str) or ":" not in target:
        raise ConfigurationError(f'{where}: {target!r} must have the form "<file.py or module>:<variable>"')
    source, _, variable = target.rpartition(":")
    module = _import(file, source, where)
    if not hasattr(module, variable):
        raise ConfigurationError(f"{where}: {source} has no variable {variable!r}")
    return getattr(module, variable)


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
