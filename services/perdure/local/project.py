"""Check a user's project before anything is started for it.

Contract: :func:`check_project` reads what can be read without running code, and then runs :mod:`perdure.local.check` in a child
process with the environment and the interpreter that the services get, so code that crashes, prints or hangs at import harms
nobody. It raises one error, whose text is for people.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

from perdure.chassis import json
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.project import check_sources, read_targets
from perdure.local.display import Display
from perdure.local.errors import ProjectError
from perdure.local.process import exit_text

_SAY_AFTER_S: Final = 5.0
_LANGGRAPH_S: Final = 30.0
"""How long importing LangGraph may take beside that. The child ends itself at the limit; it is killed when it has not by then
(code that never lets other threads run)."""
_POLL_S: Final = 0.1
_SHOWN_LINES: Final = 10


def check_project(
    config: Path,
    environment: Mapping[str, str],
    display: Display,
    *,
    limit_s: float,
    stopping: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Import the graphs of a ``langgraph.json``; returns their ids.

    :param environment: added to this process's own.
    :param limit_s: how long importing the project's code may take, in seconds.
    :param stopping: asked again and again; the check is given up when it says so.
    :raises ProjectError: a worker could not serve the project; the text says where, why and what to do.
    """
    try:
        check_sources(config, read_targets(config))
    except ConfigurationError as error:
        raise ProjectError(str(error)) from error
    command = [sys.executable, "-m", "perdure.local.check", str(config), str(limit_s)]
    with tempfile.TemporaryFile() as printed:
        child = subprocess.Popen(
            command,
            cwd=config.parent,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=printed,
            start_new_session=True,
        )
        try:
            result = _watch(child, display, limit_s, stopping)
        finally:
            _end(child)
        if "graphs" in result:
            return list(result["graphs"])
        raise ProjectError(str(result.get("problem") or _died(child, result, printed)))


def _watch(
    child: subprocess.Popen[bytes], display: Display, limit_s: float, stopping: Callable[[], bool]
) -> dict[str, Any]:
    """What the child reported last."""
    started, said, rest = time.monotonic(), False, b""
    last: dict[str, Any] = {"importing": "the project"}
    if child.stdout is None:
        return last
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            passed = time.monotonic() - started
            if stopping() or passed > _LANGGRAPH_S + limit_s:
                return {**last, "problem": f"importing {last['importing']} was given up after {passed:.0f} s"}
            if passed > _SAY_AFTER_S and not said:
                said = True
                display.say(f"still importing {last['importing']}; given up {limit_s:.0f} s after its start")
            if not selector.select(_POLL_S):
                continue
            data = os.read(child.stdout.fileno(), 65536)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                last = json.loads(line)
            if "importing" not in last or not data:
                return last


def _end(child: subprocess.Popen[bytes]) -> None:
    """End it with all that the project's code has started."""
    try:
        child.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # all have ended
    child.wait()
    if child.stdout:
        child.stdout.close()


def _died(child: subprocess.Popen[bytes], last: Mapping[str, Any], printed: IO[bytes]) -> str:
    printed.seek(0)
    lines = printed.read().decode(errors="replace").splitlines()[-_SHOWN_LINES:]
    shown = "".join(f"\n    {line}" for line in lines)
    return (
        f"importing {last.get('importing', 'the project')} ended the process ({exit_text(child.returncode)}). "
        f"It printed:{shown or ' nothing'}"
    )
