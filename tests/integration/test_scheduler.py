"""The sweeps and the leadership on a real database and a real broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.chassis import mongo
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.scheduler.leader import Leadership
from perdure.scheduler.settings import SchedulerSettings
from perdure.scheduler.sweeps import Sweeper
from perdure.schemas import topics


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
    sweeper = Sweeper(db, producer, SchedulerSettings())
    careful = await sweeper.sweep(declare_dead=False)
    assert (careful.workers_dead, careful.recovered) == (0, 0)
    swept = await sweeper.sweep(declare_dead=True)
    assert (swept.workers_dead, swept.recovered) == (1, 1)
    assert (await db.runs.find_one({"_id": lost["_id"]}))["status"] == "pending"  # type: ignore[index]
    assert (await db.runs.find_one({"_id": kept["_id"]}))["status"] == "running"  # type: ignore[index]
    assert (await sweeper.sweep(declare_dead=True)).recovered == 0


async def test_a_forgotten_start_is_published_once_a_grace_period(db: mongo.Database, producer: Producer) -> None:
    await db.runs.insert_one(run("pending", epoch=0))
    sweeper = Sweeper(db, producer, SchedulerSettings())
    assert (await sweeper.sweep(declare_dead=True)).started == 1
    assert (await sweeper.sweep(declare_dead=True)).started == 0


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
    sweeper = Sweeper(db, producer, SchedulerSettings())
    assert (await sweeper.sweep(declare_dead=True)).settled == 1
    assert (await db.runs.find_one({"_id": ended["_id"]}))["settled"]  # type: ignore[index]
    assert (await sweeper.sweep(declare_dead=True)).settled == 0


async def test_one_of_several_instances_leads(db: mongo.Database) -> None:
    instances = [Leadership(db, "role", f"instance-{i}", ttl_s=1) for i in range(5)]
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
