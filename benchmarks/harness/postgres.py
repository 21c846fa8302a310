"""A PostgreSQL cluster of a session's own: empty, on a free port, durable as by default.

Contract: fsync, synchronous_commit and full_page_writes are on; only ``max_connections`` is not the default. Where the driver is
root, the server runs as the user ``postgres``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from harness.processes import HOST, Child, free_port

_DEBIAN = Path("/usr/lib/postgresql")
_CONNECTIONS = 200
_SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers")


def _programs() -> Path:
    if found := shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    return max(_DEBIAN.glob("*/bin"), key=lambda one: float(one.parent.name))


class Postgres:
    """The cluster.

    Args:
        folder: Where its data goes; made here.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = _programs()
        self.port = free_port()
        self._child: Child | None = None
        self._as: list[str] = []

    async def open(self) -> None:
        """Make the cluster and start it."""
        self._folder.mkdir(parents=True)
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        data = self._folder / "data"
        options = ["-A", "trust", "-U", "postgres", "--locale=C.UTF-8", "-E", "UTF8"]
        subprocess.run([*self._as, self._programs / "initdb", "-D", data, *options], check=True, capture_output=True)  # noqa: ASYNC221
        settings = [
            f"listen_addresses={HOST}",
            f"unix_socket_directories={self._folder}",
            f"max_connections={_CONNECTIONS}",
        ]
        command = [*self._as, str(self._programs / "postgres"), "-D", str(data), "-p", str(self.port)]
        command += [word for one in settings for word in ("-c", one)]
        self._child = Child(command, self._folder.parent / "postgres.log")
        await self._child.until(self._answers)

    def close(self) -> None:
        """Stop it at once; its data goes with the folder."""
        if self._child:
            self._child.stop(signal.SIGINT)

    @property
    def pids(self) -> list[int]:
        """Of its first process."""
        return [self._child.pid] if self._child else []

    def url(self, database: str = "postgres") -> str:
        """For client libraries."""
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run a statement; returns psql's unaligned output."""
        command = [self._programs / "psql", "-AtqX", "-d", self.url(database), "-c", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def create(self, database: str) -> str:
        """Make an empty database; returns its URL."""
        self.execute(f"create database {database}")
        return self.url(database)

    def stored(self, database: str) -> dict[str, int]:
        """Bytes of the database with its indexes, and of the write-ahead log."""
        size = self.execute(f"select pg_database_size('{database}')")
        journal = self.execute("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
        return {"data": int(size), "journal": int(journal)}

    def about(self) -> dict[str, str]:
        """Version and durability."""
        return {f"postgres {name}": self.execute(f"show {name}") for name in _SETTINGS}

    async def _answers(self) -> bool:
        command = [self._programs / "pg_isready", "-q", "-h", HOST, "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0  # noqa: ASYNC221
