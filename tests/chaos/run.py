"""``python -m tests.chaos.run --seed N --minutes M``: agents, faults, and then the checker's table. What ``make chaos`` runs.

Contract: starts its own servers (three Kafka brokers) and services, and ends all of them however it ends. Exit code 0 only when no
promise is broken. The report is ``report.json`` in the folder that it names; the logs of all processes are kept beside it when a
promise is broken, a process had a problem, or the run fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.chaos.checker import Verdict, check
from tests.chaos.driver import Driver
from tests.chaos.evidence import database, entry_id, gather, stored_values
from tests.chaos.faults import Faults
from tests.chaos.readers import Readers
from tests.chaos.sampler import Sampler
from tests.chaos.schedule import SERVICES, plan
from tests.chaos.sites import SecuredSite, Site
from tests.chaos.streams import last_ends

from perdure.chassis.kafka.admin import TopicAdmin
from perdure.cli.provision import service_settings
from perdure.local.probes import probe_http
from perdure.local.process import Launch, spawn, wait_ready
from perdure.local.resources import free_port
from perdure.local.services import Services, available_services
from perdure.local.state import Record

GRAPHS = Path(__file__).parent / "graphs"
INSTANCES = ("gateway", "agent_step", "agent_step", "scheduler", "scheduler", "indexer", "validator", "notifier")
SETTINGS = {
    "PERDURE_LANGGRAPH_CONFIG": str(GRAPHS / "langgraph.json"),
    "PERDURE_LEASE_TTL_S": "3",
    "PERDURE_LEADER_TTL_S": "3",
    "PERDURE_SWEEP_INTERVAL_S": "0.5",
    "PERDURE_PUBLISH_GRACE_S": "4",
    "PERDURE_SETTLE_GRACE_S": "4",
    "PERDURE_SHUTDOWN_GRACE_S": "8",
    "PERDURE_NOTIFIER_TIMEOUT_S": "3",
    "PERDURE_NOTIFIER_CLAIM_S": "6",
    "PERDURE_NOTIFIER_RETRY_FIRST_S": "0.5",
    "PERDURE_NOTIFIER_RETRY_CAP_S": "3",
}
TOLD = ["completed", "failed", "timed_out"]
AGENTS_PER_S = 2.0
SETTLE_S = 60.0
UNDO_S = 150.0
READ_ON_S = 30.0
"""How long readers of streams may take to come to the end when everything else has."""


@dataclass(frozen=True, slots=True)
class Options:
    """Of one run."""

    seed: int
    minutes: float
    folder: Path
    """Where the report and, on failure, the logs go."""
    per_s: float = AGENTS_PER_S
    faults: bool = True
    secure: bool = False
    """With TLS, users with their grants, an API key and encryption at rest."""


class ChaosRun:
    """One run: :meth:`execute` does everything and cleans up."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.site = SecuredSite() if options.secure else Site()
        self.stack = self.site.stack
        self.began = time.monotonic()
        self._settled = False
        self.services: Services
        self.faults: Faults
        self.driver: Driver
        self.sampler: Sampler
        self.readers: Readers

    def execute(self) -> Verdict:
        """Run, settle, check; the verdict is written to the folder."""
        kept = False
        self.options.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
            self._drive()
            self._settle()
            verdict = self._check()
            kept = verdict.holds and self._settled and not self.faults.problems
            return verdict
        finally:
            if hasattr(self, "sampler"):
                self.sampler.stop()
            if hasattr(self, "readers"):
                self.readers.stop({}, 0)
            if not kept:
                self._keep_logs()
            self.site.stop()

    def say(self, text: str) -> None:
        """Show one line with the time since the begin."""
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    def _start(self) -> None:
        self.site.start()
        self.say("three brokers, MongoDB and OpenSearch run" + (", secured" if self.options.secure else ""))
        replicas = asyncio.run(TopicAdmin(service_settings(self.site.environment)).existing())
        if wrong := [name for name, topic in replicas.items() if topic.replication != 3]:
            raise RuntimeError(f"topics {wrong} are not replicated three times")
        world = self._start_world()
        names = [name for name in INSTANCES if name in available_services()]
        self.services = Services.of(self.stack, names, {**SETTINGS, "CHAOS_WORLD_URL": world}, cwd=GRAPHS)
        for process in self.services.processes.values():
            process.env |= self.site.settings_of(process.name)
        self.services.start()
        self._subscribe(world)
        self.sampler = Sampler(self.site.access.mongodb_uri, self._workers)
        self.sampler.start()
        self.say(f"services run: {', '.join(self.services.processes)}")

    def _workers(self) -> dict[int, str]:
        """The addresses of the agent-step processes, by process id."""
        workers = [one for one in self.services.processes.values() if one.name == "agent_step" and one.running]
        return {one.pid: one.address for one in workers}

    def _subscribe(self, world: str) -> None:
        """The world is told of every end."""
        wanted = {"scope": "tenant", "kinds": TOLD, "channel": "webhook"}
        body = wanted | {"target": f"{world}/hooks"}
        with self.site.access.gateway(self.services.gateway_url) as http:
            http.post("/subscriptions", json=body).raise_for_status()

    def _start_world(self) -> str:
        port, folder = free_port(), self.stack.folder
        argv = [sys.executable, str(Path(__file__).parent / "world.py"), str(port), str(self._world_log)]
        launch = Launch("world", argv, folder, folder / "logs" / "world.log")
        identity = spawn(launch)
        address = f"http://127.0.0.1:{port}"
        record = Record(
            name="world", kind="service", pid=identity.pid, created=identity.created, address=address,
            ports={"port": port}, log=launch.log,
        )  # fmt: skip
        self.stack.state.put(record)
        wait_ready(identity, launch, lambda: probe_http(f"{address}/ready") is None, 20)
        return address

    def _drive(self) -> None:
        options = self.options
        seconds = options.minutes * 60
        labels = [label for label in SERVICES if label in self.services.processes]
        planned = plan(options.seed, options.minutes, labels) if options.faults else []
        access, url = self.site.access, self.services.gateway_url
        self.faults = Faults(self.stack, access.kafka, self.services, planned)
        self.readers = Readers(url, access.credentials)
        self.driver = Driver(
            url, self._driver_log, options.seed, options.per_s, self.readers.follow, access.credentials
        )
        serve_s = UNDO_S + SETTLE_S
        done = threading.Event()
        failed: list[BaseException] = []

        def drive() -> None:
            try:
                asyncio.run(self.driver.run(seconds, serve_s))
            except BaseException as error:  # told to the main thread, which raises it
                failed.append(error)
            finally:
                done.set()

        self.faults.begin()
        threading.Thread(target=drive, name="driver", daemon=True).start()
        self.say(f"{len(planned)} faults within {seconds:.0f} s, {options.per_s:g} agents a second")
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end and not done.wait(min(30.0, max(0.1, end - time.monotonic()))):
                self.say(f"{len(self.faults.done)} faults done; driver: {dict(self.driver.counts)}")
            if failed:
                raise RuntimeError("the driver failed") from failed[0]
            self.faults.finish(UNDO_S)
            self.say("every fault is undone")
            done.wait(serve_s)
        finally:
            self.faults.abort()
        if failed:
            raise RuntimeError("the driver failed") from failed[0]
        self.say(f"driver: {dict(self.driver.counts)}")

    def _settle(self) -> None:
        """Wait until nothing moves any more; what is left when the time is over is for the checker to tell."""
        deadline = time.monotonic() + SETTLE_S
        with database(self.site.access.mongodb_uri) as db:
            while left := self._unsettled(db):
                if time.monotonic() > deadline:
                    self.say(f"not settled within {SETTLE_S:.0f} s: {left}")
                    self._dump_stacks()
                    return
                time.sleep(0.5)
            entries = db.notebook.find({"kind": {"$in": ["c", "e", "n"]}}, {"body": 0})
            stored = len({entry_id(one) for one in entries})
        self._await_index(stored, deadline)
        self._settled = True
        self.say("settled")

    def _dump_stacks(self) -> None:
        """Write beside the logs where every service stands: one that is stuck shows it."""
        spy = Path(sys.executable).parent / "py-spy"
        for process in self.services.processes.values():
            with (self.stack.folder / "logs" / f"{process.label}.stack").open("wb") as file:
                command = [spy, "dump", "--pid", str(process.pid)]
                subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False, timeout=30)

    def _unsettled(self, db: Any) -> dict[str, int]:
        ended = db.runs.count_documents({"status": {"$in": ["success", "error", "timeout"]}})
        counts = {
            "ends that no notice is about": max(0, ended - db.deliveries.count_documents({"kind": {"$in": TOLD}})),
            "runs": db.runs.count_documents({"settled": False}),
            "waits with a time": db.waits.count_documents({"status": "open", "due_at": {"$exists": True}}),
            "dead letters that are not kept yet": len(self.faults.poisoned)
            - db.dead_letters.count_documents({"_id": {"$in": self.faults.poisoned}}),
            "notices": db.deliveries.count_documents({"state": "pending"}),
            "notices without a note": db.deliveries.count_documents({"told": False}),
            "validations": db.waits.count_documents({"status": "open", "kind": "validation"}),
        }
        return {name: count for name, count in counts.items() if count}

    def _await_index(self, stored: int, deadline: float) -> None:
        with self.site.access.opensearch() as http:
            while True:
                http.post("/perdure-states/_refresh")
                found = http.get("/perdure-states/_count").json().get("count", 0)
                if found >= stored or time.monotonic() > deadline:
                    return
                time.sleep(0.5)

    def _check(self) -> Verdict:
        evidence = gather(self.site.access, self.services.gateway_url, self._driver_log, self._world_log)
        evidence.samples = self.sampler.stop()
        evidence.streams = self.readers.stop(last_ends(evidence), READ_ON_S)
        evidence.poisoned = self.faults.poisoned
        evidence.verified = self._verify()
        verdict = check(evidence, self.options.seed)
        verdict.facts |= self._facts()
        verdict.write(self.options.folder / "report.json")
        self.say("checked")
        return verdict

    def _verify(self) -> dict[str, Any] | None:
        """The report of ``perdure index verify --full``, of everything that is there now."""
        command = [sys.executable, "-m", "perdure.indexer.verify", "--full", "--settled-s", "0"]
        done = subprocess.run(command, env={**os.environ, **self.site.environment}, stdout=subprocess.PIPE, check=False)
        return None if done.returncode else dict(json.loads(done.stdout))

    def _facts(self) -> dict[str, Any]:
        packages = (
            "langgraph",
            "langgraph-checkpoint",
            "confluent-kafka",
            "motor",
            "pymongo",
            "faust-streaming",
            "opensearch-py",
        )
        return {
            "seed": self.options.seed,
            "minutes": self.options.minutes,
            "secure": self.options.secure,
            **stored_values(self.site.access.mongodb_uri),
            "took_s": round(time.monotonic() - self.began, 1),
            "faults": sorted(self.faults.done, key=lambda one: one["began_s"]),
            "problems": self.faults.problems,
            "ended by themselves": dict(self.faults.restarted),
            "driver": dict(self.driver.counts),
            "services": list(self.services.processes),
            "settings": SETTINGS | {"agents_per_s": self.options.per_s},
            "versions": {name: version(name) for name in packages}
            | {"python": platform.python_version(), "commit": _commit()},
        }

    def _keep_logs(self) -> None:
        target = self.options.folder / "logs"
        for source in (self.stack.folder / "logs", self._driver_log, self._world_log):
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            elif source.exists():
                target.mkdir(exist_ok=True)
                shutil.copy2(source, target)
        self.say(f"logs are kept in {target}")

    @property
    def _driver_log(self) -> Path:
        return self.stack.folder / "driver.jsonl"

    @property
    def _world_log(self) -> Path:
        return self.stack.folder / "world.jsonl"


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Kill everything and see whether the promises hold.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--per-second", type=float, default=AGENTS_PER_S, help="agents started a second")
    parser.add_argument("--folder", type=Path, help="for the report and the logs; a new temporary one by default")
    parser.add_argument("--no-faults", action="store_true", help="only the agents and the checker")
    parser.add_argument("--secure", action="store_true", help="with everything on that keeps strangers out")
    given = parser.parse_args(arguments)
    folder = given.folder or Path(tempfile.mkdtemp(prefix=f"chaos-{given.seed}-"))
    options = Options(given.seed, given.minutes, folder, given.per_second, not given.no_faults, given.secure)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        verdict = ChaosRun(options).execute()
    except KeyboardInterrupt:
        print("interrupted; everything is stopped")
        return 130
    faults = verdict.facts["faults"]
    print(f"seed {given.seed}, {given.minutes:g} minutes, {len(faults)} faults\n{verdict.table()}")
    print(f"report: {folder / 'report.json'}")
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
