"""The stacks of ``perdure up --ephemeral``, as other commands find them: each has a temporary folder that no setting names.

Contract: only stacks of this user whose command still runs are found, by the folder that the command was given in.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from pydantic import ValidationError

from perdure.local.errors import LocalError
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack
from perdure.local.state import FILE


def ephemeral_stacks(folder: Path) -> Iterator[Stack]:
    """The stacks that a running ``perdure up --ephemeral`` holds, of those that were started in ``folder``."""
    for state in Path(tempfile.gettempdir()).glob(f"perdure-*/{FILE}"):
        try:
            # Anybody may write to the temporary folder: what another user left there names no process to be ended.
            if state.stat().st_uid != os.getuid():
                continue
            stack = Stack(LocalSettings().model_copy(update={"data_dir": state.parent}))
            supervisor = stack.supervisor()
            process = supervisor.identity.process() if supervisor else None
            if process is not None and Path(process.cwd()) == folder:
                yield stack
        except (OSError, psutil.Error, LocalError, ValidationError):
            continue  # it ended meanwhile, or is no stack
