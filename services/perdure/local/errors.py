"""What can go wrong on the way to a running local stack.

::

    LocalError (a ConfigurationError: the operator can do something about it; the message says what)
    ├── PortInUseError          another process listens where a server should
    ├── TooLittleSpaceError     disk or memory
    ├── FetchError              a download failed
    │   └── ChecksumError       a download is complete but is not what was pinned
    ├── JavaMissingError        no Java runtime for this platform
    ├── ServerFailedError       a process ended, or did not become ready, or could not be stopped
    ├── ProjectError            a user's langgraph.json or the code that it names cannot be served
    └── StoppingError           somebody ends this stack; nothing is started in it any more
"""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

from perdure.chassis.errors import ConfigurationError


class LocalError(ConfigurationError):
    """The local stack can not do what was asked; the message says why and what to change."""


class PortInUseError(LocalError):
    """Another process listens on a port that a server needs."""

    def __init__(self, name: str, port: int, variable: str, owner: str, stack: Path | None = None) -> None:
        """``stack``: the data folder of the Perdure stack that the process belongs to, if it belongs to one."""
        what = "Stop that process"
        if stack is not None:
            owner = f"{owner} of the Perdure stack in {stack}"
            where = f" in {stack.parent}" if stack.name == ".perdure" else f" with PERDURE_DATA_DIR={stack}"
            what = f"Run `perdure down`{where}"
        super().__init__(
            f"{name}: port {port} on 127.0.0.1 is in use by {owner}. "
            f"{what}, or choose another port with {variable} (0 takes a free one)."
        )
        self.port = port
        self.stack = stack


class TooLittleSpaceError(LocalError):
    """There is not enough disk or memory."""

    def __init__(self, what: str, needed_mb: int, available_mb: int, advice: str) -> None:
        super().__init__(f"too little {what}: {needed_mb} MB needed, {available_mb} MB available. {advice}")
        self.needed_mb = needed_mb
        self.available_mb = available_mb


class FetchError(LocalError):
    """A download failed; what is already in the cache was kept."""


class ChecksumError(FetchError):
    """A file was downloaded whole, but its bytes are not the pinned ones."""

    def __init__(self, name: str, expected: str, found: str) -> None:
        super().__init__(
            f"{name}: sha256 is {found}, pinned is {expected}. The file was deleted. "
            "Try again; if it stays wrong, a proxy or mirror on the way changes downloads."
        )
        self.expected = expected
        self.found = found


class JavaMissingError(LocalError):
    """No usable Java runtime."""


class ProjectError(LocalError):
    """A user's langgraph.json, or the code that it names, cannot be served; nothing was started for it."""


class StoppingError(LocalError):
    """Somebody ends this stack; nothing is started in it any more."""


class ServerFailedError(LocalError):
    """A process ended early, did not become ready in time, or did not stop."""

    def __init__(self, name: str, what: str, log: Path, last_lines: list[str]) -> None:
        from perdure.local.log_lines import for_people  # rich: only where a failure is shown

        readable = "\n".join(str(for_people("", line)) for line in last_lines) or "(the log is empty)"
        shown = indent(readable, "    ")
        super().__init__(f"{name} {what}. Last lines of {log}:\n{shown}")
        self.name = name
        self.log = log
