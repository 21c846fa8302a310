"""Kafka refuses the events of a thread for a while: they come afterwards, in the order of the thread's history."""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import Any

import pytest
from tests.chaos.faults import read_topic
from tests.chaos.refusal import refuse
from tests.support.polling import until

from perdure.agent_step.backlog import Backlog
from perdure.agent_step.publisher import RunEvents
from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.schemas import topics

DEADLINE_S = 60.0


@pytest.mark.timeout(120)
async def test_events_keep_their_order_across_a_refusal(kafka_bootstrap: str) -> None:
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    thread = f"thread-{uuid.uuid4().hex}"
    run: Any = {
        "_id": f"{thread}-run", "thread_id": thread, "tenant": "default", "graph_id": "g", "assistant_id": "a",
        "graph_version": None, "metadata": {},
    }  # fmt: skip
    stored: list[dict[str, Any]] = []

    async def read(seq: int) -> list[dict[str, Any]]:
        return [entry for entry in stored if entry["seq"] >= seq]

    producer = Producer(kafka_bootstrap, "test")
    backlog = Backlog(producer, {run["_id"]: run}, read, "test")
    settled: list[Any] = []
    events = RunEvents(producer, run, settled.append, backlog)

    def append(seq: int) -> None:
        ev = {"worker_id": "w", "next": ["n"]}
        entry = {
            "kind": "e", "thread": thread, "run": run["_id"], "epoch": 1, "seq": seq, "at": now(), "event": "started",
            "ev": ev,
        }  # fmt: skip
        stored.append(entry)
        events.publish(entry)

    append(1)
    await until(lambda: not producer.waiting, "the first event is acknowledged")
    over = threading.Event()
    refusing = asyncio.create_task(
        asyncio.to_thread(refuse, {"bootstrap.servers": kafka_bootstrap}, topics.EVENTS.name, DEADLINE_S, over)
    )
    seq = 1
    try:
        while not backlog.holds(0):  # the brokers take a moment to learn of the setting
            seq += 1
            append(seq)
            await asyncio.sleep(0.05)
        for later in range(seq + 1, seq + 6):
            append(later)
    finally:
        over.set()
        await refusing
    seq += 5
    await until(lambda: not backlog.holds(0), "the backlog is published")
    append(seq + 1)
    await producer.close()
    await backlog.close()
    records = await asyncio.to_thread(read_topic, {"bootstrap.servers": kafka_bootstrap}, topics.EVENTS.name)
    ids = [dict(r.headers())["ce_id"].decode() for r in records if r.key() == thread.encode()]
    assert list(dict.fromkeys(ids)) == [f"{thread}:{n}" for n in range(1, seq + 2)]
    assert not await events.end(), "a run whose events were refused is left to the sweep"
