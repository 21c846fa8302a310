"""``perdure dev``: the stack and all services for one user's project; agent-step starts anew when the code changes.

Contract: runs until Ctrl-C or SIGTERM (or until ``stop`` is set), then stops everything. Code that does not even import
leaves the other services running: the error is shown, and the next change is tried. agent-step is told with SIGTERM, so
it hands its runs over, and they go on in the new process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from watchfiles import Change, DefaultFilter, watch

from perdure.local.display import Display, SilentDisplay
from perdure.local.errors import LocalError
from perdure.local.logs import follow_log
from perdure.local.services import Services
from perdure.local.stack import Stack

CONFIG_VARIABLE: Final = "PERDURE_LANGGRAPH_CONFIG"
"""Tells agent-step and the gateway where the project's ``langgraph.json`` is."""
_RELOADED: Final = "agent_step"
_DEBOUNCE_MS: Final = 300


class ProjectFilter(DefaultFilter):
    """Python files, ``.env`` files and the project's ``langgraph.json``; no caches, environments or data folders."""

    def __init__(self, config: Path, data: Path) -> None:
        super().__init__(ignore_paths=[data])
        self._config = str(config)

    def __call__(self, change: Change, path: str) -> bool:
        """Whether a changed path matters."""
        name = Path(path).name
        matters = path == self._config or name.endswith(".py") or name == ".env" or name.startswith(".env.")
        return matters and super().__call__(change, path)


def run_dev(
    config: Path,
    *,
    display: Display | None = None,
    stop: threading.Event | None = None,
    stack: Stack | None = None,
    names: Sequence[str] | None = None,
    prepare: Callable[[Mapping[str, str]], object] | None = None,
    show: Callable[[str, str], object] | None = None,
) -> None:
    """Run everything for the project that ``config`` (a ``langgraph.json``) describes.

    :param stop: ends it, as Ctrl-C does.
    :param stack: the servers to use; the configured ones by default. Stopped at the end.
    :param names: of the services to start; all by default.
    :param prepare: called with the servers' addresses before any service starts: creates topics and indexes.
    :param show: called with each line that a service logs: its label, the line; by default both go to ``display``.
    :raises LocalError: the file is missing, or the servers or services (agent-step excepted) do not start.
    """
    config = config.resolve()
    if not config.is_file():
        raise LocalError(f"{config} does not exist. Name the project's langgraph.json with --config.")
    display = display or SilentDisplay()
    stop = stop or threading.Event()
    stack = stack or Stack(display=display)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        stack.start()
        if prepare:
            prepare(stack.environment())
        services = Services.of(stack, names, env={CONFIG_VARIABLE: str(config)}, cwd=config.parent)
        readers = _stream_logs(services, show or _plainly(services, display), stop)
        services.start([label for label in services.processes if label != _RELOADED])
        _reload(services, display)
        _show_addresses(services, stack.environment(), display)
        for changes in watch(
            config.parent,
            watch_filter=ProjectFilter(config, stack.folder),
            stop_event=stop,
            debounce=_DEBOUNCE_MS,
            raise_interrupt=False,
        ):
            names = sorted({str(Path(path).relative_to(config.parent)) for _, path in changes})
            display.say(f"{', '.join(names[:5])} changed: starting agent-step anew")
            _reload(services, display)
    finally:
        stop.set()
        stack.stop()
    for reader in readers:
        reader.join()


def _reload(services: Services, display: Display) -> None:
    """Stop agent-step, if it runs, and start it; what goes wrong is shown, not raised."""
    if _RELOADED not in services.processes:
        return
    try:
        services[_RELOADED].restart()
    except LocalError as error:
        display.say(f"error: {error}\nWaiting for the next change.")


def _show_addresses(services: Services, environment: Mapping[str, str], display: Display) -> None:
    if "gateway" in services.processes:
        display.say(f"API:        {services.gateway_url}")
        display.say(f"Console:    {services.gateway_url}/console")
        display.say(f"API docs:   {services.gateway_url}/docs")
    display.say(f"OpenSearch: {environment['PERDURE_OPENSEARCH_URL']}")
    display.say(f"MongoDB:    {environment['PERDURE_MONGODB_URI']}")
    display.say(f"Kafka:      {environment['PERDURE_KAFKA_BOOTSTRAP_SERVERS']}")
    display.say("Ctrl-C stops everything.")


def _plainly(services: Services, display: Display) -> Callable[[str, str], object]:
    width = max((len(label) for label in services.processes), default=0)
    return lambda label, line: display.say(f"{label:<{width}} | {line}")


def _stream_logs(
    services: Services, show: Callable[[str, str], object], stop: threading.Event
) -> list[threading.Thread]:
    def read(label: str, log: Path) -> None:
        for line in follow_log(log, lambda: not stop.is_set()):
            show(label, line)

    readers = []
    for label, process in services.processes.items():
        reader = threading.Thread(target=read, args=(label, process.log), name=f"log-{label}", daemon=True)
        reader.start()
        readers.append(reader)
    return readers
