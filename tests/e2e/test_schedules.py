"""Schedules in the whole system: fired by the clock, run by the workers, found by search."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(240)


def make(system: Any, **fields: Any) -> Any:
    body = {"assistant_id": "chain", "cron": "* * * * * *", "input": {"n": 2}, **fields}
    answer = system.http.post("/schedules", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def fired(system: Any, schedule: Any, count: int) -> list[Any]:
    """The runs of a schedule once there are so many, oldest first; it is paused then."""
    query = {"metadata.schedule_id": schedule["schedule_id"]}
    until_blocking(lambda: system.db.runs.count_documents(query) >= count, f"{count} runs of the schedule")
    paused = system.http.post(f"/schedules/{schedule['schedule_id']}/pause").raise_for_status().json()
    runs = list(system.db.runs.find(query).sort("_id"))
    assert paused["fired"] == len(runs)
    return runs


def test_each_second_a_run_on_a_thread_of_its_own_and_on_one_thread(system: Any, opensearch_url: str) -> None:
    thread = system.http.post("/threads", json={"metadata": {"team": "sea"}}).json()["thread_id"]
    apart = make(system, overlap="allow")
    together = make(system, overlap="queue", thread_id=thread)
    runs = {name: fired(system, one, 4) for name, one in (("apart", apart), ("together", together))}
    for found in runs.values():
        times = [datetime.fromisoformat(run["metadata"]["scheduled_at"]) for run in found]
        assert times == [times[0] + timedelta(seconds=n) for n in range(len(times))], "each second once"
        late = [(run["created_at"] - at).total_seconds() for run, at in zip(found, times, strict=True)]
        assert min(late) >= 0
        assert max(late) < 1, "fired late"
        ended = system.until_ended(*({"run_id": run["_id"]} for run in found))
        assert {run["status"] for run in ended} == {"success"}
    assert {run["thread_id"] for run in runs["together"]} == {thread}
    threads = [*{run["thread_id"] for run in runs["apart"]}, thread]
    assert len(threads) == len(runs["apart"]) + 1
    system.assert_linear(threads)
    system.assert_indexed(opensearch_url, threads)


MISSED = 6
CATCH_UP_S = 86400.0


@pytest.mark.parametrize("overlap", ["skip", "cancel_other", "queue"])
def test_what_was_missed_is_made_up_in_order_also_when_the_scheduler_is_killed(system: Any, overlap: str) -> None:
    scheduler = system.services["scheduler"]
    scheduler.kill()
    cron = f"{(datetime.now(UTC).minute + 30) % 60} * * * *"  # none comes due during the test
    thread = system.http.post("/threads", json={}).json()["thread_id"] if overlap == "queue" else None
    made = make(
        system, cron=cron, overlap=overlap, thread_id=thread, catch_up_s=CATCH_UP_S, input={"n": 2, "delay_s": 0.3}
    )
    next_at = datetime.fromisoformat(made["next_at"])
    times = [next_at - timedelta(hours=hours) for hours in range(MISSED, 0, -1)]
    system.db.schedules.update_one({"_id": made["schedule_id"]}, {"$set": {"next_at": times[0]}})
    scheduler.start()
    query = {"metadata.schedule_id": made["schedule_id"]}
    until_blocking(
        lambda: system.db.runs.count_documents({**query, "status": "success"}) >= 2, "two runs have succeeded", 60
    )
    scheduler.kill()
    scheduler.start()
    until_blocking(
        lambda: system.db.runs.count_documents({**query, "settled": True}) >= MISSED, "all missed runs are settled", 60
    )

    def view() -> Any:
        return system.http.get(f"/schedules/{made['schedule_id']}").raise_for_status().json()

    until_blocking(view, "all missed times are counted", holds=lambda shown: shown["fired"] == MISSED)
    shown = view()
    assert (shown["skipped"], shown["missed"], shown["making_up"]) == (0, 0, 0)
    assert datetime.fromisoformat(shown["next_at"]) == next_at
    runs = list(system.db.runs.find(query).sort("started_at"))
    assert [datetime.fromisoformat(run["metadata"]["scheduled_at"]) for run in runs] == times, "in order, each once"
    assert {run["status"] for run in runs} == {"success"}
    for before, after in pairwise(runs):
        assert after["started_at"] >= before["ended_at"], "one after another"
