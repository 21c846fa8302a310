"""Counting crashes: the back-off, what progress forgives, and what one update says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from perdure.agent_step.claims import CLOCKS, _allowed
from perdure.registry.crashes import BACKOFF_CAP_S, LOG_LENGTH, backoff, counted, crash_change, is_suspect

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


def test_one_suspect_at_a_time_and_nobody_before_the_back_off_is_over() -> None:
    plain = {"_id": "plain", "thread_id": "t0"}
    early = {"_id": "early", "thread_id": "t1", "crashes": 1, "not_before": NOW + CLOCKS * 2}
    suspects = [{"_id": f"s{n}", "thread_id": f"ts{n}", "crashes": 2, "not_before": NOW} for n in range(3)]
    assert _allowed([early, *suspects, plain], 1, NOW) == ([suspects[0], plain], ["ts1", "ts2"])
    assert _allowed([early], 1, NOW + CLOCKS) == ([early], []), "its start would come again only after the grace period"
    assert _allowed([*suspects, plain], 0, NOW) == ([plain], ["ts0", "ts1", "ts2"])
