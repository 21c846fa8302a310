"""The fetchers of a LangGraph project: ``"perdure": {"fetchers": {"quote": "./fetchers.py:quote"}}`` in its ``langgraph.json``.

Contract: without the file, or without that entry, there are none and nothing is imported; every mistake is a
:class:`ConfigurationError` that names file, fetcher and what to change.

Outside: calling them (``perdure.validator.sources.fetcher``).
"""

from __future__ import annotations

from pathlib import Path

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.project import load_variable, open_project, read_project
from perdure.validator.sources.fetcher import Fetcher


def load_fetchers(path: Path) -> dict[str, Fetcher]:
    """The project's fetchers by name.

    Raises:
        ConfigurationError: something in the file or the code is wrong.

    """
    file = path.resolve()
    if not file.is_file():
        return {}
    config = read_project(file)
    ours = config.get("perdure", {})
    fetchers = ours.get("fetchers", {}) if isinstance(ours, dict) else None
    if not isinstance(fetchers, dict):
        raise ConfigurationError(f'{file}: "perdure" must be like {{"fetchers": {{"quote": "./fetchers.py:quote"}}}}')
    if not fetchers:
        return {}
    open_project(file, config)
    found: dict[str, Fetcher] = {}
    for name, target in fetchers.items():
        function = load_variable(file, target, f"{file}: fetcher {name!r}")
        if not callable(function):
            raise ConfigurationError(
                f"{file}: fetcher {name!r}: {target} is a {type(function).__name__}, not a function"
            )
        found[name] = function
    return found
