"""The API key of a local stack: made by ``perdure up --secure``, used by the commands that run in the same folder.

Contract: the file is readable by the user alone, and is overwritten only when its key is not in the database any more. Imports
nothing that takes time: every command looks for the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

FILE: Final = "api-key"
VARIABLE: Final = "PERDURE_API_KEY"


class OwnKey(NamedTuple):
    """The stack's own API key, which may do everything."""

    file: Path
    ticket: str
    """The secret of a ticket that signs a browser in with it, once."""


def own_folder() -> Path:
    """The data folder of the stack that commands in this folder are about (``PERDURE_DATA_DIR``)."""
    return Path(os.environ.get("PERDURE_DATA_DIR") or ".perdure")


def read_key_file(folder: Path) -> str | None:
    """The key of a stack; ``None`` if it has none."""
    try:
        return (folder / FILE).read_text().strip() or None
    except FileNotFoundError:
        return None


def write_key_file(folder: Path, key: str) -> Path:
    """Keep a key; the file."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{FILE}.partial"
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
    return partial.replace(folder / FILE)
