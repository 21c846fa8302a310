"""Two minutes of everything breaking, inside ``make test``: the same as ``make chaos SEED=1 MINUTES=2``."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.chaos.run import ChaosRun, Options

from perdure.chassis.kafka.admin import TopicAdmin
from perdure.local.errors import LocalError
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack
from perdure.schemas import topics

pytestmark = pytest.mark.alone

SEED, MINUTES = 1, 2.0


@pytest.mark.timeout(480)
def test_two_minutes(tmp_path: Path) -> None:
    """Agents, faults, and every promise holds."""
    folder = Path(os.environ.get("PERDURE_CHAOS_FOLDER") or tmp_path)
    try:
        chaos = ChaosRun(Options(SEED, MINUTES, folder))
        verdict = chaos.execute()
    except LocalError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"the servers could not be started: {error}")
    assert verdict.holds, f"{verdict.table()}\nreport and logs: {folder}"
    counts = verdict.facts["counts"]
    assert counts["agents"] >= 150
    assert counts["effects applied"] >= 10
    assert counts["runs claimed more than once"] >= 1, "no run lost its owner: the faults did nothing"
    assert not verdict.facts["problems"]


def test_three_brokers_outlive_one() -> None:
    """A cluster's servers are known by their own names, and all of them by ``kafka``."""
    local = {"kafka_bootstrap_servers": None, "local_kafka_heap_mb": 256}
    with_cluster = Stack(LocalSettings().model_copy(update=local), ephemeral=True, brokers=3)
    try:
        with_cluster.start(("kafka",))
        bootstrap = with_cluster.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]
        assert bootstrap.count(",") == 2
        for attempt in range(4):  # the brokers learn of new topics one after the other
            made = [replace(topic, name=f"{topic.name}.{attempt}") for topic in topics.ALL]
            asyncio.run(TopicAdmin(bootstrap).apply(made))
        with_cluster.stop_server("kafka-2", kill=True)
        assert {one.name: one.state for one in with_cluster.status()}["kafka-2"] == "ended"
        with_cluster.start_server("kafka-2")
        assert {one.state for one in with_cluster.status()} == {"ready"}
    finally:
        with_cluster.stop()
