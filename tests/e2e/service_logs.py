"""The services' logs of a failed test: kept in a folder that the failure names, with the lines that matter most beside it.

Contract: each system's logs are kept from where they stood when the system was started, since the processes of several tests
append to the same files.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from perdure.local.services import Services

FOLDER = "PERDURE_TEST_LOGS"
"""Environment variable: where logs of failed tests are kept; a new temporary folder for each by default."""
TROUBLES, LAST = 15, 8
"""Lines of each service that are shown: with an error or warning, and at the end."""
WIDTH = 400

_TROUBLE = re.compile(r'"level": ?"(warning|error|critical)"|\[(warning|error|critical) *\]|Traceback|Error\b')


@dataclass(eq=False)
class Watched:
    """The services of one system, and where their logs stood at its start."""

    services: Services
    began: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, services: Services) -> Watched:
        sizes = {name: _size(process.log) for name, process in services.processes.items()}
        return cls(services, sizes)

    def texts(self) -> dict[str, str]:
        """What each service wrote since."""
        found = {}
        for name, process in self.services.processes.items():
            begin = self.began[name] if _size(process.log) >= self.began[name] else 0
            if process.log.exists():
                with process.log.open("rb") as file:
                    file.seek(begin)
                    found[name] = file.read().decode(errors="replace")
        return found


def keep(systems: Iterable[Watched], test: str) -> str:
    """Copy the logs, and say for people where they are and what is in them."""
    name = re.sub(r"\W+", "-", test).strip("-")[-120:]
    root = os.environ.get(FOLDER)
    folder = Path(root) / name if root else Path(tempfile.mkdtemp(prefix=f"{name}-"))
    shown = []
    for number, watched in enumerate(systems):
        place = folder / str(number + 1)
        place.mkdir(parents=True, exist_ok=True)
        for service, text in watched.texts().items():
            (place / f"{service}.log").write_text(text)
            shown.append(_excerpt(f"{number + 1}/{service}", text.splitlines()))
    return "\n".join([f"the services' logs are kept in {folder}", *shown])


def _excerpt(title: str, lines: list[str]) -> str:
    troubles = [line for line in lines[:-LAST] if _TROUBLE.search(line)]
    parts = [f"--- {title}: {len(lines)} lines"]
    if troubles:
        parts += [f"  {len(troubles)} errors and warnings, the last:", *_cut(troubles[-TROUBLES:])]
    return "\n".join([*parts, "  the end:", *_cut(lines[-LAST:])])


def _cut(lines: list[str]) -> list[str]:
    return [f"    {line[:WIDTH]}" for line in lines]


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
