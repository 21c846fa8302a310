"""Perdure's own services as child processes: ``python -m perdure.<name>``, any number of instances of each.

Contract: ``start`` returns when the service says that it is ready (``GET /ready``); a service keeps its port when it is
started again. Every process is recorded in the same ``stack.json`` as the servers, so ``perdure down`` and
``perdure status`` in another process see it. Used by ``perdure up``, ``perdure dev``, the demo, tests and benchmarks.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import psutil

from perdure.local.display import Display, SilentDisplay
from perdure.local.errors import LocalError
from perdure.local.links import link_environment, of_service
from perdure.local.probes import probe_http
from perdure.local.process import Identity, Launch, send, stop, wait_ready
from perdure.local.resources import HOST, STACK_VARIABLE, free_port, require_port
from perdure.local.stack import Stack
from perdure.local.state import Record, StateFile

SERVICES: Final = ("gateway", "agent_step", "validator", "notifier", "indexer", "scheduler")
GATEWAY_PORT: Final = 8123
TARGETS: Final = "PERDURE_NOTIFIER_ALLOWED_TARGETS"
_LOOPBACK: Final = '["127.0.0.0/8", "::1/128"]'
LOCAL_TARGETS: Final = {TARGETS: _LOOPBACK, "PERDURE_VALIDATOR_ALLOWED_TARGETS": _LOOPBACK}
"""Webhooks and premises of a local stack may reach servers on this machine, unless its environment says otherwise."""
_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 30.0
_OLD_PORT_PATIENCE_S: Final = 5.0


def available_services() -> list[str]:
    """The services that this installation has, in the order of :data:`SERVICES`."""
    return [name for name in SERVICES if importlib.util.find_spec(f"perdure.{name}.__main__")]


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """CPU seconds of one process since its start."""

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        """User and system together."""
        return self.user_s + self.system_s


class ServiceProcess:
    """One instance of one service.

    :param name: one of :data:`SERVICES`.
    :param env: added to this process's environment: the addresses of the servers (``Stack.environment()``), settings.
        ``PERDURE_GATEWAY_PORT`` (gateway) or ``PERDURE_HEALTH_PORT`` (others) fixes the port; 0 or none takes a free
        one, except that the gateway without any has 8123.
    :param folder: where its log goes (``logs/<label>.log``) and where it is recorded.
    :param instance: 1, 2, ...: tells instances of one service apart.
    :param cwd: working folder; this process's by default.
    """

    def __init__(
        self, name: str, env: Mapping[str, str], folder: Path, *, instance: int = 1, cwd: Path | None = None
    ) -> None:
        if name not in SERVICES:
            raise LocalError(f"there is no service {name!r}; known: {', '.join(SERVICES)}")
        self.name = name
        self.label = name if instance == 1 else f"{name}-{instance}"
        self._state = StateFile(folder)
        self.log: Final = self._state.folder / "logs" / f"{self.label}.log"
        self.cwd: Final = cwd or Path.cwd()
        self._port_variable = "PERDURE_GATEWAY_PORT" if name == "gateway" else "PERDURE_HEALTH_PORT"
        merged = {**os.environ, **env}
        self._wanted_port = int(merged.get(self._port_variable) or (GATEWAY_PORT if name == "gateway" else 0))
        self._port: int | None = None
        self.env: dict[str, str] = of_service(name, env)
        self._identity: Identity | None = None
        self._launching = threading.Lock()
        self.wanted = False
        """Whether it should run: started, and not stopped or killed through this object."""
        self.ready_since: float | None = None
        """When it became ready (``time.monotonic``); None before."""

    @classmethod
    def adopt(cls, record: Record, folder: Path) -> Self | None:
        """The service that another process started, so that it can be started again as it was; None if it has ended.

        What it was started with (environment, working folder) is read from the running process.
        """
        process = record.identity.process()
        if process is None:
            return None
        name, _, instance = record.name.partition("-")
        try:
            env, cwd = process.environ(), Path(process.cwd())
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return None
        adopted = cls(name, env, folder, instance=int(instance or 1), cwd=cwd)
        adopted._port, adopted._identity, adopted.wanted = record.ports["port"], record.identity, True
        adopted.ready_since = time.monotonic()
        return adopted

    @property
    def identity(self) -> Identity | None:
        """The process that was started last."""
        return self._identity

    def environment(self) -> dict[str, str]:
        """All variables that it is started with, this process's own included."""
        return {**os.environ, **self._launch().env}

    @property
    def port(self) -> int:
        """Where it serves ``/ok``, ``/ready`` and ``/metrics``; chosen at first use if it is free to choose."""
        if self._port is None:
            self._port = self._wanted_port or free_port()
        return self._port

    @property
    def address(self) -> str:
        """The URL of its HTTP server."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id.

        :raises LocalError: it was never started.
        """
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._identity is not None and self._identity.process() is not None

    def start(self, *, timeout_s: float = _START_TIMEOUT_S, wait: bool = True) -> None:
        """Start it, and wait until it is ready unless ``wait`` is false.

        :raises ServerFailedError: it ended or was not ready in time; the message shows the end of its log.
        :raises PortInUseError: its fixed port is taken.
        """
        with self._launching:
            if self.running:
                return
            self._spawn()
        if wait:
            self.wait_ready(timeout_s=timeout_s)

    def start_again(self) -> None:
        """Start it unless it runs, or was stopped through this object; does not wait until it is ready."""
        with self._launching:
            if self.wanted and not self.running:
                self._spawn()

    def look(self) -> None:
        """Note when it has become ready."""
        if self.ready_since is None and probe_http(f"{self.address}/ready") is None:
            self.ready_since = time.monotonic()

    def follow(self, record: Record) -> None:
        """Take over what another process has started in its place."""
        self._identity, self._port = record.identity, record.ports["port"]
        self.ready_since = None

    def take_over(self, record: Record) -> None:
        """Stand for the process of a record, which was ready once and may have ended since."""
        self.follow(record)
        self.ready_since = time.monotonic()
        self.wanted = True

    def _spawn(self) -> None:
        patience = _OLD_PORT_PATIENCE_S if self._identity else 0.0
        require_port(self.label, self.port, self._port_variable, patience_s=patience)
        launch = self._launch()
        self.ready_since = None
        self._identity = self._state.launch(
            launch,
            lambda identity: Record(
                name=self.label,
                kind="service",
                pid=identity.pid,
                created=identity.created,
                address=self.address,
                ports={"port": self.port},
                log=self.log,
            ),
        )
        self.wanted = True

    def wait_ready(self, *, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Wait until ``GET /ready`` answers 200; raises like :meth:`start`."""
        wait_ready(self._started(), self._launch(), lambda: probe_http(f"{self.address}/ready") is None, timeout_s)
        self.ready_since = time.monotonic()

    def terminate(self, *, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """SIGTERM, wait for its end, SIGKILL after ``timeout_s`` seconds."""
        with self._launching:
            self.wanted = False
        if self._identity:
            stop([self._identity], timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        with self._launching:
            self.wanted = False
        if self._identity:
            stop([self._identity], 0.0, kill=True)

    def restart(self, *, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Terminate it and start it again on the same port."""
        self.terminate()
        self.start(timeout_s=timeout_s)

    def pause(self) -> None:
        """Freeze it (SIGSTOP)."""
        send(self._started(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        send(self._started(), signal.SIGCONT)

    def cpu_times(self) -> CpuTimes:
        """CPU seconds used since its start.

        :raises LocalError: it does not run.
        """
        process = self._started().process()
        if process is None:
            raise LocalError(f"{self.label} does not run; see {self.log}")
        times = process.cpu_times()
        return CpuTimes(times.user, times.system)

    def _started(self) -> Identity:
        if self._identity is None:
            raise LocalError(f"{self.label} was not started")
        return self._identity

    def _launch(self) -> Launch:
        env = {
            "PYTHONUNBUFFERED": "1",
            **self.env,
            self._port_variable: str(self.port),
            STACK_VARIABLE: str(self._state.folder),
        }
        return Launch(self.label, [sys.executable, "-m", f"perdure.{self.name}"], self.cwd, self.log, env)


class Services:
    """Several services, started and stopped together.

    :param names: with repetition for several instances: ``("gateway", "agent_step", "agent_step")``.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        folder: Path,
        names: Sequence[str] | None = None,
        *,
        cwd: Path | None = None,
        display: Display | None = None,
    ) -> None:
        self._display: Display = display or SilentDisplay()
        self.processes: dict[str, ServiceProcess] = {}
        counts: dict[str, int] = {}
        for name in available_services() if names is None else names:
            counts[name] = counts.get(name, 0) + 1
            process = ServiceProcess(name, env, folder, instance=counts[name], cwd=cwd)
            self.processes[process.label] = process

    @classmethod
    def of(
        cls,
        stack: Stack,
        names: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Self:
        """Services that use a stack's servers, record themselves in its state file, and are stopped by its ``stop``.

        An ephemeral stack's gateway takes a free port unless ``env`` names one.
        """
        ports = {"PERDURE_GATEWAY_PORT": "0"} if stack.ephemeral else {}
        targets = {name: value for name, value in LOCAL_TARGETS.items() if name not in os.environ}
        merged = {**stack.environment(), **ports, **targets, **(env or {})}
        if merged.get("PERDURE_GATEWAY_PORT") == "0":
            merged["PERDURE_GATEWAY_PORT"] = str(free_port())
        port = {**os.environ, **merged}.get("PERDURE_GATEWAY_PORT") or GATEWAY_PORT
        merged |= link_environment(stack.folder, merged, int(port))
        return cls(merged, stack.folder, names, cwd=cwd, display=stack.display)

    def __getitem__(self, label: str) -> ServiceProcess:
        return self.processes[label]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def gateway_url(self) -> str:
        """Where clients connect."""
        return self.processes["gateway"].address

    def start(self, labels: Iterable[str] | None = None) -> None:
        """Start all (or some) in parallel, and wait until each is ready.

        :raises LocalError: the first that failed; the others of this call are stopped again.
        """
        chosen = [self.processes[label] for label in (self.processes if labels is None else labels)]
        if not chosen:
            return
        with ThreadPoolExecutor(len(chosen)) as pool:
            started = [pool.submit(self._start_one, process) for process in chosen]
        failures = [failure for future in started if (failure := future.exception())]
        if failures:
            self.stop([process.label for process in chosen])
            raise failures[0]

    def stop(self, labels: Iterable[str] | None = None, *, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """SIGTERM to all (or some) at once, wait, SIGKILL to those that remain."""
        chosen = [self.processes[label] for label in (self.processes if labels is None else labels)]
        with ThreadPoolExecutor(max(1, len(chosen))) as pool:
            list(pool.map(lambda process: process.terminate(timeout_s=timeout_s), chosen))

    def cpu_times(self) -> dict[str, CpuTimes]:
        """CPU seconds of each that runs, by label."""
        return {label: process.cpu_times() for label, process in self.processes.items() if process.running}

    def _start_one(self, process: ServiceProcess) -> None:
        with self._display.step(f"{process.label}: starting"):
            process.start()
