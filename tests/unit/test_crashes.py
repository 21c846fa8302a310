"""Counting crashes: the back-off, what progress forgives, and what one update says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from perdure.agent_step.claims import CLOCKS, _allowed
from perdure.registry.crashes import BACKOFF_CAP_S, LOG_LENGTH, backoff, counted, crash_change, is_suspect, together

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("crashes", "seconds"), [(1, 0), (2, 2), (3, 4), (4, 8), (99, BACKOFF_CAP_S)])
def test_the_first_crash_waits_for_nothing_and_the_others_longer_and_longer(crashes: int, seconds: float) -> None:
    assert backoff(crashes, 2.0) == timedelta(seconds=seconds)


def test_a_crash_is_one_update() -> None:
    change = crash_change({"crashes": 1, "owner": "w1"}, NOW, 2.0, "x" * 1000)
    assert change == {
        "$set": {"not_before": NOW + timedelta(seconds=2)},
        "$inc": {"crashes": 1},
        "$push": {"crash_log": {"$each": [{"at": NOW, "worker": "w1", "error": "x" * 500}], "$slice": -LOG_LENGTH}},
    }


@pytest.mark.parametrize(
    ("run", "head", "crashes"),
    [
        ({}, "c1", 0),
        ({"crashes": 1}, "c1", 1),
        ({"crashes": 4, "crash_head": "c1"}, "c1", 4),
        ({"crashes": 4, "crash_head": "c1"}, "c2", 1),
        ({"crashes": 4, "crash_head": ""}, None, 4),
        ({"crashes": 4, "crash_head": ""}, "c1", 1),
    ],
)
def test_progress_forgives_all_but_the_last(run: dict[str, object], head: str | None, crashes: int) -> None:
    assert counted(run, head) == crashes


def test_suspects() -> None:
    assert [is_suspect({"crashes": n}) for n in (0, 1, 2)] == [False, False, True]
    assert not is_suspect({})


@pytest.mark.parametrize(("crashes", "at_once"), [(2, 50), (3, 12), (4, 1), (5, 1)])
def test_the_more_crashes_the_fewer_beside_it(crashes: int, at_once: int) -> None:
    assert together(crashes, limit=5, most=200) == at_once
    assert together(2, limit=3, most=200) == 1, "the crash that parks it is charged to nobody else"


def test_suspects_wait_for_room_and_nobody_starts_before_the_back_off_is_over() -> None:
    def rooms(crashes: int) -> int:
        return {2: 3, 3: 2, 4: 1}[crashes]

    def suspect(name: str, crashes: int) -> dict[str, object]:
        return {"_id": name, "thread_id": f"t-{name}", "crashes": crashes, "not_before": NOW}

    plain = {"_id": "plain", "thread_id": "t0"}
    early = {"_id": "early", "thread_id": "t1", "crashes": 1, "not_before": NOW + CLOCKS * 2}
    four = [suspect(name, 2) for name in "abcd"]
    assert _allowed([early, *four, plain], (), rooms, NOW) == ([*four[:3], plain], ["t-d"])
    assert _allowed([early], (), rooms, NOW + CLOCKS) == ([early], []), (
        "its start would come again only after the grace period"
    )
    assert _allowed([*four, plain], (4,), rooms, NOW) == ([plain], [f"t-{name}" for name in "abcd"]), (
        "one is on its last chance"
    )
    last, other = suspect("last", 4), suspect("other", 2)
    assert _allowed([last], (2,), rooms, NOW) == ([], ["t-last"]), "it starts when it is alone"
    assert _allowed([last, other], (), rooms, NOW) == ([last], ["t-other"])
    assert _allowed([suspect("third", 3), other], (2,), rooms, NOW)[1] == ["t-other"]
