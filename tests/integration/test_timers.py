"""The scheduler's clock on a real database: lateness among many sleepers, shared work, a dead instance, races, escalation."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.chassis import mongo
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.outage import Availability
from perdure.chassis.payload import pack, unpack
from perdure.local.stack import Stack
from perdure.registry.signals import Signals
from perdure.registry.waits import Waits
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.shares import Members, Shares
from perdure.scheduler.timers import Timers
from perdure.schemas.documents import WaitDocument
from perdure.schemas.waits import wait_id

DEADLINE_S = 30.0
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
        await eventually(lambda: self.members(count))
        return started

    async def members(self, count: int) -> bool:
        now = await mongo.server_time(self.db)
        return await self.db.schedulers.count_documents({"expires_at": {"$gt": now}}) == count


@pytest.fixture
async def base(own_mongodb: Stack) -> AsyncIterator[Base]:
    uri = own_mongodb.environment()["PERDURE_MONGODB_URI"]
    client = mongo.connect(uri)
    made = Base(uri, mongo.database(client, uri), [])
    await mongo.ensure_indexes(made.db)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()
    client.close()


@pytest.fixture
def producer() -> Iterator[Producer]:
    made = Producer(NO_KAFKA, "test")
    yield made
    made.abandon() if hasattr(made, "abandon") else None


async def eventually(holds: Callable[[], Awaitable[bool]], within_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + within_s
    while not await holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)


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


async def insert(db: mongo.Database, waits: Sequence[WaitDocument]) -> None:
    for first in range(0, len(waits), 2_000):
        await db.waits.insert_many(waits[first : first + 2_000], ordered=False)


async def lateness(db: mongo.Database, due: dict[str, datetime]) -> list[float]:
    """Seconds from each wait's due time to the run that woke it, ascending; each has exactly one."""
    runs = await db.runs.find({"wait_id": {"$in": list(due)}}, {"wait_id": 1, "created_at": 1}).to_list(None)
    assert len(runs) == len(due), "a wait was woken twice"
    assert {run["wait_id"] for run in runs} == set(due)
    return sorted((run["created_at"] - due[run["wait_id"]]).total_seconds() for run in runs)


def p99(ascending: Sequence[float]) -> float:
    return ascending[int(len(ascending) * 0.99)]


async def all_woken(db: mongo.Database, count: int) -> bool:
    return await db.waits.count_documents({"status": "answered"}) >= count


def spread(start: datetime, number: int, count: int, seconds: float) -> list[WaitDocument]:
    """``count`` waits, due one after the other within ``seconds``."""
    return [sleeper(number + n, start + timedelta(seconds=n * seconds / count)) for n in range(count)]


async def test_among_100_000_sleepers_those_that_are_due_wake_in_time(base: Base) -> None:
    await base.start_schedulers(2)
    future = await mongo.server_time(base.db) + timedelta(days=1)
    await insert(base.db, [sleeper(n, future + timedelta(seconds=n)) for n in range(100_000)])
    start = await mongo.server_time(base.db) + timedelta(seconds=3)
    waits = spread(start, 100_000, 2_000, 10) + [
        sleeper(200_000 + n, start + timedelta(seconds=5)) for n in range(2_000)
    ]
    await insert(base.db, waits)
    await eventually(lambda: all_woken(base.db, len(waits)))
    late = await lateness(base.db, {wait["_id"]: wait["due_at"] for wait in waits})
    print(f"lateness of {len(late)}: p50 {late[len(late) // 2]:.3f} s, p99 {p99(late):.3f} s, max {late[-1]:.3f} s")
    assert late[0] >= 0, "woken too early"
    assert p99(late) < 1
    assert await base.db.waits.count_documents({"due_at": {"$exists": True}}) == 100_000, "the others sleep on"


async def test_the_death_of_one_of_three_instances_delays_nothing_and_doubles_nothing(base: Base) -> None:
    victim, *_ = await base.start_schedulers(3)
    start = await mongo.server_time(base.db) + timedelta(seconds=1)
    waits = spread(start, 0, 1_600, 8)
    await insert(base.db, waits)
    await eventually(lambda: all_woken(base.db, 400))
    victim.send_signal(signal.SIGKILL)
    await eventually(lambda: all_woken(base.db, len(waits)))
    late = await lateness(base.db, {wait["_id"]: wait["due_at"] for wait in waits})
    print(f"lateness of {len(late)}: p50 {late[len(late) // 2]:.3f} s, p99 {p99(late):.3f} s, max {late[-1]:.3f} s")
    assert p99(late) < 1
