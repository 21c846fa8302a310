"""When notices are sent and tried again: back-off, Retry-After, quiet hours, digest windows; and the breaker."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.notifier.breaker import Breakers
from perdure.notifier.timing import after_quiet, backoff_s, expiring_at, next_attempt, retry_after_s, window_of

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
MOMENTS = st.integers(0, 366 * 86400 * 1000).map(lambda ms: NOW + timedelta(milliseconds=ms))


def quiet(start: str, end: str, zone: str = "UTC", *urgent: str) -> Any:
    return {"timezone": zone, "start": start, "end": end, "urgent": [*urgent]}


def test_the_back_off_grows_and_is_capped() -> None:
    middle = [backoff_s(n, 5, 21600, lambda: 0.5) for n in range(1, 12)]
    assert middle == [5, 15, 45, 135, 405, 1215, 3645, 10935, 21600, 21600, 21600]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_jitter_is_a_quarter(failures: int, chance: float) -> None:
    plain = backoff_s(failures, 5, 21600, lambda: 0.5)
    assert 0.749 * plain <= backoff_s(failures, 5, 21600, lambda: chance) <= 1.251 * plain


def test_three_days_are_about_nineteen_attempts() -> None:
    now, give_up, attempts = NOW, NOW + timedelta(days=3), 0
    while True:
        attempts += 1
        again = next_attempt(now, backoff_s(attempts, 5, 21600, lambda: 0.5), None, give_up)
        if again is None:
            break
        now = again
    assert now == give_up  # the last one is at the very end
    assert 18 <= attempts <= 22


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("99999999999", math.inf),
        ("Wed, 25 Nov 2026 12:01:00 GMT", 60.0),
        ("Wed, 25 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, NOW) == seconds


def test_a_receiver_may_ask_for_more_time_but_not_for_ever() -> None:
    give_up = NOW + timedelta(hours=1)
    assert next_attempt(NOW, 5, 60, give_up) == NOW + timedelta(seconds=60)
    assert next_attempt(NOW, 90, 60, give_up) == NOW + timedelta(seconds=90)
    assert next_attempt(NOW, 5, math.inf, give_up) == give_up
    assert next_attempt(give_up, 5, None, give_up) is None


@pytest.mark.parametrize(
    ("moment", "hours", "expected"),
    [
        ("12:00", quiet("22:00", "07:00"), "12:00"),
        ("22:00", quiet("22:00", "07:00"), "+07:00"),
        ("23:59", quiet("22:00", "07:00"), "+07:00"),
        ("06:59", quiet("22:00", "07:00"), "07:00"),
        ("07:00", quiet("22:00", "07:00"), "07:00"),
        ("12:30", quiet("12:00", "13:00"), "13:00"),
        ("13:00", quiet("12:00", "13:00"), "13:00"),
        ("21:30", quiet("22:00", "07:00", "Europe/Berlin"), "+06:00"),
    ],
)
def test_quiet_hours(moment: str, hours: Any, expected: str) -> None:
    day = NOW.date() + timedelta(days=expected.startswith("+"))
    wanted = datetime.fromisoformat(f"{day}T{expected.removeprefix('+')}:00+00:00")
    assert after_quiet(datetime.fromisoformat(f"{NOW.date()}T{moment}:00+00:00"), hours, "failed") == wanted


def test_urgent_kinds_are_told_in_quiet_hours() -> None:
    hours = quiet("00:00", "23:59", "UTC", "stuck")
    assert after_quiet(NOW, hours, "stuck") == NOW
    assert after_quiet(NOW, hours, "failed") > NOW
    assert after_quiet(NOW, None, "failed") == NOW


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_quiet_hours_end_once_when_the_clocks_change(day: str) -> None:
    hours = quiet("22:00", "02:30", "Europe/Berlin")
    moment = datetime.fromisoformat(f"{day}T00:10:00+00:00")
    end = after_quiet(moment, hours, "failed")
    assert moment < end <= moment + timedelta(hours=2)
    assert after_quiet(end, hours, "failed") in (end, end + timedelta(hours=1), end + timedelta(minutes=30))


@given(MOMENTS, st.floats(10, 604800))
def test_a_window_holds_its_moment(moment: datetime, seconds: float) -> None:
    number, end = window_of(moment, seconds)
    assert moment - timedelta(milliseconds=1) < end <= moment + timedelta(seconds=seconds, milliseconds=1)
    assert window_of(moment, seconds) == (number, end)


def test_a_question_is_expiring_late_but_not_at_once() -> None:
    assert expiring_at(NOW, NOW + timedelta(days=2), 3600) == NOW + timedelta(hours=47)
    assert expiring_at(NOW, NOW + timedelta(hours=1), 3600) == NOW + timedelta(minutes=30)


def test_a_breaker_opens_tries_one_and_closes() -> None:
    breakers = Breakers(3, 5.0, 60.0)
    assert [breakers.failed("a", 0.0) for _ in range(3)] == [False, False, True]
    assert (breakers.room("a", 4.9, 8), breakers.room("b", 4.9, 8)) == (0, 8)
    assert breakers.open(4.9) == ["a"]
    assert breakers.waits_s("a", 1.0) == 4.0
    assert breakers.room("a", 5.0, 8) == 1
    assert breakers.failed("a", 5.0)
    assert breakers.room("a", 14.9, 8) == 0, "twice as long"
    assert breakers.room("a", 15.0, 8) == 1
    breakers.worked("a")
    assert breakers.room("a", 15.0, 8) == 8
    assert not breakers.failed("a", 16.0)


def test_what_was_on_its_way_does_not_prolong_an_open_breaker() -> None:
    breakers = Breakers(1, 5.0, 60.0)
    for _ in range(10):
        assert breakers.failed("a", 0.0)
    assert breakers.room("a", 5.0, 8) == 1
    for _ in range(20):
        breakers.failed("a", breakers.waits_s("a", 0.0))
    assert breakers.waits_s("a", 0.0) < 60.0 * 20
