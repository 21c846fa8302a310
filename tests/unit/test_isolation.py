"""Which records are given up when a handler fails, and when they are held instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from pymongo.errors import OperationFailure

from perdure.chassis.errors import StalledError
from perdure.chassis.kafka import isolation
from perdure.chassis.kafka.isolation import HOLD_S, LONE_FAILURES, TRIES, Isolation


class Bench:
    """A handler that fails for some records, and a clock that pauses move."""

    def __init__(self, fails: Callable[[int], Exception | None], monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = fails
        self.handled: list[int] = []
        self.alone: list[int] = []
        self.given_up: list[int] = []
        self.held_at: list[float] = []
        self.now = 0.0
        self.stop_at = float("inf")
        monkeypatch.setattr(isolation.time, "monotonic", lambda: self.now)
        self.isolation = Isolation[int](
            "test", self.hand_over, self.give_up, pause=self.pause, stopped=lambda: self.now >= self.stop_at
        )

    async def hand_over(self, records: Sequence[int]) -> bool:
        if len(records) == 1:
            self.alone += records
        for record in records:
            if (error := self.fails(record)) is not None:
                raise error
        self.handled += records
        return True

    async def give_up(self, record: int, _: Exception) -> None:
        self.given_up.append(record)

    async def pause(self, seconds: float) -> None:
        if self.isolation.holding:
            self.held_at.append(self.now)
        self.now += seconds


async def test_only_the_record_that_fails_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(lambda n: ValueError("no") if n == 3 else None, monkeypatch)
    assert await bench.isolation.handle(range(6))
    assert (bench.handled, bench.given_up) == ([0, 1, 2, 4, 5], [3])
    assert bench.alone.count(3) == TRIES
    assert bench.alone.count(4) == 1


async def test_a_record_that_fails_once_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [ValueError("a moment"), ValueError("a moment")]
    bench = Bench(lambda n: errors.pop() if n == 1 and errors else None, monkeypatch)
    assert await bench.isolation.handle(range(3))
    assert (sorted(bench.handled), bench.given_up) == ([0, 1, 2], [])


async def test_many_bad_records_beside_a_good_one_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(lambda n: ValueError("no") if n else None, monkeypatch)
    assert await bench.isolation.handle(range(100))
    assert (bench.handled, bench.given_up, bench.held_at) == ([0], [*range(1, 100)], [])


async def test_when_all_fail_they_are_held_and_given_up_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(lambda _: ValueError("a bug"), monkeypatch)
    for number in range(LONE_FAILURES):
        assert await bench.isolation.handle([number])
    assert (bench.given_up, bench.held_at) == ([*range(LONE_FAILURES)], [])
    bench.stop_at = bench.now + 3 * HOLD_S + 100
    assert not await bench.isolation.handle(range(100, 200)), "it is stopped while it holds: nothing may be stored"
    assert bench.given_up[LONE_FAILURES:] == [100, 101, 102]
    assert not bench.isolation.holding


async def test_a_handled_record_ends_the_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(lambda n: ValueError("away") if bench.now < 60 or n == 7 else None, monkeypatch)
    assert await bench.isolation.handle(range(20))
    assert sorted(bench.handled) == [n for n in range(20) if n != 7]
    assert bench.given_up == [7]
    assert len(bench.held_at) in range(3, 10)


async def test_what_the_database_refuses_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(lambda _: OperationFailure("not authorised", 13) if bench.now < 30 else None, monkeypatch)
    assert await bench.isolation.handle([1])
    assert (bench.handled, bench.given_up) == ([1], [])
    assert bench.held_at


async def test_a_client_that_does_not_come_back_is_no_records_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(lambda _: StalledError("gone"), monkeypatch)
    with pytest.raises(StalledError):
        await bench.isolation.handle([1, 2])
    assert bench.given_up == []
