"""The servers and services of the demo: started on free ports with temporary data, and gone at the end."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final, Self

from rich.console import Console

from perdure.cli.errors import CommandError
from perdure.cli.provision import provision
from perdure.local.dev import CONFIG_VARIABLE
from perdure.local.display import ConsoleDisplay
from perdure.local.errors import LocalError
from perdure.local.services import Services, available_services
from perdure.local.stack import Stack

EXAMPLE: Final = Path(__file__).resolve().parents[3] / "examples" / "code_audit"
NEEDED: Final = frozenset({"gateway", "agent_step", "scheduler", "indexer"})
LEASE_TTL_S: Final = 3


class DemoFailedError(CommandError):
    """Something that the demo wanted to show is not so."""


class Stage:
    """Everything that runs; use as a context. After a failure the logs are saved, and it is said where."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stack: Stack | None = None
        self._services: Services | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        if self._stack is None:
            return
        if error is not None and not isinstance(error, KeyboardInterrupt):
            logs = Path(tempfile.mkdtemp(prefix="perdure-demo-logs-"))
            shutil.copytree(self._stack.folder / "logs", logs, dirs_exist_ok=True, ignore_dangling_symlinks=True)
            self._console.print(f"[bold red]It failed.[/] The logs are in {logs}", highlight=False, soft_wrap=True)
        with self._console.status("stopping everything"):
            if self._services is not None:
                self._services.stop()  # first: they want to say goodbye to the servers
            self._stack.stop()
        self._stack = None
        self._console.print("Stopped all servers and services, and removed their data.", style="dim")

    @property
    def services(self) -> Services:
        """The services that run."""
        if self._services is None:
            raise LocalError("the services of the demo were not started")
        return self._services

    @property
    def folder(self) -> Path:
        """A folder that goes away at the end."""
        if self._stack is None:
            raise LocalError("the servers of the demo were not started")
        return self._stack.folder

    def _start(self) -> None:
        if not (EXAMPLE / "langgraph.json").is_file():
            raise DemoFailedError(f"{EXAMPLE} is missing: the demo runs in a clone of the repository (make demo)")
        names = available_services()
        if missing := NEEDED.difference(names):
            raise DemoFailedError(f"this installation has no {', '.join(sorted(missing))}")
        with ConsoleDisplay(self._console) as display:
            self._stack = Stack(ephemeral=True, display=display)
            (self._stack.folder / "logs").mkdir(exist_ok=True)
            self._stack.start()
            with display.step("topics and indexes"):
                provision(self._stack.environment())
            settings = {
                CONFIG_VARIABLE: str(EXAMPLE / "langgraph.json"),
                "PERDURE_LEASE_TTL_S": str(LEASE_TTL_S),
            }
            self._services = Services.of(self._stack, names, env=settings, cwd=EXAMPLE)
            self._services.start()
