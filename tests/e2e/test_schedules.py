"""Schedules in the whole system: fired by the clock, run by the workers, found by search."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)


def make(system: Any, **fields: Any) -> Any:
    body = {"assistant_id": "chain", "cron": "* * * * * *", "input": {"n": 2}, **fields}
    answer = system.http.post("/schedules", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def fired(system: Any, schedule: Any, count: int) -> list[Any]:
    """The runs of a schedule once there are so many, oldest first; it is paused then."""
    query = {"metadata.schedule_id": schedule["schedule_id"]}
    system.until(lambda: system.db.runs.count_documents(query) >= count)
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
