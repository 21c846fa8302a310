"""The state file of a stack, ``stack.json``: which processes run, where they listen, where they log.

Contract: readable by any process of the user at any time (written to a temporary name and renamed); changed only under
a file lock. A record of a process that ended stays until the process is started again or the stack is stopped, so that
a restarted server gets its old port.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from perdure.local.process import Identity

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

    @property
    def identity(self) -> Identity:
        """The process."""
        return Identity(self.pid, self.created)

    @property
    def running(self) -> bool:
        """Whether this very process still runs (not merely one with its pid)."""
        return self.identity.process() is not None


class StackState(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    records: dict[str, Record] = {}


class StateFile:
    """Reads and changes ``stack.json`` in one data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.path = self.folder / FILE

    def lock(self, name: str = "state") -> FileLock:
        """A lock shared with all processes that use this folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f"{name}.lock")

    def read(self) -> StackState:
        """What is recorded now; empty if there is no file."""
        try:
            return StackState.model_validate_json(self.path.read_text())
        except FileNotFoundError:
            return StackState()

    def change(self, edit: Callable[[dict[str, Record]], None]) -> None:
        """Apply ``edit`` to the records and write them."""
        with self.lock():
            records = dict(self.read().records)
            edit(records)
            if not records:
                self.path.unlink(missing_ok=True)
                return
            partial = self.path.with_suffix(".partial")
            partial.write_text(StackState(records=records).model_dump_json(indent=1))
            partial.replace(self.path)

    def put(self, record: Record) -> None:
        """Add or replace one record."""

        def edit(records: dict[str, Record]) -> None:
            records[record.name] = record

        self.change(edit)
