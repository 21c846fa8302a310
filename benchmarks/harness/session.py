"""One session of one system: start it with empty data, run the workloads of a plan, stop it.

The driver of a system ends with ``main(ItsClass)``. The plan is a JSON list on standard input; every workload is one JSON line on
standard output, and the first line says what the system is. A workload that fails is a line with ``failed``, and the next goes on.
What a library prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TextIO

from harness.system import System
from harness.workloads import WORKLOADS


def main(kind: type[System], run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run) -> None:
    """Run the plan. Arguments: the folder for data, and where the system is installed."""
    scratch, home = (Path(one) for one in sys.argv[1:3])
    plan = json.load(sys.stdin)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as results:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        run(_session(kind(scratch, home), plan, results))


async def _session(system: System, plan: list[dict[str, Any]], results: TextIO) -> None:
    began = time.perf_counter()
    try:
        await system.open()
        about = {"persists": system.persists, "stored_is": system.stored_is, **system.about()}
        _say(results, {"about": about, "start_s": round(time.perf_counter() - began, 1)})
        for size in plan:
            _say(results, await _workload(system, size))
    finally:
        await system.close()


async def _workload(system: System, size: dict[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {"id": size["id"], "size": size, "load": round(os.getloadavg()[0], 2)}
    if reason := system.reasons.get(size["id"]) or system.reasons.get(size["workload"]):
        return line | {"cannot": reason}
    if size["workload"] == "stream" and system.agent_server() is None:
        return line | {"cannot": "it does not serve the streams of the Agent Server API"}
    began = time.perf_counter()
    try:
        async with asyncio.timeout(size["limit_s"]):
            line["numbers"] = await WORKLOADS[size["workload"]](system, size)
    except (Exception, ExceptionGroup) as error:  # whatever a client library raises is a result, not an end of the run
        traceback.print_exc(file=sys.stderr)
        cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        line["failed"] = f"{type(cause).__name__}: {cause}"[:300]
    return line | {"took_s": round(time.perf_counter() - began, 1)}


def _say(results: TextIO, line: dict[str, Any]) -> None:
    print(json.dumps(line), file=results, flush=True)
