"""Waits and signals on a real database: whatever order things come in, a wait has one outcome and a signal ends one wait."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.outage import Availability
from perdure.chassis.payload import pack, unpack
from perdure.registry.runs import new_id
from perdure.registry.signals import Signals
from perdure.registry.waits import Waits, wait_documents
from perdure.schemas import topics
from perdure.schemas.documents import SignalDocument, WaitDocument
from perdure.schemas.events import InterruptInfo
from perdure.schemas.waits import OutcomeKind, Wait, WaitKind, WaitOutcome


class Side:
    """One process's view of the store."""

    def __init__(self, db: mongo.Database, producer: Producer) -> None:
        availability = Availability()
        self.db = db
        self.waits = Waits(db, GroupCommit(db.runs, availability=availability), producer, availability, "test")
        self.signals = Signals(db, self.waits, availability)


@pytest.fixture
async def side(own_mongodb: Any, kafka_bootstrap: str) -> AsyncIterator[Side]:
    client = mongo.connect(own_mongodb.environment()["PERDURE_MONGODB_URI"])
    db = client[f"registry_{uuid.uuid4().hex[:8]}"]
    await mongo.ensure_indexes(db)
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    producer = Producer(kafka_bootstrap, "test")
    yield Side(db, producer)
    await producer.close()
    client.close()


def wait(thread: str, *, events: tuple[str, ...] = (), due_in_s: float | None = None, number: int = 0) -> WaitDocument:
    run = {"_id": new_id(), "thread_id": thread, "tenant": "acme", "graph_id": "g", "assistant_id": "a"}
    due_at = datetime.now(UTC) + timedelta(seconds=due_in_s) if due_in_s is not None else None
    value = Wait(kind=WaitKind.EVENT if events else WaitKind.TIMER, events=events, due_at=due_at).value()
    (made,) = wait_documents(run, [InterruptInfo(id=f"{number:032x}", value=value)], ["node"], now())
    return made


def signal(thread: str, name: str, payload: Any = None) -> SignalDocument:
    return {
        "_id": new_id(),
        "tenant": "acme",
        "thread_id": thread,
        "name": name,
        "payload": pack(payload).inline,
        "created_at": now(),
        "state": "free",
        "taken_by": None,
        "offered": False,
    }


