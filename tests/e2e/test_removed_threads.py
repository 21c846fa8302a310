"""A thread that was deleted leaves nothing behind: not in the database, not in the index, and no run of it goes on."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.support.polling import until_blocking

from perdure.local.stack import Stack

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def system(start_module_system: Any) -> Any:
    return start_module_system(names=("gateway", "agent_step", "scheduler", "indexer"))


def indexed(stack: Stack, thread_id: str) -> list[str]:
    """Documents of the thread in the states and the threads index."""
    url = stack.environment()["PERDURE_OPENSEARCH_URL"]
    httpx.post(f"{url}/perdure-states,perdure-threads/_refresh", timeout=30).raise_for_status()
    body = {"query": {"term": {"thread_id": thread_id}}, "size": 100, "_source": False}
    answer = httpx.post(f"{url}/perdure-states,perdure-threads/_search", json=body, timeout=30).raise_for_status()
    return [hit["_index"] for hit in answer.json()["hits"]["hits"]]


def stored(system: Any, thread_id: str) -> list[str]:
    """The collections that have something of the thread."""
    either = {
        "$or": [
            {"_id": {"$regex": f"^(archive:)?{thread_id}"}},
            {"thread_id": thread_id},
            {"thread": thread_id},
            {"scope_key": {"$regex": thread_id}},
        ]
    }
    return [name for name in system.db.list_collection_names() if system.db[name].find_one(either)]


def until_nothing_is_left(system: Any, stack: Stack, thread_id: str) -> None:
    until_blocking(
        lambda: not stored(system, thread_id),
        "nothing of the thread is in the database",
        90,
        explain=lambda: stored(system, thread_id),
    )
    until_blocking(
        lambda: not indexed(stack, thread_id),
        "nothing of the thread is in the index",
        30,
        explain=lambda: indexed(stack, thread_id),
    )


def test_nothing_is_left_of_a_thread_that_waits(system: Any, stack: Stack) -> None:
    run = system.start("sleeper", {"sleep_s": 600})
    system.until_ended(run)
    thread_id = run["thread_id"]
    system.http.post(f"/threads/{thread_id}/signals/news", json={"payload": 1}).raise_for_status()
    cron = {"assistant_id": "chain", "schedule": "0 7 * * *", "input": {}}
    system.http.post(f"/threads/{thread_id}/runs/crons", json=cron).raise_for_status()
    system.assert_indexed(stack.environment()["PERDURE_OPENSEARCH_URL"], [thread_id])
    assert {"threads", "runs", "waits", "signals", "schedules", "notebook"} <= set(stored(system, thread_id))

    assert system.http.delete(f"/threads/{thread_id}").status_code == 204
    assert system.http.get(f"/threads/{thread_id}").status_code == 404
    until_nothing_is_left(system, stack, thread_id)
    again = system.http.post("/threads", json={"thread_id": thread_id})
    assert (again.status_code, again.json()["values"]) == (200, None)


def test_a_run_that_is_under_way_ends_and_does_not_bring_its_thread_back(system: Any, stack: Stack) -> None:
    run = system.start("slow", {"seconds": 600})
    thread_id = run["thread_id"]
    queued = system.start("chain", {"n": 2}, thread_id)
    until_blocking(lambda: system.run(run)["status"] == "running", "the run is under way", 30)
    assert system.http.delete(f"/threads/{thread_id}").status_code == 204
    for one in (run, queued):
        assert system.http.get(f"/threads/{thread_id}/runs/{one['run_id']}").status_code == 404
    until_nothing_is_left(system, stack, thread_id)
    other = system.start("chain", {"n": 2})
    system.until_ended(other)
    assert (stored(system, thread_id), indexed(stack, thread_id)) == ([], [])
