"""The whole system for end-to-end tests: all services as processes on the session's servers, driven by HTTP.

``system`` serves one test module with the graphs of ``tests/e2e/graphs``; ``start_system`` starts one of a test's own.
Leases are short so that recoveries are quick. When a test fails, the logs of the services that ran are kept (``service_logs``).
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo.database import Database
from tests.e2e.service_logs import Watched, keep
from tests.support.polling import until_blocking

from perdure.chassis.access import MongodbAccess
from perdure.chassis.mongo import connect_blocking, database_name
from perdure.chassis.signatures import Signatures
from perdure.cli.provision import provision
from perdure.local.services import Services
from perdure.local.stack import Stack

GRAPHS = Path(__file__).parent / "graphs"
SETTINGS = {
    "PERDURE_LANGGRAPH_CONFIG": str(GRAPHS / "langgraph.json"),
    "PERDURE_LEASE_TTL_S": "2",
    "PERDURE_LEADER_TTL_S": "2",
    "PERDURE_SWEEP_INTERVAL_S": "0.3",
    "PERDURE_PUBLISH_GRACE_S": "3",
    "PERDURE_SETTLE_GRACE_S": "3",
    "PERDURE_SHUTDOWN_GRACE_S": "10",
}
ENDED = ("success", "error", "timeout", "interrupted", "cancelled")

Found = dict[str, Any]


class System:
    """A running system and the questions that tests ask it."""

    def __init__(self, services: Services, mongodb: MongodbAccess | str) -> None:
        self.services = services
        self.http = httpx.Client(base_url=services.gateway_url, timeout=30)
        self.mongo = connect_blocking(mongodb)
        self.db: Database[Found] = self.mongo[database_name(mongodb)]

    @property
    def signatures(self) -> Signatures:
        """What the services believe each other by."""
        return Signatures([self.services["agent_step"].env["PERDURE_SIGNING_SECRET"]])

    def close(self) -> None:
        self.http.close()
        self.mongo.close()

    def start(self, graph: str, run_input: Any = None, thread: str | None = None, **more: Any) -> Found:
        """Start a run; the 202's body."""
        path = f"/threads/{thread}/runs" if thread else "/runs"
        answer = self.http.post(path, json={"assistant_id": graph, "input": run_input, **more})
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"].endswith(answer.json()["run_id"])
        return dict(answer.json())

    def run(self, run: Found) -> Found:
        return dict(self.http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}").raise_for_status().json())

    def values(self, thread_id: str) -> Found:
        return dict(self.http.get(f"/threads/{thread_id}/state").raise_for_status().json()["values"])

    def until_ended(self, *runs: Found, timeout_s: float = 60) -> list[Found]:
        """The runs' documents once all have ended and are settled."""
        ids = [run["run_id"] for run in runs]

        def done() -> list[Found] | None:
            found = list(self.db.runs.find({"_id": {"$in": ids}}, {"payload": 0}))
            return found if all(r["status"] in ENDED and r["settled"] for r in found) else None

        found = until_blocking(
            done,
            "all runs have ended and are settled",
            timeout_s,
            explain=lambda: Counter(r["status"] for r in self.db.runs.find({"_id": {"$in": ids}})),
        )
        assert len(found) == len(ids)
        return sorted(found, key=lambda r: ids.index(r["_id"]))

    def until_checkpoints(self, count: int, timeout_s: float = 60) -> None:
        """Until so many checkpoints are stored."""
        until_blocking(
            lambda: self.db.notebook.count_documents({"kind": "c"}) >= count,
            f"{count} checkpoints are stored",
            timeout_s,
        )

    def assert_linear(self, thread_ids: list[str]) -> None:
        """Each thread has one history: every sequence number once, every step once, every checkpoint one child."""
        entries = defaultdict(list)
        for entry in self.db.notebook.find({"thread": {"$in": thread_ids}, "seq": {"$exists": True}}, {"body": 0}):
            entries[entry["thread"]].append(entry)
        assert set(entries) == set(thread_ids)
        for thread, found in entries.items():
            seqs = sorted(entry["seq"] for entry in found)
            assert seqs == list(range(1, len(seqs) + 1)), f"{thread}: sequence {seqs}"
            checkpoints = [entry for entry in found if entry["kind"] == "c"]
            steps = Counter((c["ns"], c["run"], c["step"]) for c in checkpoints)
            assert max(steps.values()) == 1, f"{thread}: {steps.most_common(3)}"
            children = Counter((c["ns"], c["parent"]) for c in checkpoints if c.get("parent"))
            assert max(children.values(), default=1) == 1, f"{thread}: forks at {children.most_common(3)}"
            root = sorted((c for c in checkpoints if c["ns"] == ""), key=lambda c: c["checkpoint_id"])
            assert [c.get("parent") for c in root[1:]] == [c["checkpoint_id"] for c in root[:-1]], f"{thread}: gap"

    def assert_indexed(self, opensearch_url: str, thread_ids: list[str], timeout_s: float = 30) -> None:
        """The index holds one document for every history entry of these threads, and nothing else of them."""
        query = {"thread": {"$in": thread_ids}, "seq": {"$exists": True}, "kind": {"$ne": "f"}}
        stored = {f"{e['thread']}:{e['seq']}" for e in self.db.notebook.find(query, {"thread": 1, "seq": 1})}

        def indexed() -> set[str]:
            found: set[str] = set()
            for i in range(0, len(thread_ids), 20):
                part = thread_ids[i : i + 20]
                body = {"query": {"terms": {"thread_id": part}}, "size": 10_000, "_source": False}
                answer = httpx.post(f"{opensearch_url}/perdure-states/_search", json=body, timeout=30)
                hits = answer.raise_for_status().json()["hits"]["hits"]
                ids = [hit["_id"] for hit in hits]
                assert len(ids) == len(set(ids)), "a state is indexed twice"
                found.update(ids)
            return found

        until_blocking(
            lambda: indexed() == stored,
            "the index holds the history of the threads",
            timeout_s,
            explain=lambda: (len(stored), len(indexed())),
        )


