"""Checkpoint ids keep growing when the clock of the worker before was ahead."""

from __future__ import annotations

from uuid import UUID

import pytest
from langgraph.checkpoint.base import id as ids

from perdure.checkpoint import clock


@pytest.fixture(autouse=True)
def _restore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_last_v6_timestamp", None)


def made_ahead(seconds: float, monkeypatch: pytest.MonkeyPatch) -> str:
    with monkeypatch.context() as patch:
        now = ids.time.time_ns()
        patch.setattr(ids.time, "time_ns", lambda: int(now + seconds * 1e9))
        made = str(ids.uuid6(clock_seq=3))
    ids._last_v6_timestamp = None
    return made


def test_ids_go_on_above_one_that_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = made_ahead(60, monkeypatch)
    assert str(ids.uuid6(clock_seq=0)) < loaded
    clock.follow(loaded)
    following = [str(ids.uuid6(clock_seq=0)) for _ in range(3)]
    assert loaded < following[0] < following[1] < following[2]


def test_the_past_and_the_far_future_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds in (-60, 10 * 24 * 3600):
        clock.follow(made_ahead(seconds, monkeypatch))
        assert ids._last_v6_timestamp is None


@pytest.mark.parametrize("other", ["1", "not an id", str(UUID(int=0)), "c0ffee00-0000-4000-8000-000000000000"])
def test_other_ids_are_left_alone(other: str) -> None:
    clock.follow(other)
    assert ids._last_v6_timestamp is None
