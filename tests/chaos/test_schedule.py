"""The schedule of faults is pure: the seed decides everything."""

from __future__ import annotations

import pytest
from tests.chaos.schedule import BROKERS, LONGEST_OUTAGE_S, SERVICES, Kind, plan


def test_the_same_seed_is_the_same_schedule() -> None:
    assert plan(7, 2) == plan(7, 2)
    assert plan(7, 2) != plan(8, 2)
    assert plan(7, 2) != plan(7, 3)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("minutes", [2, 10])
def test_every_kind_is_planned(seed: int, minutes: int) -> None:
    faults = plan(seed, minutes)
    assert {fault.kind for fault in faults} == set(Kind)
    assert {fault.target for fault in faults if fault.kind is Kind.KILL} == set(SERVICES)
    assert {fault.target for fault in faults if fault.kind is Kind.OUTAGE} == {"kafka", "mongodb", "opensearch"}
    assert len(faults) >= minutes * 8


@pytest.mark.parametrize("seed", range(20))
def test_a_target_is_whole_before_it_is_hurt_again(seed: int) -> None:
    ends: dict[str, float] = {}
    for fault in plan(seed, 5):
        group = "kafka" if fault.target in BROKERS else fault.target
        assert fault.at_s > ends.get(group, 0.0)
        ends[group] = fault.at_s + fault.lasts_s


@pytest.mark.parametrize("seed", range(20))
def test_outages_stay_within_a_minute(seed: int) -> None:
    longest = max(fault.lasts_s for fault in plan(seed, 30) if fault.kind is Kind.OUTAGE)
    assert longest <= LONGEST_OUTAGE_S
    assert max(fault.lasts_s for fault in plan(seed, 2) if fault.kind is Kind.OUTAGE) <= 12


def test_a_pause_can_outlast_a_lease() -> None:
    assert any(fault.kind is Kind.PAUSE and fault.lasts_s > 5 for seed in range(5) for fault in plan(seed, 2))