StartSystem = Callable[..., System]

running: list[Watched] = []
"""The systems that run at this moment."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the logs of the services before the fixtures of a failed test stop them."""
    report = yield
    if report.failed and running:
        report.sections.append(("service logs", keep(running, item.nodeid)))
    return report


def _start(stack: Stack, names: tuple[str, ...] | None, settings: dict[str, str], opened: list[System]) -> System:
    uri = stack.environment()["PERDURE_MONGODB_URI"].rpartition("/")[0] + f"/e2e_{uuid.uuid4().hex[:8]}"
    provision(stack.environment() | {"PERDURE_MONGODB_URI": uri})
    services = Services.of(stack, names, {**SETTINGS, "PERDURE_MONGODB_URI": uri, **settings}, cwd=GRAPHS)
    running.append(Watched.of(services))
    try:
        services.start()
    except BaseException:
        running.pop()
        raise
    opened.append(System(services, uri))
    return opened[-1]


def _stop(opened: list[System]) -> None:
    for system in opened:
        system.services.stop()
        running[:] = [watched for watched in running if watched.services is not system.services]
        system.close()


@pytest.fixture(scope="module")
def system(stack: Stack) -> Iterator[System]:
    """One of every service, for a module's tests."""
    opened: list[System] = []
    try:
        yield _start(stack, None, {}, opened)
    finally:
        _stop(opened)


@pytest.fixture(scope="module")
def start_module_system(stack: Stack) -> Iterator[StartSystem]:
    """As ``start_system``, for a system that serves a module's tests."""
    opened: list[System] = []

    def start(names: tuple[str, ...] | None = None, settings: dict[str, str] | None = None) -> System:
        return _start(stack, names, settings or {}, opened)

    yield start
    _stop(opened)


@pytest.fixture
def start_system(stack: Stack) -> Iterator[StartSystem]:
    """``start_system(names=..., settings=..., servers=...)``: a system of the test's own."""
    opened: list[System] = []

    def start(
        names: tuple[str, ...] | None = None, settings: dict[str, str] | None = None, servers: Stack | None = None
    ) -> System:
        return _start(servers or stack, names, settings or {}, opened)

    yield start
    _stop(opened)
