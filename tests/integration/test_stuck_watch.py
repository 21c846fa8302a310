"""The watch over threads on a real database: each standstill is told of once, whoever dies, and taken off when it is over."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.chassis import mongo
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.registry.notes import Notes
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.settings import SchedulerSettings
from perdure.scheduler.stuck import StuckWatch
from perdure.schemas import topics
from perdure.schemas.events import ThreadRecovered, ThreadStuck
from perdure.schemas.outbox import event_of

LONG_AGO = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)


@dataclass
class Scene:
    """Threads of a database, and the watch over them."""

    db: mongo.Database
    producer: Producer

    def watch(self) -> StuckWatch:
        """Another leader: it remembers nothing."""
        settings = SchedulerSettings(stuck_grace_s=0, stuck_unclaimed_s=60, stuck_queued_s=7200)
        return StuckWatch(self.db, Notes(self.db, self.producer, "test"), DatabaseClock(self.db), settings)

    async def run(self, status: str, **fields: Any) -> dict[str, Any]:
        identity = uuid.uuid4().hex
        run = {
            "_id": identity,
            "tenant": "default",
            "thread_id": f"t{identity}",
            "graph_id": "g",
            "assistant_id": "g",
            "status": status,
            "owner": "worker" if status == "running" else None,
            "epoch": 1,
            "settled": status not in {"pending", "running"},
            "started_at": LONG_AGO,
            "updated_at": LONG_AGO,
            **fields,
        }
        await self.db.runs.insert_one(dict(run))
        await self.db.threads.insert_one({"_id": run["thread_id"], "tenant": "default", "seq": 1, "next": ["Login"]})
        return run

    async def entry(self, run: dict[str, Any], seq: int, expected_by: datetime) -> None:
        await self.db.notebook.insert_one(
            {
                "_id": f"{run['thread_id']}-{seq}",
                "kind": "c",
                "thread": run["thread_id"],
                "run": run["_id"],
                "epoch": 1,
                "seq": seq,
                "at": LONG_AGO,
                "ns": "",
                "checkpoint_id": f"c{seq}",
                "step": seq,
                "ev": {"source": "loop", "next": ["Login"], "expected_by": expected_by},
            }
        )

    async def told(self, run: dict[str, Any]) -> list[Any]:
        """The events about a thread, in order."""
        notes = await self.db.notebook.find({"thread": run["thread_id"], "kind": "n"}).to_list(None)
        assert all(note["published"] for note in notes)
        return [event_of(run, note) for note in sorted(notes, key=lambda note: (note["after"], note["note"]))]

    async def mark(self, run: dict[str, Any]) -> Any:
        return (await self.db.threads.find_one({"_id": run["thread_id"]})).get("stuck")


@pytest.fixture
async def scene(database_uri: str, kafka_bootstrap: str) -> AsyncIterator[Scene]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    client = mongo.connect(database_uri)
    name = f"stuck_{uuid.uuid4().hex[:8]}"
    await mongo.ensure_indexes(client[name])
    producer = Producer(kafka_bootstrap, "test")
    yield Scene(client[name], producer)
    assert await producer.close() == 0
    await client.drop_database(name)
    client.close()


async def test_an_overdue_superstep_is_told_of_once_and_so_is_its_end(scene: Scene) -> None:
    late = await scene.run("running")
    await scene.entry(late, 1, LONG_AGO + timedelta(minutes=1))
    await scene.entry(late, 2, LONG_AGO + timedelta(minutes=2))
    in_time = await scene.run("running")
    await scene.entry(in_time, 1, datetime.now(UTC) + timedelta(hours=1))
    watch = scene.watch()
    for leader in (watch, watch, scene.watch()):
        await leader.turn()
    (stuck,) = await scene.told(late)
    assert isinstance(stuck, ThreadStuck)
    assert (stuck.code, stuck.seq, stuck.next, stuck.since) == ("overdue", 2, ("Login",), LONG_AGO)
    assert (await scene.mark(late))["node"] == "Login"
    assert (await scene.told(in_time), await scene.mark(in_time)) == ([], None)

    await scene.entry(late, 3, datetime.now(UTC) + timedelta(hours=1))
    for leader in (watch, scene.watch()):
        await leader.turn()
    _, recovered = await scene.told(late)
    assert isinstance(recovered, ThreadRecovered)
    assert (recovered.code, recovered.seq, recovered.status, recovered.stuck_since) == (
        "overdue",
        3,
        "running",
        LONG_AGO,
    )
    assert await scene.mark(late) is None


@pytest.mark.parametrize(("next_run", "status"), [(None, "error"), ("pending", "running")])
async def test_a_thread_whose_run_has_ended_is_not_told_of_as_running(
    scene: Scene, next_run: str | None, status: str
) -> None:
    late = await scene.run("running")
    await scene.entry(late, 1, LONG_AGO + timedelta(minutes=1))
    await scene.watch().turn()
    assert (await scene.mark(late))["code"] == "overdue"
    # The end of the run is in its history, and its document does not say so yet.
    at = datetime.now(UTC)
    end = {"kind": "e", "event": "error", "thread": late["thread_id"], "run": late["_id"], "epoch": 1, "at": at}
    await scene.db.notebook.insert_one({**end, "_id": f"{late['thread_id']}-2", "seq": 2, "ev": {"next": ["Login"]}})
    if next_run is not None:
        await scene.db.runs.insert_one({**late, "_id": uuid.uuid4().hex, "status": next_run, "owner": None})
    await scene.watch().turn()
    _, recovered = await scene.told(late)
    assert isinstance(recovered, ThreadRecovered)
    assert (recovered.status, recovered.seq) == (status, 2)


async def test_a_leader_that_dies_between_event_and_mark_is_followed_without_a_second_event(scene: Scene) -> None:
    late = await scene.run("running")
    await scene.entry(late, 1, LONG_AGO)
    await scene.watch().turn()
    await scene.db.threads.update_one({"_id": late["thread_id"]}, {"$unset": {"stuck": ""}})
    await scene.db.notebook.update_one({"thread": late["thread_id"], "kind": "n"}, {"$set": {"published": False}})
    await scene.watch().turn()
    assert len(await scene.told(late)) == 1, "and it is published"
    assert await scene.mark(late) is not None


async def test_a_wait_that_the_clock_forgot(scene: Scene) -> None:
    run = await scene.run("interrupted", ended_seq=4, ended_at=LONG_AGO, next=["ask"])
    wait = {"_id": f"{run['thread_id']}:i", "thread_id": run["thread_id"], "run_id": run["_id"], "nodes": ["ask"]}
    await scene.db.waits.insert_one(wait | {"status": "open", "due_at": LONG_AGO})
    await scene.watch().turn()
    (stuck,) = await scene.told(run)
    assert (stuck.code, stuck.next, stuck.expected_by) == ("wait_overdue", ("ask",), LONG_AGO)
    await scene.db.waits.update_one({"_id": wait["_id"]}, {"$set": {"status": "answered"}})
    await scene.watch().turn()
    assert [event.TYPE for event in await scene.told(run)] == ["perdure.thread.stuck", "perdure.thread.recovered"]


async def test_a_queue_is_no_fault_and_a_graph_that_nobody_serves_is(scene: Scene) -> None:
    await scene.db.workers.insert_one({"_id": "w", "state": "alive", "graphs": ["busy"], "host": "h", "pid": 1})
    orphan = await scene.run("pending", graph_id="orphan")
    queued = await scene.run("pending", graph_id="busy", updated_at=datetime.now(UTC) - timedelta(minutes=30))
    await scene.watch().turn()
    (stuck,) = await scene.told(orphan)
    assert (stuck.code, stuck.next) == ("unclaimed", ("Login",))
    assert await scene.told(queued) == []


async def test_many_that_are_stuck_are_watched_together(scene: Scene) -> None:
    runs = [await scene.run("running") for _ in range(120)]
    for run in runs:
        await scene.entry(run, 1, LONG_AGO)
    watch = scene.watch()
    await watch.turn()
    assert await scene.db.threads.count_documents({"stuck.code": "overdue"}) == 120
    for run in runs[::2]:
        await scene.entry(run, 2, datetime.now(UTC) + timedelta(hours=1))
    await watch.turn()
    assert await scene.db.threads.count_documents({"stuck.code": "overdue"}) == 60
