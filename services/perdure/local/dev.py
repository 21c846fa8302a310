"""``perdure dev``: the stack and all services for one user's project; agent-step starts anew when the code changes.

Contract: the project is imported in a child process before anything starts. Runs until ``stop`` is set (the command line sets it
at Ctrl-C, SIGTERM and SIGHUP), then stops everything. A change that cannot be imported is shown, and agent-step keeps running
with the code from before until a change can be. agent-step is stopped with SIGTERM, so it hands its runs over to the new
process. Whatever ends by itself is started again (:mod:`perdure.local.supervision`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from watchfiles import Change, DefaultFilter, watch

from perdure.local.display import Display, SilentDisplay
from perdure.local.errors import LocalError, ProjectError, ServerFailedError
from perdure.local.foreground import run_until
from perdure.local.logs import follow_log
from perdure.local.project import check_project
from perdure.local.services import Services
from perdure.local.stack import ServerProcess, Stack
from perdure.local.starting import require_gateway_port, require_idle
from perdure.local.supervision import Supervised, Supervisor
from perdure.local.supervisor import this_process

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
    :raises LocalError: the project cannot be served, or the servers or services (agent-step excepted) do not start.
    """
    display = display or SilentDisplay()
    stop = stop or threading.Event()
    stack = stack or Stack(display=display)
    project = _Project(config.resolve(), stack, display, stop, show)
    stack.state.require_folder()
    require_idle(stack)
    require_gateway_port(stack)
    try:
        project.check(stack.expected_environment())
    except ProjectError:
        if not stop.is_set():
            raise

    def undo() -> None:
        stop.set()
        stack.state.close()
        stack.stop()

    if run_until(stop, lambda: project.run(names, prepare), undo):
        undo()
    for reader in project.readers:
        reader.join()


class _Project:
    """One project and everything that runs for it."""

    def __init__(
        self,
        config: Path,
        stack: Stack,
        display: Display,
        stop: threading.Event,
        show: Callable[[str, str], object] | None,
    ) -> None:
        self._config = config
        self._stack = stack
        self._display = display
        self._stop = stop
        self._show = show
        self.readers: list[threading.Thread] = []

    def check(self, environment: Mapping[str, str]) -> None:
        """Import the project's graphs in a child process; raises ProjectError."""
        env = {**environment, CONFIG_VARIABLE: str(self._config)}
        check_project(
            self._config,
            env,
            self._display,
            limit_s=self._stack.settings.local_import_timeout_s,
            stopping=self._stop.is_set,
        )

    def run(self, names: Sequence[str] | None, prepare: Callable[[Mapping[str, str]], object] | None) -> None:
        """Start everything, and agent-step again at each change, until the event is set."""
        stack, display = self._stack, self._display
        stack.state.supervise(this_process("dev"))
        stack.start()
        if prepare:
            prepare(stack.environment())
        services = Services.of(stack, names, env={CONFIG_VARIABLE: str(self._config)}, cwd=self._config.parent)
        self.readers = _stream_logs(services, self._show or _plainly(services, display), self._stop)
        services.start([label for label in services.processes if label != _RELOADED])
        supervisor = Supervisor(stack.state, display.say, self._stop, "Waiting for the next change.")
        servers = [ServerProcess(stack, record) for record in stack.running().values() if record.kind == "server"]
        processes: list[Supervised] = [*services.processes.values(), *servers]
        for process in processes:
            supervisor.watch(process)
        self._reload(services)
        _show_addresses(services, stack.environment(), display)
        for changes in watch(
            self._config.parent,
            watch_filter=ProjectFilter(self._config, stack.folder),
            stop_event=self._stop,
            debounce=_DEBOUNCE_MS,
            raise_interrupt=False,
        ):
            changed = sorted({str(Path(path).relative_to(self._config.parent)) for _, path in changes})
            self._changed(changed, services)

    def _changed(self, names: Sequence[str], services: Services) -> None:
        """Start agent-step with the new code, if it can be imported; keep the old process otherwise."""
        shown = ", ".join(names[:5])
        try:
            self.check(self._stack.environment())
        except ProjectError as error:
            runs = _RELOADED in services.processes and services[_RELOADED].running
            keeps = "agent-step keeps running with the code from before. " if runs else ""
            if not self._stop.is_set():
                self._display.say(f"{shown} changed: {error}\n{keeps}Waiting for the next change.")
            return
        self._display.say(f"{shown} changed: starting agent-step anew")
        self._reload(services)

    def _reload(self, services: Services) -> None:
        """Stop agent-step, if it runs, and start it; how it ends is the supervisor's business."""
        if _RELOADED not in services.processes:
            return
        try:
            services[_RELOADED].restart()
        except ServerFailedError:
            return  # the supervisor says so, and starts it again where that can help
        except LocalError as error:
            self._display.say(f"error: {error}\nWaiting for the next change.")


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
