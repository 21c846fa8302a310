"""The polling of the tests: what it returns, and what it says when the time is over."""

from __future__ import annotations

import time

import pytest
from tests.support.polling import until, until_blocking


async def test_the_first_true_value_of_a_plain_or_an_async_condition() -> None:
    seen = iter([None, 0, "", [7], [8]])

    async def next_of() -> list[int] | None:
        return next(seen)  # type: ignore[return-value]

    assert await until(next_of, "a list", every_s=0) == [7]
    assert await until(lambda: next(seen), "a list", every_s=0) == [8]
    tries = iter(range(3))
    assert until_blocking(lambda: next(tries), "a number", every_s=0) == 1


async def test_a_timeout_says_what_was_awaited_and_what_was_seen_last() -> None:
    with pytest.raises(AssertionError, match=r"^not within 0\.02 s: the letters; last seen: \[\]$"):
        until_blocking(list, "the letters", 0.02, every_s=0.01)
    with pytest.raises(AssertionError, match=r"^not within 0\.02 s: the letters; last seen: two of three$"):
        await until(lambda: False, "the letters", 0.02, lambda: "two of three", every_s=0.01)


def test_a_condition_is_asked_once_more_when_the_time_is_over() -> None:
    asked = []

    def slow() -> bool:
        asked.append(time.monotonic())
        time.sleep(0.03)
        return len(asked) == 2

    assert until_blocking(slow, "the second answer", 0.01, every_s=0) is True


def test_what_a_condition_raises_ends_the_wait() -> None:
    with pytest.raises(ZeroDivisionError):
        until_blocking(lambda: 1 / 0, "a number")


def test_the_value_that_holds_is_returned_also_if_it_is_false() -> None:
    left = iter([["a"], []])
    assert until_blocking(lambda: next(left), "nothing is left", every_s=0, holds=lambda found: not found) == []
