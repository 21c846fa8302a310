"""The scheduler's clock on a real database: lateness among many sleepers, shared work, a dead instance, races, escalation."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.timers_stage import (  # noqa: F401
    DEADLINE_S,
    Base,
    Clockwork,
    schedule,
    sleeper,
    timers_base,
    timers_clockwork,
    until_woken,
    woken,
)
from tests.support.polling import until

from perdure.chassis import mongo
from perdure.chassis.payload import pack, unpack
from perdure.local.stack import Stack
from perdure.registry.schedules import Schedules, Step, fire_key
from perdure.registry.threads import thread_document
from perdure.schemas.documents import WaitDocument
from perdure.schemas.events import ApprovalEscalated
from perdure.schemas.outbox import event_of

pytestmark = pytest.mark.alone


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
    await until_woken(base.db, len(waits))
    late = await lateness(base.db, {wait["_id"]: wait["due_at"] for wait in waits})
    print(f"lateness of {len(late)}: p50 {late[len(late) // 2]:.3f} s, p99 {p99(late):.3f} s, max {late[-1]:.3f} s")
    assert late[0] >= 0, "woken too early"
    assert p99(late) < 1
    assert await base.db.waits.count_documents({"due_at": {"$exists": True}}) == 100_000, "the others sleep on"


async def test_what_the_clock_wakes_knows_its_batch_and_its_first_run(base: Base, clockwork: Clockwork) -> None:
    item = {"id": "batch-1", "number": 7, "attempt": 1}
    told = {"batch": item, "metadata": {"batch_item": 7}, "origin_run_id": "run-0"}
    await insert(base.db, [sleeper(7, await mongo.server_time(base.db), **told)])
    await clockwork.timers.turn()
    await until_woken(base.db, 1)
    (run,) = await base.db.runs.find({}).to_list(None)
    assert {name: run[name] for name in told} == told


async def test_the_death_of_one_of_three_instances_delays_nothing_and_doubles_nothing(base: Base) -> None:
    victim, *_ = await base.start_schedulers(3)
    start = await mongo.server_time(base.db) + timedelta(seconds=1)
    waits = spread(start, 0, 1_600, 8)
    await insert(base.db, waits)
    await until(lambda: woken(base.db, 400), "the first are woken", DEADLINE_S, every_s=0.1)
    victim.send_signal(signal.SIGKILL)
    await until_woken(base.db, len(waits))
    late = await lateness(base.db, {wait["_id"]: wait["due_at"] for wait in waits})
    print(f"lateness of {len(late)}: p50 {late[len(late) // 2]:.3f} s, p99 {p99(late):.3f} s, max {late[-1]:.3f} s")
    assert p99(late) < 1


async def test_a_signal_and_the_clock_race_and_one_of_them_wins(base: Base, clockwork: Clockwork) -> None:
    due_at = await mongo.server_time(base.db)
    waits = [sleeper(n, due_at, kind="event", events=["reply"]) for n in range(200)]
    await insert(base.db, waits)
    signals = [
        {
            "_id": f"signal-{n}",
            "tenant": "default",
            "thread_id": f"thread-{n}",
            "name": "reply",
            "payload": pack("yes").inline,
            "created_at": due_at,
            "state": "free",
            "taken_by": None,
            "offered": False,
        }
        for n in range(200)
    ]
    await base.db.signals.insert_many(signals)

    async def offer() -> None:
        for n in range(200):
            await clockwork.signals.offer(f"thread-{n}")

    await asyncio.gather(offer(), clockwork.timers.turn())
    await until_woken(base.db, 200)
    runs = await base.db.runs.find({}).to_list(None)
    assert sorted(run["wait_id"] for run in runs) == sorted(wait["_id"] for wait in waits)
    outcomes = {run["wait_id"]: unpack(run["payload"])["command"]["resume"]["i"]["kind"] for run in runs}
    assert set(outcomes.values()) <= {"signal", "due"}
    for n in range(200):
        stored = await base.db.waits.find_one({"_id": waits[n]["_id"]})
        sent = await base.db.signals.find_one({"_id": f"signal-{n}"})
        assert stored is not None
        assert sent is not None
        assert stored["outcome"]["kind"] == outcomes[waits[n]["_id"]]
        assert sent["state"] == ("taken" if outcomes[waits[n]["_id"]] == "signal" else "free")


async def test_what_was_left_half_done_beside_a_wait_is_taken_up(base: Base, clockwork: Clockwork) -> None:
    at = await mongo.server_time(base.db)
    request = {"premises": [{"name": "p", "source": {"kind": "fetcher", "name": "f"}}], "action_digest": "d"}
    old, young = (
        {**sleeper(n, at), "kind": "validation", "validation": request, "requested_at": at - timedelta(seconds=ago)}
        for n, ago in enumerate((60, 1))
    )
    listener = {**sleeper(2, at), "kind": "event", "events": ["reply"]}
    for wait in (old, young, listener):
        del wait["due_at"]
    await base.db.waits.insert_many([old, young, listener])
    sent = {
        "_id": "s",
        "tenant": "default",
        "thread_id": "thread-2",
        "name": "reply",
        "payload": pack("yes").inline,
        "created_at": at - timedelta(seconds=10),
        "state": "free",
        "taken_by": None,
        "offered": False,
    }
    await base.db.signals.insert_one(sent)
    await clockwork.unfinished.ask_validator()
    await clockwork.unfinished.offer_signals()
    asked = {wait["_id"]: wait["requested_at"] async for wait in base.db.waits.find({"kind": "validation"})}
    assert asked[old["_id"]] >= at, "asked again"
    assert asked[young["_id"]] == young["requested_at"], "its answer may still come"
    runs = await base.db.runs.find({}).to_list(None)
    assert [run["wait_id"] for run in runs] == [listener["_id"]]


async def test_an_instance_whose_clock_is_a_day_off_wakes_what_is_due_and_nothing_else(
    base: Base, clockwork: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, jump in enumerate((timedelta(days=1), timedelta(days=-1))):
        at = await mongo.server_time(base.db)
        due, later = sleeper(2 * number, at), sleeper(2 * number + 1, at + timedelta(hours=1))
        await insert(base.db, [due, later])
        monkeypatch.setattr("perdure.registry.waits.now", lambda jump=jump: datetime.now(UTC) + jump)
        await clockwork.timers.turn()
        await until_woken(base.db, number + 1)
        stored: Any = await base.db.waits.find_one({"_id": due["_id"]})
        assert abs(datetime.fromisoformat(stored["outcome"]["at"]) - at) < timedelta(minutes=1)
        assert await base.db.waits.count_documents({"_id": later["_id"], "status": "open"}) == 1


async def test_an_expired_question_goes_from_one_person_to_the_next_and_then_ends(base: Base) -> None:
    await base.start_schedulers(2)
    due_at = await mongo.server_time(base.db)
    asked = {"question": "Buy?", "assigned_to": "clerk", "escalate_to": ["boss", "owner"], "expires_s": 1.0}
    wait = sleeper(1, due_at, kind="approval", question=asked, assigned_to="clerk")
    run = {
        "_id": wait["run_id"],
        "tenant": "default",
        "thread_id": wait["thread_id"],
        "graph_id": "g",
        "assistant_id": "g",
        "status": "interrupted",
        "epoch": 1,
        "first_seq": 1,
        "ended_seq": 7,
        "settled": True,
        "updated_at": due_at,
    }
    await base.db.runs.insert_one(run)
    await base.db.waits.insert_one(wait)

    async def assigned_to(person: str) -> bool:
        return await base.db.waits.count_documents({"assigned_to": person}) == 1

    await until(lambda: assigned_to("boss"), "the boss is asked", DEADLINE_S)
    await until(lambda: assigned_to("owner"), "the owner is asked", DEADLINE_S)
    await until_woken(base.db, 1)
    ended = await base.db.waits.find_one({"_id": wait["_id"]})
    assert ended is not None
    assert ended["escalations"] == 2
    assert ended["outcome"]["kind"] == "due"
    assert datetime.fromisoformat(ended["outcome"]["due_at"]) == due_at + timedelta(seconds=2)
    assert await base.db.runs.count_documents({"wait_id": wait["_id"]}) == 1

    async def noted() -> bool:
        return await base.db.notebook.count_documents({"kind": "n", "event": "escalated", "after": 7}) == 2

    await until(noted, "both escalations in the history", DEADLINE_S)
    events = [event_of(run, note) async for note in base.db.notebook.find({"kind": "n"})]
    people = {(event.asked, event.assigned_to) for event in events if isinstance(event, ApprovalEscalated)}
    assert people == {("clerk", "boss"), ("boss", "owner")}


async def test_each_second_is_fired_once_by_two_instances_of_which_one_dies(base: Base) -> None:
    victim, _ = await base.start_schedulers(2)
    start = (await mongo.server_time(base.db)).replace(microsecond=0) - timedelta(seconds=60)
    await base.db.schedules.insert_many(
        [schedule(f"s{n}", start, end_at=start + timedelta(seconds=67)) for n in range(4)]
    )

    async def fired(count: int) -> bool:
        return await base.db.runs.count_documents({}) >= count

    await until(lambda: fired(100), "a hundred runs", DEADLINE_S, every_s=0.1)
    victim.send_signal(signal.SIGKILL)

    async def over() -> bool:
        return await base.db.schedules.count_documents({"next_at": {"$exists": True}}) == 0

    await until(over, "no schedule has a next time", DEADLINE_S, every_s=0.1)
    for n in range(4):
        expected = {fire_key(f"s{n}", start + timedelta(seconds=s)) for s in range(68)}
        runs = await base.db.runs.find({"metadata.schedule_id": f"s{n}"}).to_list(None)
        assert {run["idempotency_key"] for run in runs} == expected
        assert len(runs) == len(expected)
        assert await base.db.threads.count_documents({"_id": {"$in": [run["thread_id"] for run in runs]}}) == len(runs)
        ended = await base.db.schedules.find_one({"_id": f"s{n}"})
        assert ended is not None
        assert (ended["fired"], ended["missed"], ended.get("firing")) == (68, 0, None)
    assert runs[0]["metadata"]["team"] == "sea"
    assert unpack(runs[0]["payload"]) == {"input": {"topic": "whales"}}


async def fire_all(base: Base, schedules: Schedules, identity: str) -> dict[str, Any]:
    """Do all that is due for one schedule and waits for no run."""
    now = await mongo.server_time(base.db)
    while True:
        found: Any = await base.db.schedules.find_one({"_id": identity})
        if await schedules.fire_next(found, now) is Step.WAITING:
            return found  # type: ignore[no-any-return]


async def test_overlap_policies_and_what_was_missed(base: Base, clockwork: Clockwork) -> None:
    now = (await mongo.server_time(base.db)).replace(microsecond=0)
    thread = thread_document("t", "default", {}, now)
    await base.db.threads.insert_one(thread)
    past = now - timedelta(seconds=5)
    over = {"end_at": now - timedelta(seconds=1)}
    await base.db.schedules.insert_many(
        [
            schedule("skip", past, overlap="skip", **over),
            schedule("queue", past, overlap="queue", thread_id="t", **over),
            schedule("cancel", past, overlap="cancel_other", **over),
            schedule("late", past, catch_up_s=2.5, **over),
        ]
    )
    ended = {name: await fire_all(base, clockwork.schedules, name) for name in ("skip", "queue", "cancel", "late")}
    counts = {name: (one["fired"], one["skipped"], one["missed"]) for name, one in ended.items()}
    assert counts["skip"] == (1, 0, 0), "what was missed waits for the first run"
    assert counts["queue"] == (5, 0, 0)
    assert counts["cancel"] == (1, 0, 0), "what was missed cancels nothing"
    assert sum(counts["late"]) == 5
    assert counts["late"][2] >= 2
    assert await base.db.runs.count_documents({"thread_id": "t", "status": "pending"}) == 5
    assert await base.db.runs.count_documents({"cancel_requested_at": {"$exists": True}}) == 0
    await base.db.schedules.insert_many(
        [
            schedule("skip-now", now, overlap="skip", end_at=now + timedelta(seconds=1)),
            schedule("cancel-now", now, overlap="cancel_other", end_at=now + timedelta(seconds=1)),
        ]
    )
    for second in (0, 1):
        for name in ("skip-now", "cancel-now"):
            found: Any = await base.db.schedules.find_one({"_id": name})
            await clockwork.schedules.fire_next(found, now + timedelta(seconds=second))
    ended = {one["_id"]: one async for one in base.db.schedules.find({"end_at": {"$gt": now}})}
    counts = {name: (one["fired"], one["skipped"], one["missed"]) for name, one in ended.items()}
    assert counts == {"skip-now": (1, 1, 0), "cancel-now": (2, 0, 0)}
    cancelled = {"metadata.schedule_id": "cancel-now", "cancel_requested_at": {"$exists": True}}
    assert await base.db.runs.count_documents(cancelled) == 1, "all but the last"


async def test_two_decide_at_once_and_a_decision_that_was_left_is_done(base: Base, clockwork: Clockwork) -> None:
    now = await mongo.server_time(base.db)
    past = now.replace(microsecond=0) - timedelta(seconds=1)
    document = schedule("s", past, end_at=past)
    await base.db.schedules.insert_one(document)
    read: Any = await base.db.schedules.find_one({"_id": "s"})
    await asyncio.gather(*(clockwork.schedules.fire_next(read, now) for _ in range(5)))
    assert await base.db.runs.count_documents({}) == 1
    # A decision whose maker died: whoever finds it does it, and a repeat of an old one starts nothing.
    mark = {"key": "k", "cause": "trigger", "at": now, "start": True, "cancel": False, "run_id": "r", "thread_id": "n"}
    await base.db.schedules.update_one({"_id": "s"}, {"$set": {"firing": mark}, "$inc": {"revision": 1}})
    left: Any = await base.db.schedules.find_one({"_id": "s"})
    await clockwork.schedules.fire_next(left, now)
    await clockwork.schedules.fire_next(left, now)
    ended: Any = await base.db.schedules.find_one({"_id": "s"})
    assert (ended["fired"], ended["last_run_id"], ended.get("firing")) == (2, "r", None)
    assert await base.db.runs.count_documents({}) == 2


async def test_after_an_outage_everything_overdue_is_woken_once(base: Base, own_mongodb: Stack) -> None:
    await base.start_schedulers(2)
    start = await mongo.server_time(base.db) + timedelta(seconds=2)
    waits = spread(start, 0, 1_000, 4)
    await insert(base.db, waits)
    await until(lambda: woken(base.db, 100), "the first are woken", DEADLINE_S, every_s=0.1)
    await asyncio.to_thread(own_mongodb.stop_server, "mongodb", kill=True)
    await asyncio.sleep(5)  # the outage, during which the rest falls due
    await asyncio.to_thread(own_mongodb.start_server, "mongodb")
    await until_woken(base.db, 1_000)
    await lateness(base.db, {wait["_id"]: wait["due_at"] for wait in waits})
