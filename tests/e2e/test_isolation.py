"""A record that its handler cannot take: it is dead-lettered alone, by each consumer, and the service goes on.

Each test gives one real service a record (with what it finds in the database or in the world) that its code at this commit has
no answer to, between two good ones.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from tests.support.polling import until_blocking

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.registry.runs import assistant_id_of
from perdure.schemas import topics
from perdure.schemas.commands import StartReason, StartRun
from perdure.schemas.envelope import encode
from perdure.schemas.events import InterruptInfo, RunInterrupted, RunSucceeded
from perdure.schemas.message import Message
from perdure.schemas.validation import PremisesValidated, Verdict, VerdictOutcome
from perdure.schemas.waits import Question, Wait, WaitKind, wait_id

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def world(system: Any, kafka_bootstrap: str, opensearch_url: str) -> Iterator[Any]:
    """The system, with the processes that it has now: none of them may be another one afterwards."""
    system.kafka, system.opensearch = kafka_bootstrap, opensearch_url
    before = {service.name: service.pid for service in system.services.processes.values()}
    yield system
    assert all(service.running for service in system.services.processes.values())
    assert {service.name: service.pid for service in system.services.processes.values()} == before
    for service in system.services.processes.values():
        assert httpx.get(f"{service.address}/ready", timeout=10).status_code == 200, service.name


def send(system: Any, topic: topics.Topic, *messages: Message) -> None:
    """Write messages to a topic, in this order."""

    async def write() -> None:
        producer = Producer(system.kafka, "test")
        for message in messages:
            record = encode(message, id=uuid.uuid4().hex, source="test", correlation_id="test", time=now())
            await producer.send(topic.name, system.signatures.signed(topic.name, record))
        await producer.close()

    asyncio.run(write())


def letter_of(system: Any, thread: str) -> Any:
    """The dead letter of a thread."""
    query = {"thread_id": thread}
    return until_blocking(
        lambda: system.db.dead_letters.find_one(query),
        "the dead letter",
        explain=lambda: system.db.dead_letters.distinct("detail"),
    )


def unique() -> str:
    return uuid.uuid4().hex


def ended(thread: str, occurred_at: datetime, **more: Any) -> RunSucceeded:
    fields = {
        "run_id": f"{thread}-run",
        "graph_id": "chain",
        "assistant_id": assistant_id_of("chain"),
        "seq": 1,
        "epoch": 1,
    }
    return RunSucceeded(tenant="default", thread_id=thread, occurred_at=occurred_at, steps=1, **(fields | more))


def indexed(system: Any, thread: str) -> bool:
    body = {"query": {"term": {"thread_id": thread}}}
    found = httpx.post(f"{system.opensearch}/perdure-states/_search", json=body, timeout=30).json()
    return bool(found["hits"]["total"]["value"])


def test_agent_step_and_the_command_of_a_damaged_run(world: Any) -> None:
    thread = unique()
    damaged = {"_id": unique(), "thread_id": thread, "tenant": "default", "status": "pending", "settled": False}
    damaged["graph_id"] = "chain"
    moment = datetime.now(UTC)
    world.db.runs.insert_one({**damaged, "created_at": moment, "updated_at": moment, "new_thread": True})
    message = StartRun(tenant="default", thread_id=thread, run_id=damaged["_id"], reason=StartReason.REGISTERED)
    runs = [world.start("chain", {"n": 2}) for _ in range(5)]
    send(world, topics.COMMANDS, message)
    runs += [world.start("chain", {"n": 2}) for _ in range(5)]
    assert {run["status"] for run in world.until_ended(*runs)} == {"success"}
    letter = letter_of(world, thread)
    assert (letter["topic"], letter["reason"], letter["detail"]) == (
        topics.COMMANDS.name,
        "handler",
        "KeyError: 'epoch'",
    )
    world.db.runs.delete_one({"_id": damaged["_id"]})


def test_agent_step_and_the_verdict_on_a_damaged_wait(world: Any) -> None:
    thread = unique()
    moment = datetime.now(UTC)
    later = moment + timedelta(hours=1)
    verdict = Verdict(outcome=VerdictOutcome.PROCEED, findings=(), action_digest="d", read_at=moment, expires_at=later)
    waits = [f"{thread}:{n}" for n in range(2)]

    def letters(count: int) -> bool:
        return bool(world.db.dead_letters.count_documents({"thread_id": thread}) == count)

    for number, wait in enumerate(waits, 1):
        damaged = {"_id": wait, "thread_id": thread, "tenant": "default", "kind": "validation", "status": "open"}
        world.db.waits.insert_one(damaged | {"validation": {"action_digest": "d"}})
        given = PremisesValidated(tenant="default", thread_id=thread, wait_id=wait, run_id="r", verdict=verdict)
        send(world, topics.VERDICTS, given)
        until_blocking(partial(letters, number), f"{number} dead letters")
    for letter in world.db.dead_letters.find({"thread_id": thread}):
        assert (letter["topic"], letter["reason"]) == (topics.VERDICTS.name, "handler")
        assert "ValidationError" in letter["detail"]
    world.db.waits.delete_many({"thread_id": thread})


def test_the_notifier_and_a_question_that_expires_at_the_end_of_time(world: Any) -> None:
    """What is asked is told at once; that it will expire cannot be told later than the calendar ends."""
    thread, interrupt = unique(), unique()
    made = world.http.post(
        "/subscriptions",
        json={
            "scope": "thread",
            "scope_id": thread,
            "channel": "webhook",
            "target": "http://127.0.0.1:9/",
            "kinds": ["approval_wanted", "approval_expiring", "completed"],
        },
    )
    assert made.status_code == 201, made.text
    end_of_time = datetime(9999, 12, 31, 23, tzinfo=UTC)
    wait = Wait(kind=WaitKind.APPROVAL, question=Question(question="May I?"), due_at=end_of_time)
    fields = ended(thread, datetime.now(UTC)).model_dump(exclude={"steps"})
    asked = RunInterrupted(**fields, interrupts=(InterruptInfo(id=interrupt, value=wait.value()),), next=("ask",))
    send(world, topics.EVENTS, asked, ended(thread, datetime.now(UTC), seq=2))
    letter = letter_of(world, thread)
    assert (letter["topic"], letter["reason"]) == (topics.EVENTS.name, "handler")
    assert "OverflowError" in letter["detail"]
    until_blocking(
        lambda: world.db.deliveries.count_documents({"thread_id": thread}) == 2,
        "the notices of the question and of the end",
    )
    kinds = {one["kind"]: one for one in world.db.deliveries.find({"thread_id": thread})}
    assert set(kinds) == {"approval_wanted", "completed"}
    assert kinds["approval_wanted"]["wait_id"] == wait_id(thread, interrupt)


def test_the_indexer_and_an_event_without_a_time_zone(world: Any) -> None:
    bad, good = unique(), [unique() for _ in range(6)]
    moment = datetime.now(UTC)
    events = [ended(thread, moment) for thread in good]
    send(world, topics.EVENTS, *events[:3], ended(bad, moment.replace(tzinfo=None)), *events[3:])
    until_blocking(lambda: all(indexed(world, thread) for thread in good), "the others are indexed")
    until_blocking(
        lambda: indexed(world, bad) or world.db.dead_letters.find_one({"thread_id": bad}),
        "the damaged event is indexed or a dead letter",
    )
