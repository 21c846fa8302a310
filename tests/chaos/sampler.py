"""Looks at the running system about once a second: is there a run that a living worker owns, and that stands still?

Contract: a thread of its own with a plain client, so that nothing which the services do can hide from it. A look that the database
does not answer counts for nothing; time counts for a run only from one answered look to the next, while its worker answers too.
So a frozen worker, a killed database, or a look that comes late makes no run look idle. Outside: judging (``promises``).

A node of the chaos agents ends within seconds (``tests/chaos/graphs``), so a run whose history does not grow for
:data:`IDLE_S` seconds, and whose worker lives all the time, waits for nothing that will come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from pymongo import MongoClient
from pymongo.errors import PyMongoError

Found = dict[str, Any]

INTERVAL_S = 1.0
LATE_S = 3.0
"""Two looks further apart than this say nothing about the time between them."""
IDLE_S = 25.0
"""Longer than every node, and shorter than the time after which a worker itself gives an idle run back (30 s): what the worker
mends is seen here before."""
TIMEOUT_MS = 1_000


@dataclass(slots=True)
class _Standing:
    where: tuple[Any, ...]
    seconds: float = 0.0
    reported: bool = False


@dataclass(slots=True)
class Samples:
    """What was seen while the run went on."""

    looks: int = 0
    """Looks that the database and a worker answered."""
    runs: int = 0
    """Owned runs that were looked at, over all looks."""
    longest_s: float = 0.0
    """The longest that an owned run stood still under a living worker."""
    failed: str | None = None
    """Why there were no more looks before the end, if so."""
    idle: list[Found] = field(default_factory=list)
    """Runs that stood still for too long: ``run_id``, ``thread_id``, ``owner``, ``epoch``, ``seconds``."""


class Watch:
    """How long each owned run has stood still. Pure: told of each look."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self.samples = Samples()
        self._idle_s = idle_s
        self._standing: dict[str, _Standing] = {}
        self._at: float | None = None

    def look(self, at: float, runs: list[Found], newest: dict[str, int], living: set[str]) -> None:
        """Take in one answered look.

        Args:
            at: When, in seconds of a steady clock.
            runs: The running runs: ``_id``, ``thread_id``, ``owner``, ``epoch``.
            newest: The newest sequence number of each of their threads.
            living: The owners whose lease holds and whose process answered.

        """
        passed = at - self._at if self._at is not None else 0.0
        self._at = at
        passed = passed if passed <= LATE_S else 0.0
        self.samples.looks += 1
        self.samples.runs += len(runs)
        standing: dict[str, _Standing] = {}
        for run in runs:
            where = (run["epoch"], run["owner"], newest.get(run["thread_id"], 0))
            before = self._standing.get(run["_id"])
            one = before if before is not None and before.where == where else _Standing(where)
            if one is before and run["owner"] in living:
                one.seconds += passed
            standing[run["_id"]] = one
            self._judge(run, one)
        self._standing = standing

    def _judge(self, run: Found, one: _Standing) -> None:
        self.samples.longest_s = max(self.samples.longest_s, round(one.seconds, 1))
        if one.seconds >= self._idle_s and not one.reported:
            one.reported = True
            seconds = round(one.seconds, 1)
            names = {"run_id": run["_id"], "thread_id": run["thread_id"], "owner": run["owner"], "epoch": run["epoch"]}
            self.samples.idle.append(names | {"seconds": seconds})


class Sampler:
    """Feeds a :class:`Watch` from the database and the workers' health pages until :meth:`stop`.

    Args:
        uri: The database.
        workers: The addresses of the agent-step processes by process id, asked at each look: they change when one is restarted.

    """

    def __init__(self, uri: str, workers: Callable[[], dict[int, str]], watch: Watch | None = None) -> None:
        self.watch = watch or Watch()
        self._uri = uri
        self._workers = workers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> Samples:
        """End; what was seen."""
        self._stop.set()
        self._thread.join(30)
        return self.watch.samples

    def _run(self) -> None:
        try:
            self._look_until_stopped()
        except Exception as error:  # a finding of the checker
            self.watch.samples.failed = f"{type(error).__name__}: {error}"

    def _look_until_stopped(self) -> None:
        options = {"serverSelectionTimeoutMS": TIMEOUT_MS, "socketTimeoutMS": 2 * TIMEOUT_MS, "tz_aware": True}
        with MongoClient[Found](self._uri, **options) as client, httpx.Client(timeout=TIMEOUT_MS / 1000) as http:
            while not self._stop.wait(INTERVAL_S):
                try:
                    self._look(client.get_default_database(), http)
                except PyMongoError:
                    continue  # the database is one of those that are hurt: nothing is known of this moment

    def _look(self, db: Any, http: httpx.Client) -> None:
        fields = {"thread_id": 1, "owner": 1, "epoch": 1}
        runs = list(db.runs.find({"settled": False, "status": "running"}, fields))
        newest: dict[str, int] = {}
        threads = [run["thread_id"] for run in runs]
        for entry in db.notebook.find({"thread": {"$in": threads}, "seq": {"$exists": True}}, {"thread": 1, "seq": 1}):
            newest[entry["thread"]] = max(entry["seq"], newest.get(entry["thread"], 0))
        answered = {pid for pid, address in self._workers().items() if _answers(http, address)}
        alive = db.workers.find({"state": "alive"}, {"pid": 1})
        living = {worker["_id"] for worker in alive if worker["pid"] in answered}
        self.watch.look(time.monotonic(), runs, newest, living)


def _answers(http: httpx.Client, address: str) -> bool:
    try:
        return http.get(f"{address}/ok").status_code == 200
    except httpx.HTTPError:
        return False
