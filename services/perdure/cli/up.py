"""``perdure up``: start what is missing in a folder's stack, and leave a supervisor behind.

Contract: what can be wrong before a server starts (the data folder, the gateway's port, the project's code) is found before one
starts. A start that fails or is interrupted ends what it has started, and nothing else. See :mod:`perdure.local.detach` for how
the command returns while its child stays, and :mod:`perdure.local.supervision` for what that child does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import typer

from perdure.cli.output import Output, table
from perdure.local.detach import detach
from perdure.local.dev import CONFIG_VARIABLE
from perdure.local.display import Display
from perdure.local.errors import ProjectError
from perdure.local.foreground import INTERRUPTED, leave, run_until, stop_at_signals
from perdure.local.key_file import OwnKey
from perdure.local.project import check_project
from perdure.local.services import Services, available_services
from perdure.local.stack import Stack
from perdure.local.starting import environment_warning, require_gateway_port, require_no_dev
from perdure.local.supervision import Supervisor
from perdure.local.supervisor import ADVICE, spawn_supervisor, this_process, watched
from perdure.schemas.session_documents import TICKET_PATH

CONFIG_NAME: Final = "langgraph.json"
AGENT_STEP: Final = "agent_step"


def up(ephemeral: bool, config: Path | None, *, secure: bool, as_json: bool) -> None:
    """Run the command; returns only if everything ran already."""
    if config is not None and not config.is_file():
        raise typer.BadParameter(f"{config} does not exist", param_hint="--config")
    found = config or (Path(CONFIG_NAME) if Path(CONFIG_NAME).is_file() else None)
    start = _Start(Output(as_json), found.resolve() if found else None, secure=secure)
    if ephemeral:
        start.in_foreground()
    else:
        start.in_background()


def _nothing() -> None:
    """Undo nothing: nothing was started."""


class _Start:
    """One run of the command."""

    def __init__(self, output: Output, config: Path | None, *, secure: bool) -> None:
        self._output = output
        self._config = config
        self._secure = secure
        self._own_key: OwnKey | None = None
        self._urls: dict[str, str] = {}
        self._warning: str | None = None
        self._services: Services

    def in_background(self) -> None:
        """Start what is missing, and become the supervisor of everything."""
        detached = detach()
        stop = stop_at_signals()
        with self._output.display() as display:
            stack = Stack(display=display)
            stack.state.require_folder()
            before = {record.identity for record in stack.running().values()}
            require_no_dev(stack)
            require_gateway_port(stack)
            self._check(stack, display, stop)
            lives = stack.supervisor() is not None

            def end_started() -> None:
                stack.state.close()
                stack.stop_except(before)
                if before:
                    spawn_supervisor(stack.folder)

            def take_over() -> None:
                stack.end_supervisor()
                stack.state.supervise(this_process("up"))
                self._start(stack, display)

            work: Callable[[], None] = take_over
            undo: Callable[[], None] = end_started
            if lives and self._complete(stack):
                work, undo = partial(self._start, stack, display), _nothing
            if not run_until(stop, work, undo):
                self._interrupted()
        self._show()
        self._output.note("`perdure status` shows it, `perdure down` stops it; the data stays.")
        if lives and {record.identity for record in stack.running().values()} == before:
            detached.release()
            leave(0)
        detached.become_supervisor(stack.folder, self._services)

    def in_foreground(self) -> None:
        """Start everything with temporary data, and supervise it until a signal."""
        stop = stop_at_signals()
        with self._output.display() as display:
            stack = Stack(ephemeral=True, display=display)

            def undo() -> None:
                stop.set()
                stack.state.close()
                stack.stop()

            def work() -> None:
                self._check(stack, display, stop)
                stack.state.supervise(this_process("dev"))
                self._start(stack, display)

            if not run_until(stop, work, undo):
                self._interrupted()
        self._show()
        self._output.note("Ctrl-C stops it and removes its data.")
        supervisor = Supervisor(stack.state, self._output.note, stop, ADVICE)
        for process in watched(stack, self._services):
            supervisor.watch(process)
        stop.wait()
        self._output.note("stopping")
        undo()
        leave(INTERRUPTED)

    def _interrupted(self) -> NoReturn:
        self._output.note("interrupted: what was started is stopped again")
        leave(INTERRUPTED)

    def _check(self, stack: Stack, display: Display, stop: threading.Event) -> None:
        """Import the project's graphs, unless they are served already; raises ProjectError."""
        record = stack.state.read().records.get(AGENT_STEP)
        if self._config is None or AGENT_STEP not in available_services() or (record and record.running):
            return
        try:
            env = {**stack.expected_environment(), CONFIG_VARIABLE: str(self._config)}
            check_project(
                self._config, env, display, limit_s=stack.settings.local_import_timeout_s, stopping=stop.is_set
            )
        except ProjectError:
            if stop.is_set():
                self._interrupted()
            raise

    def _names(self) -> list[str]:
        return [name for name in available_services() if name != AGENT_STEP or self._config is not None]

    def _complete(self, stack: Stack) -> bool:
        """Whether everything that this command would start runs already."""
        running, local = stack.running(), stack.local_servers()
        return all(name in running for name in [*self._names(), *local])

    def _start(self, stack: Stack, display: Display) -> None:
        from perdure.cli.provision import (  # clients of all servers: not before the project was checked
            ensure_key,
            provision,
        )

        stack.start()
        environment = stack.environment()
        with display.step("topics and indexes"):
            provision(environment)
        if self._secure:
            self._own_key = ensure_key(environment, stack.folder)
        names = self._names()
        running = {name: record for name, record in stack.running().items() if name in names}
        for name, record in running.items():
            display.say(f"{name}: already running at {record.address}")
        project = {} if self._config is None else {CONFIG_VARIABLE: str(self._config)}
        asking = {"PERDURE_AUTH": "keys"} if self._secure else {}
        services = Services.of(
            stack, names, env={**project, **asking}, cwd=None if self._config is None else self._config.parent
        )
        self._services = services
        self._warning = environment_warning(running, services)
        services.start([label for label in services.processes if label not in running])
        if "gateway" in names:
            gateway = running["gateway"].address if "gateway" in running else services.gateway_url
            self._urls = {"gateway": gateway, "console": f"{gateway}/console", "docs": f"{gateway}/docs"}
        self._urls |= {
            "kafka": environment["PERDURE_KAFKA_BOOTSTRAP_SERVERS"],
            "mongodb": environment["PERDURE_MONGODB_URI"],
            "opensearch": environment["PERDURE_OPENSEARCH_URL"],
        }

    def _show(self) -> None:
        rows = [{"name": name, "url": url} for name, url in self._urls.items()]
        self._output.result(self._urls, table(rows, {"name": "name", "url": "url"}, ""))
        if AGENT_STEP in available_services() and self._config is None:
            self._output.note(
                f"no {CONFIG_NAME} here: no agents run. Start in your project's folder, or name it with --config."
            )
        if self._own_key is not None:
            self._output.note(
                f"Everybody must say who they are. The commands of this folder send the key in {self._own_key.file}."
            )
            if gateway := self._urls.get("gateway"):
                self._output.note(f"Sign in to the console, once: {gateway}{TICKET_PATH}{self._own_key.ticket}")
        if self._warning:
            self._output.note(self._warning)