def _ms(moment: datetime) -> datetime:
    """As MongoDB keeps it."""
    return moment.replace(tzinfo=None, microsecond=moment.microsecond // 1000 * 1000)


def due(document: WaitDocument) -> WaitOutcome:
    return WaitOutcome(kind=OutcomeKind.DUE, wait_id=document["_id"], at=now(), due_at=document.get("due_at"))


async def woken(side: Side, document: WaitDocument) -> WaitOutcome | None:
    found = await side.waits.woken("acme", document["_id"])
    return found.outcome if found else None


async def test_of_many_who_end_a_wait_one_does_and_the_others_learn_who(side: Side) -> None:
    asked = wait("t1", due_in_s=0)
    await side.waits.open([asked])
    ends = [
        WaitOutcome(kind=OutcomeKind.ANSWER, wait_id=asked["_id"], at=now(), payload=n, by=f"person {n}")
        for n in range(20)
    ]
    results = await asyncio.gather(*(side.waits.wake(asked, one) for one in [*ends, due(asked)]))
    (winner,) = [result for result in results if result.won]
    assert {result.outcome.value() == winner.outcome.value() for result in results} == {True}
    assert {result.run["_id"] for result in results} == {winner.run["_id"]}
    assert await side.db.runs.count_documents({}) == 1
    stored: Any = await side.waits.find(asked["_id"])
    assert (stored["status"], stored["woken_by"], "due_at" in stored) == ("answered", winner.run["_id"], False)
    assert stored["outcome"] == winner.outcome.value()


async def test_a_signal_that_comes_before_its_wait_is_kept_for_it(side: Side) -> None:
    early = signal("t1", "reply", {"text": "yes"})
    stored = await side.signals.store(early)
    assert (stored.earlier, stored.wait) == (False, None)
    assert await side.signals.deliver(stored) is False
    again = await side.signals.store({**early, "created_at": now()})
    assert (again.earlier, again.signal["created_at"].replace(tzinfo=None)) == (True, _ms(early["created_at"]))
    asked = wait("t1", events=("reply",), due_in_s=100)
    await side.waits.open([asked])
    assert await side.signals.offer("t1") == 1
    outcome = await woken(side, asked)
    assert outcome is not None
    assert (outcome.kind, outcome.payload, outcome.signal_id) == ("signal", {"text": "yes"}, early["_id"])
    assert await side.db.signals.count_documents({"state": "taken", "offered": True, "taken_by": asked["_id"]}) == 1


async def test_signals_and_waits_that_come_at_once_are_paired_in_order(side: Side) -> None:
    waits = [wait("t1", events=("go", "stop"), number=n) for n in range(10)]
    signals = [signal("t1", "go" if n % 2 else "stop", n) for n in range(15)]

    async def arrive(one: Any) -> None:
        if "payload" in one:
            await side.signals.deliver(await side.signals.store(one))
        else:
            await side.waits.open([one])
            await side.signals.offer("t1")

    await asyncio.gather(*map(arrive, [*signals, *waits]))
    await side.signals.offer("t1")
    outcomes = [outcome for one in waits if (outcome := await woken(side, one)) is not None]
    assert len(outcomes) == 10
    taken = Counter(outcome.signal_id for outcome in outcomes)
    assert set(taken.values()) == {1}, "a signal ended two waits"
    assert await side.db.signals.count_documents({"state": "free", "offered": True}) == 5
    assert await side.db.signals.count_documents({"state": "taken"}) == 10
    assert await side.db.runs.count_documents({}) == 10


async def test_a_signal_leaves_the_wait_to_the_one_before_it_that_was_not_offered_yet(side: Side) -> None:
    first, second = signal("t1", "reply", 1), signal("t1", "reply", 2)
    await side.signals.store(first)  # and its sender dies
    asked = wait("t1", events=("reply",))
    await side.waits.open([asked])
    stored = await side.signals.store(second)
    assert stored.wait is None
    assert await side.signals.deliver(stored) is False
    outcome = await woken(side, asked)
    assert outcome is not None
    assert outcome.payload == 1


async def test_a_signal_that_loses_against_the_clock_is_free_for_the_next_wait(side: Side) -> None:
    first = wait("t1", events=("reply",), due_in_s=0, number=1)
    await side.waits.open([first])
    late = signal("t1", "reply", "late")
    stored = await side.signals.store(late)
    assert stored.wait is not None
    assert (stored.signal["state"], stored.signal["taken_by"]) == ("taken", first["_id"])
    assert (await side.waits.wake(first, due(first))).won, "the clock is first"
    assert await side.signals.deliver(stored) is False
    found: Any = await side.db.signals.find_one({"_id": late["_id"]})
    assert (found["state"], found["taken_by"], found["offered"]) == ("free", None, True)
    second = wait("t1", events=("reply",), number=2)
    await side.waits.open([second])
    assert await side.signals.offer("t1") == 1
    outcome = await woken(side, second)
    assert outcome is not None
    assert outcome.payload == "late"


async def test_signals_that_cannot_be_handled_hold_up_no_other(side: Side) -> None:
    broken, asked = wait("t1", events=("reply",), number=1), wait("t2", events=("reply",), number=2)
    unreadable, nameless = signal("t1", "reply") | {"payload": b"damaged"}, signal("t3", "reply")
    good = signal("t2", "reply", "good")
    for one in (unreadable, nameless, good):
        await side.signals.store(one)
    await side.db.signals.update_one({"_id": nameless["_id"]}, {"$unset": {"thread_id": ""}})
    await side.waits.open([broken, asked])
    for _ in range(2):
        await side.signals.sweep(now() + timedelta(seconds=1))
        outcome = await woken(side, asked)
        assert outcome is not None
        assert (outcome.payload, outcome.signal_id) == ("good", good["_id"])
    assert await woken(side, broken) is None
    assert await side.db.signals.count_documents({"offered": False}) == 2, "they are tried again"


@pytest.mark.parametrize("died", ["before the offer", "before the delivery", "after waking"])
async def test_the_sweep_finishes_what_a_crash_left(side: Side, died: str) -> None:
    asked = wait("t1", events=("reply",))
    sent = signal("t1", "reply", 7)
    if died == "before the offer":
        await side.signals.store(sent)
        await side.waits.open([asked])
    else:
        await side.waits.open([asked])
        assert (await side.signals.store(sent)).wait is not None
    if died == "after waking":
        outcome = WaitOutcome(
            kind=OutcomeKind.SIGNAL, wait_id=asked["_id"], at=now(), name="reply", payload=7, signal_id=sent["_id"]
        )
        assert (await side.waits.wake(asked, outcome)).won
    assert await side.signals.sweep(sent["created_at"]) == 0, "it is too young to be taken for left"
    assert await side.signals.sweep(now() + timedelta(seconds=1)) == 1
    assert await side.signals.sweep(now() + timedelta(seconds=1)) == 0
    ended = await woken(side, asked)
    assert ended is not None
    assert (ended.payload, ended.signal_id) == (7, sent["_id"])
    found: Any = await side.db.signals.find_one({"_id": sent["_id"]})
    assert (found["state"], found["offered"]) == ("taken", True)
    assert await side.db.runs.count_documents({}) == 1


async def test_a_wait_that_is_stored_again_keeps_its_first_deadline(side: Side) -> None:
    first = wait("t1", due_in_s=10)
    again = {**first, "due_at": first["due_at"] + timedelta(hours=1), "run_id": new_id()}
    await side.waits.open([first])
    await side.waits.open([again])  # type: ignore[list-item]
    stored: Any = await side.waits.find(first["_id"])
    assert abs((stored["due_at"] - first["due_at"]).total_seconds()) < 0.001


async def test_a_wait_that_ended_ends_again_with_the_same_outcome_when_a_later_run_stands_at_it(side: Side) -> None:
    """The waking run failed before its checkpoint; somebody started the thread again without input."""
    asked = wait("t1", events=("reply",))
    await side.waits.open([asked])
    assert await side.signals.deliver(await side.signals.store(signal("t1", "reply", "once")))
    later: Any = {**asked, "run_id": new_id()}
    await side.waits.open([later])
    assert await side.db.runs.count_documents({}) == 1, "the run that wakes the thread has not even begun"
    await side.db.runs.update_one({}, {"$set": {"status": "error"}})
    for _ in range(2):  # a repeat after a crash changes nothing
        await side.waits.open([later])
    runs = await side.db.runs.find({}).sort("_id", 1).to_list(None)
    assert len(runs) == 2
    assert unpack(runs[0]["payload"]) == unpack(runs[1]["payload"])
    assert {one["wait_id"] for one in runs} == {asked["_id"]}


async def test_waits_that_a_thread_left_are_closed_and_opened_again_when_it_comes_back(side: Side) -> None:
    kept, left = wait("t1", due_in_s=50, number=1), wait("t1", due_in_s=50, number=2)
    other = wait("t2", due_in_s=50)
    await side.waits.open([kept, left, other])
    await side.waits.close(await side.waits.open_on("t1") - {kept["_id"]}, now())
    status = {one["_id"]: one["status"] for one in await side.db.waits.find({}).to_list(None)}
    assert status == {kept["_id"]: "open", left["_id"]: "closed", other["_id"]: "open"}
    await side.waits.open([{**left, "run_id": new_id()}])  # type: ignore[typeddict-item]
    stored: Any = await side.waits.find(left["_id"])
    assert stored["status"] == "open"
    assert "due_at" in stored
