"""``perdure down`` beside a running ``perdure up --ephemeral``: it ends the one of this folder, and no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from perdure.local.foreground import INTERRUPTED
from perdure.local.stack import Stack
from perdure.local.state import FILE

DEADLINE_S = 60.0


class Shell:
    """``perdure`` in one folder, on the session's servers."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment | {"PERDURE_DATA_DIR": str(folder / "data")}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("perdure")), *arguments],
            env=self._environment, cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *arguments: str) -> str:
        """What a command that must succeed prints."""
        command = self.start(*arguments)
        stdout, stderr = command.communicate(timeout=DEADLINE_S)
        assert command.returncode == 0, stderr
        return stdout


@pytest.fixture
def shells(stack: Stack, tmp_path: Path) -> tuple[Shell, Shell]:
    """In a folder, and in another one. Temporary stacks are below a folder of the test's own."""
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, **stack.environment(), "TMPDIR": str(tmp_path / "temporary")}
    environment["PERDURE_MONGODB_URI"] = environment["PERDURE_MONGODB_URI"].rpartition("/")[0] + f"/{tmp_path.name}"
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    return Shell(tmp_path / "here", environment), Shell(tmp_path / "elsewhere", environment)


def test_down_ends_the_ephemeral_stack_of_its_folder(shells: tuple[Shell, Shell], tmp_path: Path) -> None:
    here, elsewhere = shells
    ephemeral = here.start("up", "--ephemeral", "--json")
    try:
        assert ephemeral.stdout is not None
        gateway = json.loads(ephemeral.stdout.readline())["gateway"]
        (state,) = (tmp_path / "temporary").glob(f"perdure-*/{FILE}")
        assert "was running" in elsewhere("down")
        assert httpx.get(f"{gateway}/ok").status_code == 200, "it was started in another folder"

        assert set(json.loads(here("down", "--json"))["stopped"]) >= {"gateway", "scheduler", "indexer"}
        assert ephemeral.wait(DEADLINE_S) == INTERRUPTED
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{gateway}/ok")
        deadline = time.monotonic() + DEADLINE_S
        while state.parent.exists():
            assert time.monotonic() < deadline, "its data is still there"
            time.sleep(0.1)
        assert "was running" in here("down")
    finally:
        ephemeral.terminate()
        ephemeral.communicate(timeout=DEADLINE_S)
