"""Missed fire times are made up one after another, whatever comes due, fails or is changed meanwhile; on a real database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.timers_stage import DEADLINE_S, Base, Clockwork, schedule, timers_base, timers_clockwork  # noqa: F401
from tests.support.polling import until

from perdure.chassis import mongo
from perdure.registry.schedules import Firing, Step, fire_key

START = datetime(2026, 10, 1, tzinfo=UTC)
CATCH_UP_S = 12 * 3600.0


def hour(number: int, seconds: float = 0.0) -> datetime:
    """The hourly schedule's fire time of this number, and so many seconds after it."""
    return START + timedelta(hours=number, seconds=seconds)


class Hourly:
    """One hourly schedule whose first fire time is ``hour(0)``, and what the test does to it."""

    def __init__(self, base: Base, clockwork: Clockwork) -> None:
        self._base = base
        self._schedules = clockwork.schedules

    async def make(self, overlap: str, **fields: Any) -> None:
        shared = {"cron": "0 * * * *", "catch_up_s": CATCH_UP_S, "overlap": overlap, **fields}
        await self._base.db.schedules.insert_one(schedule("s", hour(0), **shared))

    async def read(self) -> Any:
        return await self._base.db.schedules.find_one({"_id": "s"})

    async def look(self, at: datetime) -> list[int | str]:
        """Do all that there is to do at a moment: the hours that were fired, ``skipped`` for each that was not."""
        found: list[int | str] = []
        while (step := await self._schedules.fire_next(await self.read(), at)) is not Step.WAITING:
            if isinstance(step, Firing):
                found.append(int((step.at - START).total_seconds()) // 3600 if step.run_id else "skipped")
        return found

    async def end_run(self, status: str = "success") -> None:
        """End what runs, as a worker does."""
        active = {"status": {"$in": ["pending", "running"]}}
        ended = {"status": status, "settled": True}
        assert (await self._base.db.runs.update_many(active, {"$set": ended})).modified_count == 1

    async def counts(self) -> tuple[int, int, int]:
        found = await self.read()
        return found["fired"], found["skipped"], found["missed"]

    async def keys(self) -> list[str]:
        runs = await self._base.db.runs.find({}).sort("_id", 1).to_list(None)
        return [run["idempotency_key"] for run in runs]


@pytest.fixture
def hourly(base: Base, clockwork: Clockwork) -> Hourly:
    return Hourly(base, clockwork)


async def test_each_missed_time_runs_when_the_run_before_has_ended(hourly: Hourly) -> None:
    await hourly.make("skip")
    assert await hourly.look(hour(4, 60)) == [0]
    assert await hourly.look(hour(4, 90)) == [], "the first is not finished"
    await hourly.end_run()
    assert await hourly.look(hour(4, 120)) == [1]
    assert await hourly.look(hour(5, 0.1)) == ["skipped"], "came due while another one ran"
    for number in (2, 3, 4):
        await hourly.end_run("error")
        assert await hourly.look(hour(5, number)) == [number]
    await hourly.end_run()
    assert await hourly.look(hour(5, 60)) == []
    assert await hourly.look(hour(6, 0.1)) == [6]
    assert await hourly.counts() == (6, 1, 0)
    assert await hourly.keys() == [fire_key("s", hour(number)) for number in (0, 1, 2, 3, 4, 6)]
    assert (await hourly.read())["catch_up"] == []


async def test_a_time_that_comes_due_between_two_that_are_made_up_is_skipped(hourly: Hourly) -> None:
    await hourly.make("skip")
    assert await hourly.look(hour(2, 60)) == [0]
    await hourly.end_run()
    assert await hourly.look(hour(3, 0.1)) == ["skipped", 1], "what was missed comes first"


async def test_an_outage_while_missed_times_are_made_up_adds_its_own(hourly: Hourly) -> None:
    await hourly.make("skip")
    assert await hourly.look(hour(2, 60)) == [0]
    assert await hourly.look(hour(3, 0.1)) == ["skipped"]
    made_up = await hourly.look(hour(6, 60))
    while (await hourly.read())["catch_up"]:
        await hourly.end_run()
        made_up += await hourly.look(hour(6, 70))
    assert made_up == [1, 2, 4, 5, 6], "the time that was skipped is decided"
    assert await hourly.counts() == (6, 1, 0)


async def test_what_waits_longer_than_the_catch_up_window_is_missed(hourly: Hourly) -> None:
    await hourly.make("skip", catch_up_s=3 * 3600.0)
    assert await hourly.look(hour(4, 60)) == [2], "two were older than the window"
    await hourly.end_run()
    assert await hourly.look(hour(6, 60)) == [4], "the one before waited too long, two came in an outage"
    assert await hourly.counts() == (2, 0, 3)
    await hourly.end_run()
    assert await hourly.look(hour(20)) == [17], "a long absence"
    assert await hourly.counts() == (3, 0, 15)


async def test_missed_times_cancel_nothing_and_a_newer_one_takes_their_place(base: Base, hourly: Hourly) -> None:
    await hourly.make("cancel_other")
    assert await hourly.look(hour(4, 60)) == [0]
    await hourly.end_run()
    assert await hourly.look(hour(4, 70)) == [1]
    cancelled = {"cancel_requested_at": {"$exists": True}}
    assert await base.db.runs.count_documents(cancelled) == 0
    assert await hourly.look(hour(5, 0.1)) == [5]
    assert await base.db.runs.count_documents(cancelled) == 1
    assert await hourly.counts() == (3, 0, 3), "2, 3 and 4 are older than the run that goes on"
    assert await hourly.look(hour(5, 60)) == []


async def test_times_that_need_not_wait_are_made_up_at_once(base: Base, hourly: Hourly) -> None:
    await hourly.make("allow")
    assert await hourly.look(hour(4, 60)) == [0, 1, 2, 3, 4]
    assert await base.db.runs.count_documents({"status": "pending"}) == 5


async def test_without_a_catch_up_window_times_fire_and_nothing_is_made_up(hourly: Hourly) -> None:
    await hourly.make("skip", catch_up_s=0.0)
    assert await hourly.look(hour(0, 0.4)) == [0]
    await hourly.end_run()
    assert await hourly.look(hour(3, 60)) == []
    assert await hourly.counts() == (1, 0, 3)


async def test_a_pause_and_other_times_end_the_making_up(hourly: Hourly, clockwork: Clockwork) -> None:
    await hourly.make("skip")
    assert await hourly.look(hour(4, 60)) == [0]
    await clockwork.schedules.change("s", "default", {"metadata": {"team": "land"}}, hour(4, 70))
    assert (await hourly.read())["catch_up"] == [{"at": hour(1), "until": hour(4, 60)}]
    await clockwork.schedules.change("s", "default", {"paused": True}, hour(4, 80))
    await hourly.end_run()
    assert await hourly.look(hour(4, 90)) == []
    await clockwork.schedules.change("s", "default", {"paused": False}, hour(4, 100))
    assert await hourly.look(hour(5, 0.1)) == [5]
    assert await hourly.counts() == (2, 0, 0)


async def test_several_decide_at_once_and_what_a_dead_one_decided_is_done_once(
    base: Base,
    hourly: Hourly,
    clockwork: Clockwork,
) -> None:
    await hourly.make("skip")
    assert await hourly.look(hour(3, 60)) == [0]
    await hourly.end_run()
    read = await hourly.read()
    await asyncio.gather(*(clockwork.schedules.fire_next(read, hour(3, 70)) for _ in range(5)))
    assert await hourly.keys() == [fire_key("s", hour(0)), fire_key("s", hour(1))]
    await hourly.end_run()
    mark = {
        "key": fire_key("s", hour(2)), "cause": "catch_up", "at": hour(2), "start": True, "cancel": False,
        "run_id": "r", "thread_id": "n",
    }  # fmt: skip
    await base.db.schedules.update_one({"_id": "s"}, {"$set": {"firing": mark}, "$inc": {"revision": 1}})
    left = await hourly.read()
    for _ in range(3):
        await clockwork.schedules.fire_next(left, hour(3, 80))
    found = await hourly.read()
    assert (found["last_run_id"], found["fired"], found["catch_up"]) == (
        "r",
        3,
        [{"at": hour(3), "until": hour(3, 60)}],
    )
    assert await base.db.runs.count_documents({}) == 3


async def test_a_running_scheduler_skips_what_comes_due_and_makes_up_what_was_missed(base: Base) -> None:
    """The process: killed while runs wait for one another, followed by another one."""
    moment = await mongo.server_time(base.db)
    busy = schedule("busy", moment.replace(microsecond=0) + timedelta(seconds=2), overlap="skip")
    cron = f"{(moment.minute + 30) % 60} * * * *"
    first = (moment - timedelta(hours=4)).replace(minute=(moment.minute + 30) % 60, second=0, microsecond=0)
    behind = schedule("behind", first, cron=cron, overlap="skip", catch_up_s=86400.0)
    await base.db.schedules.insert_many([busy, behind])
    (scheduler,) = await base.start_schedulers(1)

    async def ends_one(count: int) -> bool:
        """End the run of ``behind`` that goes on, until there are so many."""
        mine = {"metadata.schedule_id": "behind"}
        await base.db.runs.update_many({**mine, "status": "pending"}, {"$set": {"status": "success", "settled": True}})
        return await base.db.runs.count_documents(mine) >= count

    await until(lambda: ends_one(2), "two runs", DEADLINE_S, every_s=0.1)
    scheduler.kill()
    scheduler.wait()
    base.start_scheduler()
    expected = 4 if moment.minute < 30 else 5
    await until(lambda: ends_one(expected), "all missed runs", DEADLINE_S, every_s=0.1)
    await until(lambda: skipped(base, "busy", 3), "three skipped times", DEADLINE_S, every_s=0.1)
    found: Any = await base.db.schedules.find_one({"_id": "behind"})
    assert (found["fired"], found["skipped"], found["missed"], found["catch_up"]) == (expected, 0, 0, [])
    runs = await base.db.runs.find({"metadata.schedule_id": "behind"}).sort("_id", 1).to_list(None)
    times = [first + timedelta(hours=number) for number in range(expected)]
    assert [run["idempotency_key"] for run in runs] == [fire_key("behind", at) for at in times]


async def skipped(base: Base, identity: str, count: int) -> bool:
    found: Any = await base.db.schedules.find_one({"_id": identity})
    return bool(found["skipped"] >= count and found["fired"] == 1)
