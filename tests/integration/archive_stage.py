"""A database with ended threads that have something everywhere, an archive store, and a real S3 server."""

from __future__ import annotations

import asyncio
import operator
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from tests.support.certificates import Authority
from tests.support.polling import until, until_blocking

from perdure.archive.archiving import Archiver
from perdure.archive.policy import RetentionPolicy
from perdure.archive.restoring import Restorer
from perdure.archive.sources import SOURCES, Owner, documents
from perdure.archive.store import ArchiveStore
from perdure.chassis import mongo
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.payload import pack
from perdure.checkpoint import PerdureSaver, keys
from perdure.local.resources import free_port
from perdure.local.settings import LocalSettings
from perdure.registry.runs import new_id, run_document
from perdure.registry.subscriptions import scope_key
from perdure.registry.threads import thread_document
from perdure.scheduler.archive import Archiving
from perdure.scheduler.settings import SchedulerSettings
from perdure.schemas import topics
from perdure.schemas.notices import Scope

LONG_AGO = datetime.now(UTC).replace(microsecond=0) - timedelta(days=60)
LEASE_S = 1.0
VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
ACCESS, SECRET = "perdure", "of these tests"

Document = dict[str, Any]


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    count: int


def work(state: State) -> State:
    count = state.get("count", 0) + 1
    return {"count": count, "log": [f"step {count} " + "x" * 2_000]}


class Stage:
    """One database and one archive store."""

    def __init__(
        self, db: mongo.Database, producer: Producer, store: ArchiveStore, *, uri: str = "", kafka: str = ""
    ) -> None:
        self.uri, self.kafka = uri, kafka
        self.db = db
        self.producer = producer
        self.store = store
        self.saver = PerdureSaver(db)
        builder = StateGraph(State)
        builder.add_node("work", work)
        builder.add_edge(START, "work")
        builder.add_conditional_edges("work", lambda state: "work" if state["count"] % 10 else "__end__")
        self.graph = builder.compile(checkpointer=self.saver)

    @property
    def archiver(self) -> Archiver:
        return Archiver(self.db, self.store, self.producer, "test", LEASE_S)

    @property
    def restorer(self) -> Restorer:
        return Restorer(self.db, self.store, self.producer, "test", LEASE_S)

    def scheduler(self, policy: RetentionPolicy | None = None) -> Archiving:
        """Another leader, that knows nothing yet."""
        settings = SchedulerSettings(archive_share=1.0, archive_lease_s=LEASE_S)
        return Archiving(self.db, self.store, policy or RetentionPolicy(), self.producer, settings)

    async def thread(self, **fields: Any) -> str:
        """A thread that ended long ago; ``fields`` are set in its document."""
        thread_id = new_id()
        await self.go_on(thread_id)
        run = await self.run(thread_id, status="success", settled=True, ended_at=LONG_AGO, ended_seq=2, first_seq=1)
        thread = thread_document(thread_id, "default", {"of": "test"}, LONG_AGO)
        newest = await self.saver.aget_tuple({"configurable": {"thread_id": thread_id}})
        assert newest is not None
        ended = {"status": "idle", "seq": 2, "ended_run_id": run["_id"], "graph_id": "g", "assistant_id": "a"}
        await self.db.threads.insert_one({**thread, **ended, "head": newest.checkpoint["id"], **fields})
        await self._surroundings(thread_id, run)
        return thread_id

    async def go_on(self, thread_id: str) -> Document:
        """Ten more supersteps of its graph."""
        values: Document = await self.graph.ainvoke({}, {"configurable": {"thread_id": thread_id}})
        return values

    async def run(self, thread_id: str, **fields: Any) -> Document:
        """A run of the thread, pending unless ``fields`` say something else."""
        packed = pack({"input": None})
        run: Document = {
            **run_document(
                tenant="default",
                thread_id=thread_id,
                graph_id="g",
                graph_version=None,
                packed=packed,
                metadata={},
                traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
                moment=LONG_AGO,
                idempotency_key=new_id(),
            ),
            "epoch": 1,
            **fields,
        }
        await self.db.runs.insert_one(run)
        return run

    async def _surroundings(self, thread_id: str, run: Document) -> None:
        """Something in every collection."""
        mine = {"thread_id": thread_id, "tenant": "default"}
        await self.db.runs.update_one({"_id": run["_id"]}, {"$set": {"payload_chunks": 2}})
        await self.db.payloads.insert_many([{"_id": f"{run['_id']}:{n}", "data": os.urandom(50_000)} for n in range(2)])
        await self.db.waits.insert_one({"_id": f"{thread_id}:i", **mine, "status": "answered", "kind": "approval"})
        signal = {"_id": new_id(), **mine, "name": "go", "state": "taken", "offered": True, "created_at": LONG_AGO}
        await self.db.signals.insert_one(signal)
        effect = {"_id": f"{thread_id}:buy", **mine, "state": "done", "guards": [new_id()], "receipt": b"\x01"}
        await self.db.effects.insert_one(effect)
        sent = {"_id": new_id(), **mine, "state": "delivered", "told": True, "created_at": LONG_AGO}
        await self.db.deliveries.insert_one(sent)
        key = scope_key("default", Scope.THREAD, thread_id)
        await self.db.subscriptions.insert_one({"_id": new_id(), "tenant": "default", "scope_key": key})
        transition = {"_id": keys.entry(thread_id, 2), "kind": "e", "thread": thread_id, "run": run["_id"], "seq": 2}
        ended = {"epoch": 1, "event": "success", "at": LONG_AGO, "ev": {"checkpoint_id": None, "steps": 10}}
        await self.db.notebook.insert_one({**transition, **ended})

    async def document(self, thread_id: str) -> Document:
        found: Document | None = await self.db.threads.find_one({"_id": thread_id})
        assert found is not None
        return found

    async def snapshot(self, thread_id: str) -> dict[str, list[bytes]]:
        """Every document of a thread as its bytes, without what is told of its archiving."""
        found: dict[str, list[bytes]] = {}
        for source in SOURCES:
            async for portion in documents(self.db, source, Owner("default", thread_id)):
                kept = [bytes(one.raw) for one in portion if one.get("event") not in ("archived", "restored")]
                found.setdefault(source, []).extend(kept)
        return {source: kept for source, kept in found.items() if kept}

    async def slot(self, thread_id: str) -> Document | None:
        return await self.db.runs.find_one({"_id": f"archive:{thread_id}"})

    async def told(self, thread_id: str) -> list[str]:
        """What was told of its archiving, in order; all of it is published."""
        notes = await self.db.notebook.find(keys.query(keys.of_kind(thread_id, keys.NOTE))).to_list(None)
        assert all(note["published"] for note in notes)
        return [note["event"] for note in sorted(notes, key=lambda note: (note["after"], note["note"]))]

    async def finish(self, thread_id: str, timeout_s: float = 20.0) -> Document:
        """Let schedulers go on with what is left of work on a thread, until nothing is."""

        async def look() -> Document:
            await self.scheduler().finish()
            return await self.document(thread_id)

        what = f"no work on thread {thread_id} is left"
        return await until(look, what, timeout_s, holds=lambda found: "expires_at" not in found.get("archive", {}))


