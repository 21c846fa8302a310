"""When schedules fire: daylight saving, calendars, catch-up; and whose work it is."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.registry import cron
from perdure.registry.cron import BadSchedule, Due
from perdure.scheduler.domain import Escalation, escalation_of, rank

BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def first(expression: str, zone: str, after: str, count: int = 2) -> list[str]:
    found = islice(cron.times(expression, zone, at(after)), count)
    return [moment.strftime("%Y-%m-%d %H:%M:%S") for moment in found]


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        # 02:30 does not exist on 29 March: it fires when the clock has jumped, at 03:00 CEST.
        ("30 2 * * *", BERLIN, "2026-03-28T12:00", ["2026-03-29 01:00:00", "2026-03-30 00:30:00"]),
        # 02:30 comes twice on 25 October: it fires at the first, in CEST.
        ("30 2 * * *", BERLIN, "2026-10-24T12:00", ["2026-10-25 00:30:00", "2026-10-26 01:30:00"]),
        ("30 2 * * *", BERLIN, "2026-10-25T00:45", ["2026-10-26 01:30:00", "2026-10-27 01:30:00"]),
        # Asked in the second pass of the repeated hour.
        ("30 2 * * *", BERLIN, "2026-10-25T01:15", ["2026-10-26 01:30:00", "2026-10-27 01:30:00"]),
        # What fires in every hour fires in both of the repeated ones.
        ("0 * * * *", BERLIN, "2026-10-24T23:30", ["2026-10-25 00:00:00", "2026-10-25 01:00:00"]),
        ("0 9 * * *", BERLIN, "2026-03-28T00:00", ["2026-03-28 08:00:00", "2026-03-29 07:00:00"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00", ["2028-02-29 00:00:00", "2032-02-29 00:00:00"]),
        ("0 0 31 * *", "UTC", "2026-03-01T00:00", ["2026-03-31 00:00:00", "2026-05-31 00:00:00"]),
        ("0 0 L * *", "UTC", "2026-02-01T00:00", ["2026-02-28 00:00:00", "2026-03-31 00:00:00"]),
        ("@monthly", "Asia/Tokyo", "2026-01-15T00:00", ["2026-01-31 15:00:00", "2026-02-28 15:00:00"]),
        ("*/20 * * * * *", "UTC", "2026-01-01T00:00", ["2026-01-01 00:00:20", "2026-01-01 00:00:40"]),
    ],
)
def test_fire_times(expression: str, zone: str, after: str, expected: list[str]) -> None:
    assert first(expression, zone, after) == expected


@pytest.mark.parametrize(
    ("expression", "zone", "field", "says"),
    [
        ("61 * * * *", "UTC", "cron", "minute"),
        ("* * *", "UTC", "cron", "fields"),
        ("", "UTC", "cron", "fields"),
        ("0 0 30 2 *", "UTC", "cron", "day-of-month"),
        ("0 9 * * *", "Europe/Bonn", "timezone", "Europe/Bonn"),
        ("0 9 * * *", "../etc/passwd", "timezone", "Europe/Berlin"),
        ("0 9 * * *", "", "timezone", "time zone"),
    ],
)
def test_what_nobody_can_follow_is_refused_by_name(expression: str, zone: str, field: str, says: str) -> None:
    with pytest.raises(BadSchedule, match=says) as refusal:
        cron.check(expression, zone, at("2026-01-01T00:00"))
    assert refusal.value.field == field


EXPRESSIONS = st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 0 L * *", "15 */5 * * MON-FRI", "59 59 23 * * *"])
ZONES = st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(EXPRESSIONS, ZONES, MOMENTS)
def test_times_ascend_and_going_on_from_any_of_them_gives_the_next(expression: str, zone: str, after: datetime) -> None:
    found = list(islice(cron.times(expression, zone, after), 5))
    assert found[0] > after
    assert all(earlier < later for earlier, later in pairwise(found))
    for earlier, later in pairwise(found):
        assert cron.next_after(expression, zone, earlier) == later
    assert cron.between(expression, zone, found[0], found[-1], 100) == found
    assert len(cron.between(expression, zone, found[0], found[-1], 2)) == 3


def test_another_time_zone_means_other_times() -> None:
    after = at("2026-07-01T00:00")
    assert cron.next_after("0 9 * * *", BERLIN, after) == at("2026-07-01T07:00")
    assert cron.next_after("0 9 * * *", "America/New_York", after) == at("2026-07-01T13:00")


def test_nothing_fires_after_the_end() -> None:
    after = at("2026-07-01T00:00")
    assert cron.next_after("0 9 * * *", "UTC", after, at("2026-07-01T09:00")) == at("2026-07-01T09:00")
    assert cron.next_after("0 9 * * *", "UTC", after, at("2026-07-01T08:59")) is None


def due(next_at: str, now: str, catch_up_s: float, end_at: str | None = None) -> Due:
    return cron.due(
        "0 * * * *",
        "UTC",
        at(next_at),
        now=at(now),
        catch_up=timedelta(seconds=catch_up_s),
        end_at=at(end_at) if end_at else None,
    )


def test_what_was_missed_within_the_window_is_made_up_and_the_rest_is_counted() -> None:
    assert due("2026-07-01T01:00", "2026-07-01T01:00", 0) == Due(at("2026-07-01T01:00"), 0)
    assert due("2026-07-01T01:00", "2026-07-01T05:30", 7200) == Due(at("2026-07-01T04:00"), 3)
    assert due("2026-07-01T01:00", "2026-07-01T05:30", 0) == Due(at("2026-07-01T06:00"), 5)
    assert due("2026-07-01T01:00", "2026-07-01T05:30", 0, "2026-07-01T03:00") == Due(None, 3)


def test_a_long_absence_is_counted_in_pieces() -> None:
    some = cron.due(
        "* * * * * *", "UTC", at("2026-01-01T00:00"), now=at("2026-07-01T00:00"), catch_up=timedelta(0), end_at=None
    )
    assert some.missed == cron.COUNTED_AT_ONCE
    assert some.at == at("2026-01-01T00:00") + timedelta(seconds=cron.COUNTED_AT_ONCE)


def test_each_key_has_one_first_instance_and_all_have_about_the_same_share() -> None:
    instances = ["a", "b", "c"]
    firsts = Counter(
        next(one for one in instances if rank(f"thread-{n}", one, set(instances) - {one}) == 0) for n in range(3_000)
    )
    assert all(850 < share < 1150 for share in firsts.values())


def test_the_share_of_a_dead_instance_goes_to_the_second_in_rank_and_nothing_else_moves() -> None:
    for n in range(500):
        key = f"thread-{n}"
        before = {one: rank(key, one, {"a", "b", "c"} - {one}) for one in ("a", "b", "c")}
        after = {one: rank(key, one, {"a", "b"} - {one}) for one in ("a", "b")}
        if before["c"] != 0:
            assert [one for one in after if after[one] == 0] == [one for one in before if before[one] == 0]
        else:
            assert [one for one in after if after[one] == 0] == [one for one in before if before[one] == 1]


def question(escalations: int, due_at: datetime, people: list[str]) -> dict[str, object]:
    return {"question": {"escalate_to": people, "expires_s": 3600.0}, "escalations": escalations, "due_at": due_at}


def test_an_expired_question_goes_to_the_next_person_and_then_ends() -> None:
    now = at("2026-07-01T01:00")
    assert escalation_of(question(0, now, ["boss", "owner"]), now) == Escalation("boss", 1, now + timedelta(hours=1))
    assert escalation_of(question(1, now, ["boss", "owner"]), now) == Escalation("owner", 2, now + timedelta(hours=1))
    assert escalation_of(question(2, now, ["boss", "owner"]), now) is None
    assert escalation_of({"question": None, "due_at": now}, now) is None
    long_ago = now - timedelta(days=1)
    assert escalation_of(question(0, long_ago, ["boss"]), now) == Escalation("boss", 1, now + timedelta(hours=1))
