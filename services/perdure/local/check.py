"""``python -m perdure.local.check LANGGRAPH_JSON SECONDS``: can agent-step and the validator serve this project? Needs no server.

Contract: reads the file and imports the code by the very functions that the services use. Standard output gets JSON objects, one
a line: ``{"importing": what}`` before each import, at last ``{"graphs": [ids]}`` or ``{"problem": text}``. What the user's code
prints goes to standard error. Exit status 0 or 2; also ``SECONDS`` after LangGraph was imported, with a problem that names the
line that still runs.
Run by :func:`perdure.local.project.check_project`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from perdure.chassis import json
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.explain import user_frames


class Report:
    """The process's real standard output; from its making on, ``print`` writes to standard error."""

    def __init__(self) -> None:
        self._out: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self.importing = "the project"

    def step(self, what: str) -> None:
        """Say what is imported next."""
        self.importing = what
        self._write({"importing": what})

    def end(self, result: dict[str, Any]) -> None:
        """Report the result and end the process, whatever threads the project's code has started."""
        self._write(result)
        sys.stderr.flush()
        os._exit(2 if "problem" in result else 0)

    def _write(self, value: dict[str, Any]) -> None:
        with self._lock:
            self._out.write(json.dumps(value) + b"\n")


def main(file: Path, limit_s: float) -> None:
    """Check the project and end the process."""
    report = Report()
    report.step("LangGraph")
    # Not before there is a report to write to, and not on the project's time.
    from langgraph.checkpoint.memory import InMemorySaver

    from perdure.agent_step.graphs import load_graphs
    from perdure.validator.fetchers import load_fetchers

    async def load() -> list[str]:
        graphs = await load_graphs(
            file, InMemorySaver(), lambda graph, target: report.step(f"{target} (graph {graph!r} of {file})")
        )
        report.step(f"the fetchers of {file}")
        load_fetchers(file)
        return sorted(graphs)

    watchdog = threading.Timer(limit_s, _too_slow, (report, threading.get_ident(), limit_s))
    watchdog.daemon = True
    watchdog.start()
    try:
        report.end({"graphs": asyncio.run(load())})
    except ConfigurationError as error:
        report.end({"problem": str(error)})


def _too_slow(report: Report, thread: int, limit_s: float) -> None:
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way to another thread's stack
    where = user_frames(traceback.extract_stack(frame)) if frame else []
    problem = f"importing {report.importing} has not ended after {limit_s:.0f} s"
    hint = "A module that is imported must return: connect to servers and wait inside nodes, not at import."
    report.end({"problem": "\n".join([problem + (". It is here:" if where else "."), *where, hint])})


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
