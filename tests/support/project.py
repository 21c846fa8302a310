"""A user's project in a folder, and the ``perdure`` command in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from perdure.local.resources import STACK_VARIABLE, free_port
from perdure.local.stack import Stack


class Project:
    """A folder with ``agent.py``, whose ``graph`` is served as ``greeter``; its stack keeps its data in ``data``.

    ``timeout_s`` bounds each command.
    """

    def __init__(self, folder: Path, environment: dict[str, str], timeout_s: float) -> None:
        self.folder = folder
        self.environment = environment
        self.timeout_s = timeout_s
        self.url = f"http://127.0.0.1:{environment['PERDURE_GATEWAY_PORT']}"
        self.data = folder / "data"

    @classmethod
    def create(cls, folder: Path, stack: Stack, agent: str, timeout_s: float, **variables: str) -> Project:
        """Write a project that uses the servers of ``stack`` and a database of its own."""
        (folder / "agent.py").write_text(agent)
        (folder / "langgraph.json").write_text('{"dependencies": ["."], "graphs": {"greeter": "./agent.py:graph"}}')
        servers = stack.environment()
        environment = {
            **os.environ,
            **servers,
            "PERDURE_MONGODB_URI": servers["PERDURE_MONGODB_URI"].rpartition("/")[0] + f"/{folder.name}",
            "PERDURE_GATEWAY_PORT": str(free_port()),
            "PERDURE_DATA_DIR": str(folder / "data"),
            **variables,
        }
        return cls(folder, environment, timeout_s)

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("perdure")), *arguments]

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment | variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=self.timeout_s,
            check=False,
        )

    def dev(self) -> subprocess.Popen[bytes]:
        """Start ``perdure dev``; ``output`` and ``said`` have what it writes."""
        with (self.folder / "dev.txt").open("wb") as output:
            return subprocess.Popen(
                self.command("dev"), env=self.environment, cwd=self.folder, stdout=output, stderr=output
            )

    def output(self) -> str:
        return (self.folder / "dev.txt").read_text()

    def said(self, part: str) -> bool:
        return part in self.output()

    def status(self) -> dict[str, dict[str, object]]:
        return {one["name"]: one for one in json.loads(self("status", "--json").stdout)}

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this stack, and every supervisor of it, zombies left out."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(STACK_VARIABLE) == str(self.data) or str(self.data) in process.cmdline()
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found
