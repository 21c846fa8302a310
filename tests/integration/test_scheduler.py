"""The sweeps and the leadership on a real database and a real broker."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import confluent_kafka
import pytest

from perdure.chassis import mongo
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.leader import Leadership
from perdure.scheduler.settings import SchedulerSettings
from perdure.scheduler.sweeps import PORTION, WORKER_KEPT, Sweeper
from perdure.schemas import topics
from perdure.schemas.envelope import decode
from perdure.schemas.events import EVENTS, Event


@pytest.fixture
async def db(mongodb_uri: str) -> AsyncIterator[mongo.Database]:
    client = mongo.connect(mongodb_uri)
    name = f"scheduler_{uuid.uuid4().hex[:8]}"
    await mongo.ensure_indexes(client[name])
    yield client[name]
    await client.drop_database(name)
    client.close()


@pytest.fixture
async def producer(kafka_bootstrap: str) -> AsyncIterator[Producer]:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    made = Producer(kafka_bootstrap, "test")
    yield made
    assert await made.close() == 0


def run(status: str, **fields: Any) -> dict[str, Any]:
    old = datetime.now(UTC) - timedelta(hours=1)
    identity = uuid.uuid4().hex
    base = {
        "_id": identity,
        "tenant": "default",
        "thread_id": f"t{identity}",
        "graph_id": "g",
        "assistant_id": "g",
        "status": status,
        "owner": None,
        "epoch": 1,
        "settled": False,
        "created_at": old,
        "updated_at": old,
    }
    return base | fields


async def worker(db: mongo.Database, seconds: float) -> str:
    """A worker whose lease expires in so many seconds."""
    identity = uuid.uuid4().hex
    await db.workers.update_one(
        {"_id": identity}, [{"$set": {"state": "alive", "expires_at": mongo.from_now(seconds)}}], upsert=True
    )
    return identity


async def test_runs_of_dead_workers_are_given_back_and_those_of_living_are_not(
    db: mongo.Database, producer: Producer
) -> None:
    dead, alive = await worker(db, -1), await worker(db, 60)
    lost, kept = run("running", owner=dead), run("running", owner=alive)
    await db.runs.insert_many([lost, kept])
    sweeper = Sweeper(db, producer, DatabaseClock(db), SchedulerSettings())
    careful = await sweeper.recover(declare_dead=False)
    assert (careful.workers_dead, careful.recovered) == (0, 0)
    swept = await sweeper.recover(declare_dead=True)
    assert (swept.workers_dead, swept.recovered) == (1, 1)
    assert (await db.runs.find_one({"_id": lost["_id"]}))["status"] == "pending"  # type: ignore[index]
    assert (await db.runs.find_one({"_id": kept["_id"]}))["status"] == "running"  # type: ignore[index]
    assert (await sweeper.recover(declare_dead=True)).recovered == 0


async def test_workers_that_are_gone_are_forgotten_after_a_day(db: mongo.Database, producer: Producer) -> None:
    day = WORKER_KEPT.total_seconds()
    alive, lost, old_dead, old_gone, new_gone = [
        await worker(db, seconds) for seconds in (60, -2 * day, -2 * day, -2 * day, -60)
    ]
    await db.workers.update_one({"_id": old_dead}, {"$set": {"state": "dead"}})
    await db.workers.update_many({"_id": {"$in": [old_gone, new_gone]}}, {"$set": {"state": "gone"}})
    sweeper = Sweeper(db, producer, DatabaseClock(db), SchedulerSettings())
    await sweeper.recover(declare_dead=False)
    assert await db.workers.count_documents({}) == 5, "right after an outage nobody is judged"
    await sweeper.recover(declare_dead=True)
    left = {one["_id"] async for one in db.workers.find({})}
    assert left == {alive, new_gone}
    assert {lost, old_dead, old_gone}.isdisjoint(left)


async def test_a_forgotten_start_is_published_once_a_grace_period(db: mongo.Database, producer: Producer) -> None:
    await db.runs.insert_one(run("pending", epoch=0))
    sweeper = Sweeper(db, producer, DatabaseClock(db), SchedulerSettings())
    assert (await sweeper.sweep()).started == 1
    assert (await sweeper.sweep()).started == 0


async def test_the_events_of_an_unsettled_end_are_published_and_it_is_settled(
    db: mongo.Database, producer: Producer
) -> None:
    ended = run("success", first_seq=1, ended_seq=2)
    await db.runs.insert_one(ended)
    entry = {"kind": "e", "thread": ended["thread_id"], "run": ended["_id"], "epoch": 1, "at": datetime.now(UTC)}
    await db.notebook.insert_many(
        [
            entry | {"_id": "1", "seq": 1, "event": "started", "ev": {"worker_id": "w"}},
            entry | {"_id": "2", "seq": 2, "event": "success", "ev": {"checkpoint_id": None, "steps": 0}},
        ]
    )
    sweeper = Sweeper(db, producer, DatabaseClock(db), SchedulerSettings())
    assert (await sweeper.sweep()).settled == 1
    assert (await db.runs.find_one({"_id": ended["_id"]}))["settled"]  # type: ignore[index]
    assert (await sweeper.sweep()).settled == 0


async def test_an_event_that_kafka_refuses_is_published_without_its_large_parts_and_stops_nobody(
    db: mongo.Database, producer: Producer, kafka_bootstrap: str
) -> None:
    """Its metadata is larger than any record may be; another's document is damaged; a third run is healthy."""
    ended = [run("success", first_seq=1, ended_seq=1, metadata={"n": n}) for n in range(3)]
    ended[0]["metadata"] = {"large": os.urandom(5_000_000).hex()}
    del ended[1]["first_seq"]
    await db.runs.insert_many(ended)
    moment = datetime.now(UTC)
    await db.notebook.insert_many(
        [
            {
                "_id": one["_id"], "kind": "e", "thread": one["thread_id"], "run": one["_id"], "epoch": 1, "at": moment,
                "seq": 1, "event": "success", "ev": {"checkpoint_id": None, "steps": 0},
            }
            for one in ended
        ]
    )  # fmt: skip
    swept = await Sweeper(db, producer, DatabaseClock(db), SchedulerSettings()).sweep()
    settled = {one["_id"]: one["settled"] for one in await db.runs.find().to_list(None)}
    assert settled == {ended[0]["_id"]: True, ended[1]["_id"]: False, ended[2]["_id"]: True}
    assert (swept.settled, swept.refused) == (2, 1)
    found = await asyncio.to_thread(events_of, kafka_bootstrap, {ended[0]["thread_id"], ended[2]["thread_id"]})
    assert {one.thread_id: one.metadata for one in found} == {
        ended[0]["thread_id"]: {},
        ended[2]["thread_id"]: {"n": 2},
    }


