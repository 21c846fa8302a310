"""Start, stop and watch the servers of one data folder.

Contract: ``start`` returns when every server answers; a server that already runs is kept, one whose address is set in
the environment is only checked. Nothing is stopped but the processes recorded in ``stack.json``, recognised by pid and
creation time. Stop order: Perdure's services first, then the servers.
Scope: :mod:`perdure.local.servers` knows the servers, :mod:`perdure.local.process` the processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from perdure.local.display import Display, SilentDisplay
from perdure.local.errors import LocalError, ServerFailedError
from perdure.local.java import java_home
from perdure.local.logs import Log
from perdure.local.probes import probe_external
from perdure.local.process import Identity, last_lines, send, stop, wait_ready
from perdure.local.reaper import end_reaper, remove, start_reaper
from perdure.local.resources import STACK_VARIABLE, free_port, require_disk, require_memory, require_port
from perdure.local.servers import (
    ADDRESS_FIELDS,
    PORT_FIELDS,
    SERVERS,
    Place,
    Prepared,
    external_address,
    kind_of,
    local_address,
    memory_mb,
    prepare,
    probe,
    variable,
)
from perdure.local.settings import LocalSettings
from perdure.local.state import Record, StateFile, Supervising
from perdure.local.status import ProcessStatus, describe, describe_external

ARCHIVE: Final = "PERDURE_ARCHIVE_URL"
_EXTERNAL_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.1
_PORT_ATTEMPTS: Final = 3
_OLD_PORT_PATIENCE_S: Final = 5.0
_SUPERVISOR_PATIENCE_S: Final = {"up": 10.0, "dev": 60.0}
"""How long a supervisor may take to end after SIGTERM before it is killed, by the command that it is."""


class Stack:
    """The local servers.

    :param settings: folders, ports, sizes; read from the environment when not given.
    :param ephemeral: free ports and a temporary data folder; all goes away at :meth:`stop`, or when this process ends.
    :param display: where progress is shown; nothing is shown by default.
    :param brokers: of Kafka. More than one form a cluster (replication 3, two in sync at least) of the servers ``kafka-1``,
        ``kafka-2``, ...; ``kafka`` names all of them.
    """

    _prepare = staticmethod(prepare)
    _probe = staticmethod(probe)

    def __init__(
        self,
        settings: LocalSettings | None = None,
        *,
        ephemeral: bool = False,
        display: Display | None = None,
        brokers: int = 1,
    ) -> None:
        settings = settings or LocalSettings()
        self.ephemeral = ephemeral
        self.settings = settings.with_free_ports() if ephemeral else settings
        self.display: Display = display or SilentDisplay()
        self._reaper: subprocess.Popen[bytes] | None = None
        if ephemeral:
            folder = Path(tempfile.mkdtemp(prefix="perdure-"))
            folder.chmod(0o711)  # OpenSearch may run as another user and must get through
            self._reaper = start_reaper(folder)
        else:
            folder = settings.data_dir
        self.folder: Final = folder.absolute()
        self.state: Final = StateFile(self.folder)
        self._cluster = self._choose_ports(brokers) if brokers > 1 else {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self, servers: Sequence[str] = SERVERS) -> None:
        """Start servers, in parallel, and wait until all answer.

        :raises LocalError: one of its kinds; the servers that this call started are stopped again.
        """
        with self.state.lock("start"):
            servers = self._named(servers)
            for name in servers:
                if address := external_address(name, self.settings):
                    self._check_external(name, address)
            missing = self._not_running([name for name in servers if not external_address(name, self.settings)])
            if not missing:
                return
            self._require_room(missing)
            with ThreadPoolExecutor(len(missing)) as pool:
                started = [pool.submit(self._start_one, name) for name in missing]
            failures = [failure for future in started if (failure := future.exception())]
            if failures:
                records = self.state.read().records
                stop(
                    [records[name].identity for name in missing if name in records], self.settings.local_stop_timeout_s
                )
                raise failures[0]
            self._await_cluster([name for name in missing if name in self._cluster])

    def stop(self) -> None:
        """Stop everything that runs in this data folder, Perdure's services included, and whoever supervises it first."""
        if self._reaper:
            remove(self.folder, kill=False)
            end_reaper(self._reaper)
            self._reaper = None
            return
        if not self.state.path.exists():
            return
        self.end_supervisor()
        self.stop_except(frozenset())

    def stop_except(self, keep: Set[Identity]) -> None:
        """Stop what runs in this data folder, services first, but for some processes, and forget what was stopped."""
        records = [record for record in self.state.read().records.values() if record.identity not in keep]
        for kind in ("service", "server"):
            stop([record.identity for record in records if record.kind == kind], self.settings.local_stop_timeout_s)

        def edit(known: dict[str, Record]) -> None:
            for name in [name for name, record in known.items() if record.identity not in keep]:
                del known[name]

        self.state.change(edit)
        if not keep:
            self.state.supervise(None)

    def supervisor(self) -> Supervising | None:
        """The process that supervises this stack, if it lives."""
        found = self.state.read().supervisor
        return found if found and found.identity.process() else None

    def end_supervisor(self) -> None:
        """End the supervisor, unless it is this process. ``perdure dev`` ends its whole stack before it ends."""
        found = self.supervisor()
        if found is None or found.pid == os.getpid():
            return
        # Only the process itself: its group may be a pipeline of the user's shell.
        for number, patience_s in ((signal.SIGTERM, _SUPERVISOR_PATIENCE_S[found.command]), (signal.SIGKILL, 5.0)):
            deadline = time.monotonic() + patience_s
            try:
                os.kill(found.pid, number)
            except ProcessLookupError:
                return
            while found.identity.process():
                if time.monotonic() > deadline:
                    break
                time.sleep(_POLL_S)
            else:
                return

    def local_servers(self) -> list[str]:
        """The servers that :meth:`start` starts here: those whose address is not set."""
        return self._named([name for name in SERVERS if not external_address(name, self.settings)])

    def running(self) -> dict[str, Record]:
        """The processes of this data folder that run, by name."""
        return {name: record for name, record in self.state.read().records.items() if record.running}

    def start_server(self, name: str) -> None:
        """Start one server, on the port that it had before if it was stopped with :meth:`stop_server`."""
        self.start((name,))

    def stop_server(self, name: str, *, kill: bool = False) -> None:
        """Stop one server and keep its data and its port; ``kill`` sends SIGKILL at once."""
        identities = [self._record(one).identity for one in self._named([name])]
        stop(identities, self.settings.local_stop_timeout_s, kill=kill)

    def pause(self, name: str) -> None:
        """Freeze a server (SIGSTOP): it keeps its connections and answers nothing."""
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a frozen server go on (SIGCONT)."""
        self._signal(name, signal.SIGCONT)

    def environment(self) -> dict[str, str]:
        """The addresses of the servers that were started or set, as environment variables for Perdure's services.

        What is archived is a folder beside the data of this stack's own database, unless the environment names another place.
        """
        records = self.state.read().records
        found: dict[str, str] = {}
        for name, field in ADDRESS_FIELDS.items():
            local = [records[one].address for one in self._named([name]) if one in records]
            if address := external_address(name, self.settings) or ",".join(local):
                found[variable(field)] = address
        if "mongodb" in records and ARCHIVE not in os.environ:
            found[ARCHIVE] = str(self.folder / "archive")
        return found

    def expected_environment(self) -> dict[str, str]:
        """As :meth:`environment`, before the servers run: free ports are guessed. For code that is only imported."""
        expected = {
            variable(ADDRESS_FIELDS[name]): external_address(name, self.settings)
            or local_address(name, self._ports(name)["port"] or free_port())
            for name in SERVERS
            if not (name == "kafka" and self._cluster)
        }
        return {**expected, **self.environment()}

    def status(self) -> list[ProcessStatus]:
        """Every server and service of this data folder, running or not."""
        found = [
            describe_external(name, address)
            for name in SERVERS
            if (address := external_address(name, self.settings)) is not None
        ]
        return found + [describe(record) for record in self.state.read().records.values()]

    def log(self, name: str) -> Log:
        """The log of a server or service; it goes on while the process runs or a supervisor may start it again.

        :raises LocalError: nothing of this name was started.
        """

        def goes_on() -> bool:
            record = self.state.read().records.get(name)
            return record is not None and (record.running or self.supervisor() is not None)

        return Log(self._record(name).log, goes_on)

    def _named(self, names: Sequence[str]) -> list[str]:
        """The same names, with the brokers of a cluster for ``kafka``."""
        return [one for name in names for one in (self._cluster if name == "kafka" and self._cluster else [name])]

    def _choose_ports(self, brokers: int) -> dict[str, dict[str, int]]:
        """The brokers of a cluster must know each other's ports before any of them starts."""
        records = self.state.read().records
        names = [f"kafka-{node}" for node in range(1, brokers + 1)]
        return {
            name: records[name].ports if name in records else {"port": free_port(), "controller": free_port()}
            for name in names
        }

    def _await_cluster(self, names: Sequence[str]) -> None:
        """Wait until each of these brokers knows all of them."""
        deadline = time.monotonic() + self.settings.local_start_timeout_s
        for name in names:
            while problem := self._probe(name, self._cluster[name]["port"], len(names)):
                if time.monotonic() > deadline:
                    log = self.folder / "logs" / f"{name}.log"
                    raise ServerFailedError(name, f"does not find the others: {problem}", log, last_lines(log))
                time.sleep(_POLL_S)

    def _not_running(self, names: list[str]) -> list[str]:
        records = self.state.read().records
        missing = []
        for name in names:
            record = records.get(name)
            if record and record.running:
                problem = self._probe(name, record.ports["port"])
                self.display.say(f"{name}: already running at {record.address}" + (f" ({problem})" if problem else ""))
                continue
            if record:
                self.display.say(
                    f"{name}: pid {record.pid} of {self.state.path} is stale (it ended): starting it again"
                )
            missing.append(name)
        return missing

    def _require_room(self, names: list[str]) -> None:
        require_disk(self.folder, self.settings.local_min_free_disk_mb << 20, "PERDURE_DATA_DIR")
        configured = self.settings.local_min_free_memory_mb
        needed = sum(memory_mb(name, self.settings) for name in names) if configured is None else configured
        require_memory(needed)
        if {"kafka", "opensearch"} & set(map(kind_of, names)):
            java_home(self.settings)
        records = self.state.read().records
        for name in names:
            patience = _OLD_PORT_PATIENCE_S if name in records else 0.0
            for part, port in self._ports(name).items():
                if port:
                    require_port(name, port, variable(PORT_FIELDS[kind_of(name)][part]), patience_s=patience)

    def _ports(self, name: str) -> dict[str, int]:
        """Ports by use; 0 where a free one is to be taken."""
        if name in self._cluster:
            return self._cluster[name]
        record = self.state.read().records.get(name)
        configured = {part: int(getattr(self.settings, field)) for part, field in PORT_FIELDS[name].items()}
        if record is None:
            return configured
        return {part: port or record.ports[part] for part, port in configured.items()}

    def _start_one(self, name: str) -> None:
        wanted = self._ports(name)
        log = self.folder / "logs" / f"{name}.log"
        for attempt in range(_PORT_ATTEMPTS):
            ports = {part: port or free_port() for part, port in wanted.items()}
            place = Place(self.folder / name, log, ports, self.ephemeral)
            if name in self._cluster:
                controllers = {node: its["controller"] for node, its in enumerate(self._cluster.values(), 1)}
                place = replace(place, controller_ports=controllers, node=list(self._cluster).index(name) + 1)
            prepared = self._prepare(name, place, self.settings, self.display)
            try:
                self._launch(name, prepared, ports)
            except ServerFailedError:
                # A free port can be taken by somebody else before the server listens on it.
                taken = wanted != ports and "in use" in "\n".join(last_lines(log))
                if not taken or attempt + 1 == _PORT_ATTEMPTS:
                    raise
            else:
                return

    def _launch(self, name: str, prepared: Prepared, ports: dict[str, int]) -> None:
        launch, port = prepared.launch, ports["port"]
        with self.display.step(f"{name}: starting"):
            launch = replace(launch, env={**launch.env, STACK_VARIABLE: str(self.folder)})
            identity = self.state.launch(
                launch,
                lambda identity: Record(
                    name=name,
                    kind="server",
                    pid=identity.pid,
                    created=identity.created,
                    address=local_address(name, port),
                    ports=ports,
                    log=launch.log,
                    data=prepared.data,
                ),
            )
            wait_ready(identity, launch, lambda: self._probe(name, port) is None, self.settings.local_start_timeout_s)

    def _check_external(self, name: str, address: str) -> None:
        deadline = time.monotonic() + _EXTERNAL_TIMEOUT_S
        while problem := probe_external(name, address):
            if time.monotonic() > deadline:
                where = variable(ADDRESS_FIELDS[name])
                raise LocalError(f"{name}: {problem}. The address comes from {where}; unset it to use a local server.")
            time.sleep(_POLL_S)

    def _record(self, name: str) -> Record:
        try:
            return self.state.read().records[name]
        except KeyError:
            known = ", ".join(self.state.read().records) or "nothing"
            raise LocalError(f"{name} was not started in {self.folder}; known there: {known}") from None

    def _signal(self, name: str, number: signal.Signals) -> None:
        if not send(self._record(name).identity, number):
            raise LocalError(f"{name} does not run")


class ServerProcess:
    """A server of a stack, as a supervisor sees it."""

    def __init__(self, stack: Stack, record: Record) -> None:
        self.label = record.name
        self.log = record.log
        self.wanted = True
        self.ready_since: float | None = time.monotonic()
        self._stack = stack
        self._identity = record.identity

    @property
    def identity(self) -> Identity:
        """The process that was started last."""
        return self._identity

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._identity.process() is not None

    def start_again(self) -> None:
        """Start it with the data and on the port that it had, and wait until it is ready; raises LocalError."""
        self._stack.start_server(self.label)
        self.follow(self._stack.state.read().records[self.label])

    def look(self) -> None:
        """Nothing: a server that was started again is ready."""

    def follow(self, record: Record) -> None:
        """Another process has started it again."""
        self._identity = record.identity
