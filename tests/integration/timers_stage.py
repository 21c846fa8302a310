"""A database with sleepers and schedules, scheduler processes that work on it, and the parts of one without its loops."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.polling import until

from perdure.chassis import mongo
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.outage import Availability
from perdure.chassis.payload import pack
from perdure.chassis.signatures import Signatures
from perdure.local.stack import Stack
from perdure.registry.notes import Notes
from perdure.registry.schedules import Schedules
from perdure.registry.signals import Signals
from perdure.registry.waits import Waits
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.escalation import Escalations
from perdure.scheduler.shares import Members, Shares
from perdure.scheduler.timers import Timers
from perdure.scheduler.unfinished import Unfinished
from perdure.schemas.documents import WaitDocument
from perdure.schemas.schedule_documents import ScheduleDocument
from perdure.schemas.waits import wait_id

DEADLINE_S = 90.0
NO_KAFKA = "127.0.0.1:9"
"""Starts that are not published are left to the sweep: the runs are what counts here."""


@dataclass
class Base:
    """A database of the test's own, and the scheduler processes that work on it."""

    uri: str
    db: mongo.Database
    processes: list[subprocess.Popen[bytes]]

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PERDURE_MONGODB_URI": self.uri,
            "PERDURE_KAFKA_BOOTSTRAP_SERVERS": NO_KAFKA,
            "PERDURE_LOG_LEVEL": "CRITICAL",
        }
        process = subprocess.Popen([sys.executable, "-m", "perdure.scheduler"], env=environment)
        self.processes.append(process)
        return process

    async def start_schedulers(self, count: int) -> list[subprocess.Popen[bytes]]:
        started = [self.start_scheduler() for _ in range(count)]
        await until(lambda: self.members(count), f"{count} schedulers", DEADLINE_S, every_s=0.1)
        return started

    async def members(self, count: int) -> bool:
        now = await mongo.server_time(self.db)
        return await self.db.schedulers.count_documents({"expires_at": {"$gt": now}}) == count


@pytest.fixture(name="base")
async def timers_base(own_mongodb: Stack) -> AsyncIterator[Base]:
    uri = own_mongodb.environment()["PERDURE_MONGODB_URI"]
    client = mongo.connect(uri)
    made = Base(uri, mongo.database(client, uri), [])
    await mongo.ensure_indexes(made.db)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()
    client.close()


@dataclass
class Clockwork:
    """What one instance is made of, without its loops."""

    waits: Waits
    signals: Signals
    unfinished: Unfinished
    schedules: Schedules
    timers: Timers


@pytest.fixture(name="clockwork")
async def timers_clockwork(base: Base) -> AsyncIterator[Clockwork]:
    availability = Availability()
    producer = Producer(NO_KAFKA, "test")
    runs = GroupCommit(base.db.runs, availability=availability)
    waits = Waits(base.db, runs, producer, availability, "test")
    yield Clockwork(
        waits,
        signals := Signals(base.db, waits, availability),
        Unfinished(base.db, producer, signals, DatabaseClock(base.db), Signatures([])),
        Schedules(base.db, runs, producer, availability, "test"),
        Timers(
            base.db,
            waits,
            DatabaseClock(base.db),
            Shares(Members(base.db, DatabaseClock(base.db), "test")),
            Escalations(base.db, Notes(base.db, producer, "test")),
        ),
    )
    await waits.aclose()
    await producer.close(0)


def sleeper(number: int, due_at: datetime, **fields: Any) -> WaitDocument:
    thread = f"thread-{number}"
    wait: WaitDocument = {
        "_id": wait_id(thread, "i"),
        "tenant": "default",
        "thread_id": thread,
        "interrupt_id": "i",
        "run_id": f"run-{number}",
        "graph_id": "g",
        "graph_version": "v",
        "assistant_id": "g",
        "metadata": {},
        "traceparent": None,
        "nodes": ["n"],
        "kind": "timer",
        "status": "open",
        "opened_at": datetime.now(UTC),
        "due_at": due_at,
        "events": [],
        "question": None,
        "assigned_to": None,
        "escalations": 0,
        "validation": None,
    }
    return {**wait, **fields}  # type: ignore[typeddict-item]


def schedule(identity: str, next_at: datetime, **fields: Any) -> ScheduleDocument:
    document: ScheduleDocument = {
        "_id": identity,
        "tenant": "default",
        "graph_id": "g",
        "assistant_id": "g",
        "thread_id": None,
        "cron": "* * * * * *",
        "timezone": "UTC",
        "payload": pack({"input": {"topic": "whales"}}).inline,
        "metadata": {"team": "sea"},
        "overlap": "allow",
        "catch_up_s": 3600.0,
        "paused": False,
        "end_at": None,
        "next_at": next_at,
        "revision": 1,
        "created_at": next_at,
        "updated_at": next_at,
        "fired": 0,
        "skipped": 0,
        "missed": 0,
    }
    return {**document, **fields}  # type: ignore[typeddict-item]


async def woken(db: mongo.Database, count: int) -> bool:
    """Whether so many waits were woken; by an index, for polling it must not slow down what it watches."""
    return await db.runs.count_documents({"idempotency_key": {"$exists": True}, "tenant": "default"}) >= count


async def all_woken(db: mongo.Database, count: int) -> bool:
    """Whether so many waits were woken, and no document lags behind."""
    if not await woken(db, count):
        return False
    now = await mongo.server_time(db)
    return await db.waits.find_one({"due_at": {"$lte": now}}, {"_id": 1}) is None


async def until_woken(db: mongo.Database, count: int) -> None:
    """Until so many waits were woken, and no document lags behind."""
    await until(lambda: all_woken(db, count), f"{count} waits are woken", DEADLINE_S, every_s=0.1)
