"""Perdure and its peers, in turn, on the same workloads. ``make bench``, or as below.

::

    python benchmarks/run.py [--quick] [--peers dbos restate] [--workloads chain-1k chat] [--rounds 3] [--out FOLDER]
    python benchmarks/run.py --workloads soak --soak-minutes 30 --peers none

Each session starts one system with empty data, runs every workload on it, stops it and removes its data; sessions of ours
and of the peers alternate (``plan.py``). Every result is at once a line of ``FOLDER/bench.jsonl``; at the end, and also after
Ctrl-C, ``report.py`` writes the tables and plots beside it. A peer whose set-up says that something is missing is reported as
not run.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import plan
import psutil
import report
from smoke import machine, versions

from perdure.local.servers import ADDRESS_FIELDS, variable
from perdure.local.stack import Stack

HERE = Path(__file__).resolve().parent
START_S, STOP_S = 300.0, 90.0
MISSING = 3
"""Exit status of a set-up script that says what is missing."""


def main() -> int:
    """Run what the command line asks for; the exit status is 1 if a workload failed."""
    options = arguments()
    if given := [variable(field) for field in ADDRESS_FIELDS.values() if os.environ.get(variable(field))]:
        sys.exit(f"unset {', '.join(given)}: what a server that somebody else started costs cannot be counted")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    file = out / "bench.jsonl"
    file.unlink(missing_ok=True)
    run = Run(options, file)
    try:
        run.all()
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        report.write([file], out)
        say(f"report: {out / 'report.md'}")
    return int(run.failed)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: tries the harness out")
    parser.add_argument("--peers", nargs="+", default=list(plan.PEERS), choices=[*plan.PEERS, "none"])
    parser.add_argument("--workloads", nargs="+", default=list(plan.FULL), choices=[*plan.FULL, "soak"])
    parser.add_argument("--rounds", type=int, help="3 by default; a workload may take part in fewer")
    parser.add_argument("--between", type=int, help="peers between two sessions of ours: 1 or 2 (the default)")
    parser.add_argument("--soak-minutes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=1, help="agent-step processes of ours")
    parser.add_argument("--jvm", choices=["quick", "full"], default="quick", help="Java's compilers; see README.md")
    parser.add_argument("--out", type=Path, help="benchmarks/out/bench by default, benchmarks/out/quick with --quick")
    options = parser.parse_args()
    options.peers = [peer for peer in options.peers if peer != "none"]
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.between = options.between or (max(1, len(options.peers)) if options.quick else 2)
    options.out = options.out or HERE / "out" / ("quick" if options.quick else "bench")
    return options


class Run:
    """All sessions, one after the other."""

    def __init__(self, options: argparse.Namespace, file: Path) -> None:
        known = (plan.QUICK if options.quick else plan.FULL) | {"soak": plan.soak(options.soak_minutes)}
        self._workloads = {name: known[name] for name in options.workloads}
        self._options = options
        self._file = file
        self._session = plan.Session(plan.OURS, 0, [])
        self.failed = False

    def all(self) -> None:
        """Set up the peers, then the sessions in order."""
        options = self._options
        self._line(
            {
                "run": {
                    "machine": machine(),
                    "versions": versions(),
                    "at": utc(),
                    "quick": options.quick,
                    "rounds": options.rounds,
                }
            }
        )
        peers = [peer for peer in options.peers if self._set_up(peer)]
        order = plan.sessions(peers, options.rounds, options.between, self._workloads)
        for session in order:
            say(f"session {session.number + 1} of {len(order)}: {session.system}, round {session.round + 1}")
            self._session = session
            with tempfile.TemporaryDirectory(prefix="perdure-bench-", ignore_cleanup_errors=True) as scratch:
                Path(scratch).chmod(0o711)  # PostgreSQL may run as another user
                self._run(Path(scratch))

    def _set_up(self, peer: str) -> bool:
        say(f"setting up {peer}")
        done = subprocess.run([HERE / "peers" / peer / "setup.sh"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return True
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        reason = last.removeprefix("missing: ") if done.returncode == MISSING else "set-up failed"
        say(f"{peer} is not run: {last}")
        self._line({"system": peer, "not_run": reason if done.returncode != MISSING else f"missing here: {reason}"})
        return False

    def _run(self, scratch: Path) -> None:
        name = self._session.system
        home = peer_home(name)
        python = sys.executable if name == plan.OURS else home / "venv/bin/python"
        driver = HERE / "perdure_driver.py" if name == plan.OURS else HERE / "peers" / name / "driver.py"
        env = {
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE / "graphs")]),
            "PERDURE_BENCH_WORKERS": str(self._options.workers),
            "PERDURE_BENCH_JVM": self._options.jvm,
        }
        sizes = plan.sizes(self._session, self._workloads)
        with servers_for(name) as more:
            errors = self._file.parent / "errors.log"
            command, longest_s = [python, driver, scratch, home], START_S + sum(one["limit_s"] for one in sizes)
            with errors.open("ab") as log, driver_process(command, env | more, log, longest_s) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps(sizes).encode())
                process.stdin.close()
                for line in process.stdout:
                    self._result(json.loads(line))
                status = process.wait(STOP_S)
        if status:
            self.failed = True
            self._line({"system": name, "session_failed": f"the driver ended with {status}; see {errors.name}"})

    def _result(self, line: dict[str, Any]) -> None:
        session = self._session
        where = {
            "system": session.system,
            "round": session.round,
            "session": session.number,
            "ours": session.ours,
            "at": utc(),
        }
        self.failed = self.failed or "failed" in line
        self._line(where | line)
        if "id" in line:
            shown = line.get("numbers") or line.get("cannot") or line.get("failed")
            plain = {k: v for k, v in shown.items() if not isinstance(v, list)} if isinstance(shown, dict) else shown
            say(f"  {line['id']}: {plain}")

    def _line(self, line: dict[str, Any]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def peer_home(name: str) -> Path:
    """Where a set-up script installs; the same rule as in ``peers/lib.sh``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("PERDURE_PEERS_DIR") or cache / "perdure/peers") / name


@contextmanager
def servers_for(name: str) -> Iterator[dict[str, str]]:
    """What a peer shares with us: the MongoDB-compatible server, with the same flags, empty."""
    if name != "langgraph_mongodb":
        yield {}
        return
    stack = Stack(ephemeral=True)
    try:
        stack.start(["mongodb"])
        pid = stack.state.read().records["mongodb"].pid
        yield {
            "PERDURE_BENCH_MONGODB": stack.environment()["PERDURE_MONGODB_URI"],
            "PERDURE_BENCH_MONGODB_PID": str(pid),
        }
    finally:
        stack.stop()


@contextmanager
def driver_process(
    command: Sequence[Any], env: dict[str, str], log: Any, longest_s: float
) -> Iterator[subprocess.Popen[bytes]]:
    """A driver, ended after ``longest_s``. It ends its servers itself; those that it leaves behind are ended by their pids."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, **env},
        start_new_session=True,
    )
    watchdog = threading.Timer(longest_s, process.terminate)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        left: list[psutil.Process] = []
        if process.poll() is None:
            left = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for one in left:
            if one.is_running():
                one.kill()


def utc() -> str:
    """Now."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