@asynccontextmanager
async def opened(uri: str, kafka_bootstrap: str, store: ArchiveStore) -> AsyncIterator[Stage]:
    client = mongo.connect(uri)
    name = f"archive_{uuid.uuid4().hex[:8]}"
    await mongo.ensure_indexes(client[name])
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    producer = Producer(kafka_bootstrap, "test")
    stage = Stage(client[name], producer, store, uri=uri, kafka=kafka_bootstrap)
    await stage.saver.ensure_indexes()
    yield stage
    await stage.saver.aclose()
    await producer.close()
    await client.drop_database(name)
    client.close()


def objects(folder: Path) -> list[Path]:
    return [path for path in (folder / "archive").rglob("*") if path.is_file()]


class Gate(ArchiveStore):
    """A store that lets something happen right before an object is stored, or right after."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.before: Any = None
        self.after: Any = None

    async def put(self, key: str, pieces: AsyncIterator[bytes]) -> None:
        if self.before:
            await self.before()
        await super().put(key, pieces)
        if self.after:
            await self.after()


def place(thread_id: str) -> dict[str, Any]:
    return {"_id": new_id(), "thread_id": thread_id, "tenant": "default"}


def run_victim(
    stage: Stage, folder: Path, thread_id: str, point: str, number: str = "SIGKILL"
) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("archive_victim.py")
    arguments = [stage.uri, stage.db.name, stage.kafka, str(folder / "archive"), thread_id, point, number]
    return subprocess.Popen(
        [sys.executable, str(script), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


async def kill(stage: Stage, folder: Path, thread_id: str, point: str) -> None:
    """Let a process work on the thread until it is killed right before that point."""
    process = run_victim(stage, folder, thread_id, point)
    out, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == -signal.SIGKILL, f"{out}\n{err}"


@contextmanager
def s3_server(authority: Authority | None = None) -> Iterator[tuple[str, dict[str, str]]]:
    """A real S3 server over a folder: the URL of a bucket, and the options to reach it. With an authority the server speaks TLS."""
    program = _versitygw()
    port = free_port()
    scheme, certificate = ("http", []) if authority is None else ("https", _certified(authority))
    with tempfile.TemporaryDirectory(prefix="perdure-s3-") as folder:
        (Path(folder) / "archive").mkdir()
        command = [
            program,
            "--access",
            ACCESS,
            "--secret",
            SECRET,
            "--port",
            f"127.0.0.1:{port}",
            *certificate,
            "posix",
            folder,
        ]
        with (Path(folder) / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
            try:
                _await_answer(port, server)
                options = {
                    "endpoint": f"{scheme}://127.0.0.1:{port}",
                    "allow_http": "true" if authority is None else "false",
                    "region": "us-east-1",
                    "access_key_id": ACCESS,
                    "secret_access_key": SECRET,
                    "virtual_hosted_style_request": "false",
                }
                yield f"s3://archive/{uuid.uuid4().hex[:8]}", options
            finally:
                server.terminate()


def _certified(authority: Authority) -> list[str]:
    cert_file, key_file = authority.issue("archive")
    return ["--cert", str(cert_file), "--key", str(key_file)]


def _await_answer(port: int, server: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            assert server.poll() is None, "versitygw ended"
            return False
        return True

    until_blocking(answers, "versitygw answers")


def _versitygw() -> str:
    """On the PATH, in the cache, or built into the cache where Go is."""
    version = VERSITYGW.rpartition("@v")[2]
    folder = LocalSettings().cache_dir / f"versitygw-{version}"
    found = shutil.which("versitygw") or shutil.which(str(folder / "versitygw"))
    if found is None and shutil.which("go"):
        environment = {**os.environ, "GOBIN": str(folder)}
        subprocess.run(["go", "install", VERSITYGW], env=environment, check=True, timeout=900)
        found = str(folder / "versitygw")
    if found is None:
        message = f"no S3 server: install versitygw, or Go so that it can be built ({VERSITYGW})"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return found
