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
import json as standard_json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from dotenv import dotenv_values

from perdure.chassis import json
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.explain import import_mistake, json_mistake, near

NOT_SERVED = {
    "store": "graphs would run without their long-term store; keep such data in a database of your own",
    "http": "custom routes and middleware would not be there; serve them beside Perdure",
    "checkpointer": "checkpoints are Perdure's own; retention is set in docs/retention.md",
    "ui": "UI components would not be served; serve them with your web application",
    "webhooks": "webhooks would not be restricted by it; see PERDURE_NOTIFIER_ALLOWED_TARGETS",
    "encryption": "nothing would be encrypted by it; encrypt the database's storage",
}
"""Blocks of a ``langgraph.json`` that change what a server does and that are not served, each with what that means."""

AUTH_KEYS: Final = frozenset({"path", "disable_studio_auth", "openapi"})
"""``disable_studio_auth`` changes nothing: LangSmith's keys let nobody in here, so Studio sends what the handlers accept."""
_FORM: Final = "<file.py or module>:<variable>"
_REQUIREMENT = re.compile(r"^[A-Za-z0-9._-]+")


def read_project(file: Path) -> dict[str, Any]:
    """What an existing ``langgraph.json`` says.

    Raises:
        ConfigurationError: it is no JSON object, or has a block that is not supported.

    """
    try:
        config = json.loads(file.read_bytes())
    except standard_json.JSONDecodeError as error:
        text = file.read_bytes().decode(errors="replace")
        raise ConfigurationError(json_mistake(file, text, error)) from error
    except ValueError as error:
        raise ConfigurationError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigurationError(f"{file} must hold a JSON object")
    for name, meaning in NOT_SERVED.items():
        if config.get(name):
            raise ConfigurationError(
                f'{file}: "{name}" is not supported: {meaning}. Remove the block to start without it'
            )
    auth_block(file, config)
    return config


@dataclass(frozen=True, slots=True)
class AuthBlock:
    """The block ``auth`` of a ``langgraph.json``.

    Attributes:
        path: Names the ``langgraph_sdk.Auth``.
        openapi: ``securitySchemes`` and ``security`` for the API description.

    """

    path: str
    openapi: Mapping[str, Any]


def auth_block(file: Path, config: Mapping[str, Any]) -> AuthBlock | None:
    """The block ``auth`` of what :func:`read_project` returned; ``None`` without one.

    Raises:
        ConfigurationError: a key of the block is not understood, or would be without effect.

    """
    block = config.get("auth")
    if not block:
        return None
    where = f'{file}: "auth"'
    if not isinstance(block, dict):
        raise ConfigurationError(f'{where} must be an object: {{"path": "./auth.py:auth"}}')
    if unknown := sorted(set(block) - AUTH_KEYS):
        raise ConfigurationError(
            f"{where}: {', '.join(unknown)} would be without effect. Served are: {', '.join(sorted(AUTH_KEYS))}"
        )
    path = block.get("path")
    if not isinstance(path, str):
        raise ConfigurationError(f'{where}: "path" must name the Auth object: "./auth.py:auth"')
    source, _ = _split(path, where)
    if _is_path(source) and not source.endswith(".py"):
        raise ConfigurationError(f"{where}: {source} is not a Python file; handlers in other languages are not served")
    if not isinstance(block.get("disable_studio_auth", True), bool):
        raise ConfigurationError(f"{where}: disable_studio_auth must be true or false")
    openapi = block.get("openapi") or {}
    if not isinstance(openapi, dict) or (wrong := set(openapi) - {"securitySchemes", "security"}):
        named = f": {', '.join(sorted(wrong))}" if isinstance(openapi, dict) else ""
        raise ConfigurationError(f"{where}: openapi has securitySchemes and security, and nothing else{named}")
    return AuthBlock(path, openapi)


def read_auth(file: Path) -> AuthBlock | None:
    """The block ``auth`` of a project; ``None`` without one, and without a ``langgraph.json``.

    Raises:
        ConfigurationError: As :func:`read_project` and :func:`auth_block`.

    """
    return auth_block(file, read_project(file)) if file.is_file() else None


def read_targets(file: Path) -> dict[str, str]:
    """The graphs that a project's ``langgraph.json`` names: graph id to ``<file.py or module>:<variable>``. Imports nothing.

    Raises:
        ConfigurationError: there is no such file, it is not JSON, or its ``graphs`` are not what they must be.

    """
    if not file.is_file():
        raise ConfigurationError(
            f"{file} does not exist. Start in the project's folder, or name its langgraph.json with --config or "
            "PERDURE_LANGGRAPH_CONFIG"
        )
    graphs = read_project(file).get("graphs")
    if not isinstance(graphs, dict) or not graphs:
        raise ConfigurationError(
            f'{file}: "graphs" must map at least one graph id to "{_FORM}", for example '
            '"graphs": {"agent": "./agent.py:graph"}'
        )
    targets: dict[str, str] = {}
    for name, spec in graphs.items():
        target: Any = spec.get("path") if isinstance(spec, dict) else spec
        _split(target, f"{file}: graph {name!r}")
        targets[name] = target
    return targets


def check_sources(file: Path, targets: Mapping[str, str]) -> None:
    """Find files that are missing, or are not Python, without running any of them.

    Args:
        file: The ``langgraph.json``.
        targets: What :func:`read_targets` returned.

    Raises:
        ConfigurationError: a file does not exist, or has a syntax error.

    """
    for name, target in targets.items():
        where = f"{file}: graph {name!r}"
        source, _ = _split(target, where)
        if not _is_path(source):
            continue
        path = (file.parent / source).resolve()
        _require_file(path, where)
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise ConfigurationError(f"{where}: importing {source} failed: {import_mistake(error)}") from error


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
    source, variable = _split(target, where)
    module = _import(file, source, where)
    if not hasattr(module, variable):
        own = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigurationError(f"{where}: {source} has no variable {variable!r}.{near(variable, own)}")
    return getattr(module, variable)


def _split(target: Any, where: str) -> tuple[str, str]:
    """Source and variable of a target."""
    source, colon, variable = target.rpartition(":") if isinstance(target, str) else ("", "", "")
    if not (source and colon and variable):
        example = f', for example "{target}:graph"' if isinstance(target, str) and target and ":" not in target else ""
        raise ConfigurationError(f'{where}: {target!r} must have the form "{_FORM}"{example}')
    return source, variable


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
    try:
        if not _is_path(source):
            return importlib.import_module(source)
        return _import_path((file.parent / source).resolve(), where)
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{where}: importing {source} failed: {import_mistake(error)}") from error


def _is_path(source: str) -> bool:
    return source.endswith(".py") or "/" in source


def _require_file(path: Path, where: str) -> None:
    if not path.is_file():
        others = [one.name for one in path.parent.glob("*.py")]
        raise ConfigurationError(f"{where}: {path} does not exist.{near(path.name, others)}")


def _import_path(path: Path, where: str) -> ModuleType:
    """Import a file under its dotted name when it can be found so (its classes then unpickle and revive), else by path."""
    _require_file(path, where)
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
