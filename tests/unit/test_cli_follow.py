"""``perdure logs --follow`` with a filter: of the lines to come those are printed that match, and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.polling import until_blocking

from perdure.local.state import Record, StateFile

DEADLINE_S = 30.0


def record(**fields: Any) -> str:
    return json.dumps({"timestamp": "2020-01-02T03:04:05.678901Z", "level": "info", "service": "agent-step", **fields})


class Follower:
    """``perdure logs --follow`` over the log of one process, which is no service."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.log = folder / "agent_step.log"
        self._service = subprocess.Popen(["sleep", "600"])
        StateFile(folder).put(
            Record(
                name="agent_step", kind="service", pid=self._service.pid,
                created=psutil.Process(self._service.pid).create_time(), address="-", ports={}, log=self.log,
            )
        )  # fmt: skip
        self.write(record(event="before", thread_id="t1", run_id="r1"), record(event="before", thread_id="t2"))
        self._command = subprocess.Popen(
            [str(Path(sys.executable).with_name("perdure")), "logs", "--follow", "--json", *arguments],
            env={**os.environ, "PERDURE_DATA_DIR": str(folder)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def write(self, *lines: str) -> None:
        with self.log.open("a") as log:
            log.writelines(f"{line}\n" for line in lines)

    def _read(self) -> None:
        assert self._command.stdout is not None
        self._lines.extend(json.loads(line) for line in self._command.stdout)

    def shown(self) -> list[str]:
        """The events of the printed lines, or the lines that are no records."""
        return [one["record"]["event"] if "record" in one else one["line"] for one in self._lines]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        until_blocking(condition, what, DEADLINE_S, self.shown)

    def end_service(self) -> int:
        """End what writes the log; how the command then ended."""
        self._service.kill()
        self._service.wait()
        code = self._command.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code

    def close(self) -> None:
        for process in (self._service, self._command):
            process.kill()
            process.wait()
        self._reader.join(DEADLINE_S)
        assert self._command.stdout is not None
        self._command.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "matches"), [(("--thread", "t1"), {"thread_id": "t1"}), (("--run", "r1"), {"run_id": "r1"})]
)
def test_of_the_lines_to_come_those_that_match_are_printed(
    tmp_path: Path, arguments: tuple[str, ...], matches: dict[str, str]
) -> None:
    follower = Follower(tmp_path, *arguments)
    try:
        follower.until(lambda: "before" in follower.shown(), "the lines of before are printed")

        def is_followed() -> bool:
            follower.write(record(event="waiting", **matches))
            return "waiting" in follower.shown()

        follower.until(is_followed, "the log is followed")
        follower.write(
            record(event="other", thread_id="t2", run_id="r2"),
            record(event="named in passing", note="t1 r1"),
            "t1 r1 as plain text",
            record(event="matches", **matches),
            record(event="other", thread_id="t2", run_id="r2"),
        )
        follower.until(lambda: "matches" in follower.shown(), "the line is printed")
        follower.write(record(event="last", **matches), record(event="other"))
        assert follower.end_service() == 0
        assert [one for one in follower.shown() if one != "waiting"] == ["before", "matches", "last"]
    finally:
        follower.close()
