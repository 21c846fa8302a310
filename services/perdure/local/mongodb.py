"""The MongoDB-compatible server as one child process; always with ``--sync-on-commit``.

Without that flag it acknowledges ``j: true`` writes before they are on disk, and a kill -9 loses them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from perdure.local.process import Launch
from perdure.local.resources import HOST

NAME: Final = "mongodb"


def prepare(folder: Path, log: Path, *, program: Path, port: int, cache_mb: int) -> Launch:
    """Make the data folder and say how to start."""
    data = folder.absolute() / "data"
    data.mkdir(parents=True, exist_ok=True)
    argv = [str(program), "--host", HOST, "--port", str(port), "--storage-path", str(data)]
    argv += ["--sync-on-commit", "--cache-size", f"{cache_mb}M", "--log-level", "WARNING"]
    if program.name == "secantusd-rs":
        argv += ["--log-file-max", "32MB"]
    return Launch(NAME, argv, data, log)
