"""The state file of a stack, ``stack.json``: which processes run, where they listen, where they log.

Contract: readable by any process of the user at any time (written to a temporary name and renamed); changed only under
a file lock. A record of a process that ended stays until the process is started again or the stack is stopped, so that
a restarted server gets its old port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Final, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from perdure.local.errors import LocalError, StoppingError
from perdure.local.process import Identity, Launch, spawn

FILE: Final = "stack.json"


class Record(BaseModel):
    """One process of the stack."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Literal["server", "service"]
    pid: int
    created: float
    """Creation time of the process, seconds since the epoch; with the pid it names the process for ever."""
    address: str
    """What clients use: bootstrap servers, a URI or a URL."""
    ports: dict[str, int]
    log: Path
    data: Path | None = None
    restarts: int = 0
    """How often it was started again after it had ended by itself."""
    last_exit: str | None = None
    """How it ended the last time that it did so by itself, and when."""

    @property
    def identity(self) -> Identity:
        """The process."""
        return Identity(self.pid, self.created)

    @property
    def running(self) -> bool:
        """Whether this very process still runs (not merely one with its pid)."""
        return self.identity.process() is not None


class Supervising(BaseModel):
    """The process that starts again what ends in a stack."""

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float
    """Creation time of the process, seconds since the epoch."""
    command: Literal["up", "dev"]
    """``dev`` ends the whole stack when it ends; ``up`` leaves it running."""

    @property
    def identity(self) -> Identity:
        """The process."""
        return Identity(self.pid, self.created)


class StackState(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    records: dict[str, Record] = {}
    supervisor: Supervising | None = None


class StateFile:
    """Reads and changes ``stack.json`` in one data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.path = self.folder / FILE

    def lock(self, name: str = "state") -> FileLock:
        """A lock shared with all processes that use this folder; raises like :meth:`require_folder`."""
        self.require_folder(name)
        return FileLock(self.folder / f"{name}.lock")

    def require_folder(self, name: str = "state") -> None:
        """Create the folder if it is missing, and check that it can be written.

        :raises LocalError: it cannot be created or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{name}.lock").touch()
        except OSError as error:
            raise LocalError(
                f"the data folder {self.folder} cannot be used: {error.strerror}. "
                "Name a folder that you may write to with PERDURE_DATA_DIR."
            ) from error

    def read(self) -> StackState:
        """What is recorded now; empty if there is no file.

        :raises LocalError: the file is there and cannot be read.
        """
        try:
            return StackState.model_validate_json(self.path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return StackState()
        except OSError as error:
            raise LocalError(f"{self.path} cannot be read: {error.strerror}.") from error

    def change(self, edit: Callable[[dict[str, Record]], None]) -> None:
        """Apply ``edit`` to the records and write them."""
        with self._changing() as records:
            edit(records)

    def put(self, record: Record) -> None:
        """Add or replace one record."""
        with self._changing() as records:
            records[record.name] = record

    def launch(self, launch: Launch, describe: Callable[[Identity], Record]) -> Identity:
        """Start a process and record it, in one step as :meth:`close` and other processes see it.

        :raises StoppingError: :meth:`close` was called.
        """
        with self._changing() as records:
            if self.folder in self._closed:
                raise StoppingError(f"{launch.name} is not started: the stack in {self.folder} is being stopped")
            identity = spawn(launch)
            record = describe(identity)
            if before := records.get(record.name):
                record = record.model_copy(update={"restarts": before.restarts, "last_exit": before.last_exit})
            records[record.name] = record
        return identity

    def close(self) -> None:
        """From now on this process starts nothing in this folder; whatever it has started until now is recorded."""
        with self.lock():
            self._closed.add(self.folder)

    def supervise(self, supervisor: Supervising | None) -> None:
        """Record who supervises; ``None``: nobody."""
        with self._changing(supervisor, replace=True):
            pass

    _closed: ClassVar[set[Path]] = set()
    """Folders in which this process starts nothing any more."""

    @contextmanager
    def _changing(self, supervisor: Supervising | None = None, *, replace: bool = False) -> Iterator[dict[str, Record]]:
        with self.lock():
            state = self.read()
            records = dict(state.records)
            try:
                yield records
            finally:
                changed = StackState(records=records, supervisor=supervisor if replace else state.supervisor)
                if changed.records or changed.supervisor:
                    partial = self.path.with_suffix(".partial")
                    partial.write_text(changed.model_dump_json(indent=1))
                    partial.replace(self.path)
                else:
                    self.path.unlink(missing_ok=True)