def events_of(bootstrap: str, threads: set[str]) -> list[Event]:
    """The events of these threads, one each."""
    reader = confluent_kafka.Consumer(
        {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    )
    reader.subscribe([topics.EVENTS.name])
    found: dict[str, Event] = {}
    deadline = time.monotonic() + 60
    while set(found) != threads:
        assert time.monotonic() < deadline, f"only {set(found)} of {threads}"
        message = reader.poll(0.2)
        if message is None or message.error() or (message.key() or b"").decode() not in threads:
            continue
        decoded: Any = decode(message.headers(), message.value(), EVENTS).message  # type: ignore[arg-type]
        found[decoded.thread_id] = decoded
    reader.close()
    return [*found.values()]


async def test_after_a_crash_a_start_is_published_when_its_back_off_is_over(
    db: mongo.Database, producer: Producer
) -> None:
    now = datetime.now(UTC)
    crashed = {"updated_at": now, "swept_at": now - timedelta(seconds=9)}
    over = run("pending", **crashed, not_before=now - timedelta(seconds=1))
    await db.runs.insert_many([over, run("pending", **crashed, not_before=now + timedelta(hours=1))])
    sweeper = Sweeper(db, producer, DatabaseClock(db), SchedulerSettings())
    assert [(await sweeper.sweep()).started for _ in range(3)] == [1, 0, 0]
    swept = await db.runs.find_one({"_id": over["_id"]})
    assert swept is not None
    first = swept["swept_at"]
    await sweeper.sweep()
    assert await db.runs.find_one({"_id": over["_id"], "swept_at": first}), "what is not due is left untouched"


async def test_recovery_does_not_wait_for_the_sweep(db: mongo.Database, producer: Producer) -> None:
    """Ten thousand pending threads are swept in portions; the run of a dead worker is given back meanwhile."""
    await db.runs.insert_many([run("pending", epoch=0) for _ in range(10_000)])
    lost = run("running", owner=await worker(db, -1))
    await db.runs.insert_one(lost)
    sweeper = Sweeper(db, producer, DatabaseClock(db), SchedulerSettings())
    began = time.monotonic()
    assert (await sweeper.recover(declare_dead=True)).recovered == 1
    recovered_s = time.monotonic() - began
    swept = [await sweeper.sweep() for _ in range(11)]
    portion_s = (time.monotonic() - began - recovered_s) / 11
    assert [one.started for one in swept] == [PORTION] * 10 + [0], "each is started once, none is forgotten"
    assert recovered_s < 2
    print(f"recovered in {recovered_s:.3f} s; a portion of {PORTION} starts takes {portion_s:.3f} s")


async def test_enqueued_runs_of_busy_threads_do_not_hold_up_the_others(db: mongo.Database, producer: Producer) -> None:
    owner = await worker(db, 60)
    going = run("running", owner=owner)
    await db.runs.insert_one(going)
    await db.runs.insert_many([run("pending", epoch=0, thread_id=going["thread_id"]) for _ in range(PORTION)])
    await db.runs.insert_one(run("pending", epoch=0))
    sweeper = Sweeper(db, producer, DatabaseClock(db), SchedulerSettings())
    assert [(await sweeper.sweep()).started for _ in range(3)] in ([0, 1, 0], [1, 0, 0])


async def test_one_of_several_instances_leads(db: mongo.Database) -> None:
    instances = [Leadership(db, DatabaseClock(db), "role", "one name for all", ttl_s=1) for _ in range(5)]
    leads = await asyncio.gather(*(instance.acquire() for instance in instances))
    assert leads.count(True) == 1
    leader = instances[leads.index(True)]
    others = [instance for instance in instances if instance is not leader]
    assert await leader.acquire(), "the leader renews"
    assert not await others[0].acquire()
    await leader.resign()
    assert await others[0].acquire(), "after a resignation nobody waits"
    deadline = asyncio.get_running_loop().time() + 10
    while not await others[1].acquire():  # the lease of a dead leader expires
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    assert not await others[0].acquire()
