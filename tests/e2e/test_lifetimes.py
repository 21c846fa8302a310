"""Threads that end by their time to live, and older states that are pruned: the database and the index follow."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx
import pytest
from tests.e2e.test_deltas import differences, found
from tests.e2e.test_removed_threads import until_nothing_is_left
from tests.support.polling import until_blocking

from perdure.local.stack import Stack

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def system(start_module_system: Any) -> Any:
    return start_module_system(names=("gateway", "agent_step", "scheduler", "indexer"))


def made(system: Any, **body: Any) -> str:
    return str(system.http.post("/threads", json=body).raise_for_status().json()["thread_id"])


def ttl_of(system: Any, thread: str) -> dict[str, Any] | None:
    answer = system.http.get(f"/threads/{thread}", params={"include": "ttl"}).raise_for_status().json()
    assert "ttl" not in system.http.get(f"/threads/{thread}").json()
    return answer["ttl"]  # type: ignore[no-any-return]


def test_a_time_to_live_is_shown_and_changed(system: Any) -> None:
    thread = made(system, ttl={"ttl": 60, "strategy": "keep_latest"})
    shown = ttl_of(system, thread)
    assert shown is not None
    assert (shown["strategy"], shown["ttl_minutes"]) == ("keep_latest", 60)
    system.http.patch(f"/threads/{thread}", json={"metadata": {"title": "a"}}).raise_for_status()
    assert ttl_of(system, thread) == shown
    system.http.patch(f"/threads/{thread}", json={"ttl": 120}).raise_for_status()
    changed = ttl_of(system, thread)
    assert changed is not None
    assert (changed["strategy"], changed["ttl_minutes"]) == ("delete", 120)
    hours = datetime.fromisoformat(changed["expires_at"]) - datetime.fromisoformat(shown["expires_at"])
    assert 3600 <= hours.total_seconds() < 3660
    assert ttl_of(system, made(system)) is None
    (listed,) = system.http.post("/threads/search", json={"ids": [thread], "select": ["ttl"]}).json()
    assert listed == {"ttl": changed}


def test_a_thread_ends_with_its_time(system: Any, stack: Stack) -> None:
    thread = made(system, ttl={"ttl": 0.02})
    kept = made(system, ttl=600)
    run, other = (system.start("chain", {"n": 2}, one) for one in (thread, kept))
    system.until_ended(other)
    until_blocking(lambda: system.http.get(f"/threads/{thread}").status_code == 404, "the thread is gone", 60)
    of_run = f"/threads/{thread}/runs/{run['run_id']}"
    until_blocking(lambda: system.http.get(of_run).status_code == 404, "its run is gone, too", 10)
    until_nothing_is_left(system, stack, thread)
    assert system.http.get(f"/threads/{kept}").status_code == 200


def test_a_run_that_is_active_keeps_its_thread(system: Any) -> None:
    thread = made(system)
    run = system.start("slow", {"seconds": 600}, thread)
    until_blocking(lambda: system.run(run)["status"] == "running", "the run is under way")
    system.http.patch(f"/threads/{thread}", json={"ttl": 0.001}).raise_for_status()

    def postponed() -> bool:
        mark = system.db.threads.find_one({"_id": thread})["ttl"]
        return bool(mark["due_at"] > mark["expires_at"])

    until_blocking(postponed, "the scheduler has looked at it")
    assert system.run(run)["status"] == "running"
    system.http.patch(f"/threads/{thread}", json={"ttl": 60}).raise_for_status()
    system.http.post(f"/threads/{thread}/runs/{run['run_id']}/cancel", params={"wait": True}).raise_for_status()
    assert system.http.get(f"/threads/{thread}").status_code == 200


def test_a_thread_under_legal_hold_stays(system: Any) -> None:
    run = system.start("chain", {"n": 2}, made(system))
    thread = run["thread_id"]
    system.until_ended(run)
    hold = {"by": "the court", "reason": "evidence"}
    system.http.put(f"/threads/{thread}/hold", json=hold).raise_for_status()
    system.http.patch(f"/threads/{thread}", json={"ttl": 0.001}).raise_for_status()

    def postponed() -> bool:
        mark = system.db.threads.find_one({"_id": thread})["ttl"]
        return bool(mark["due_at"] > mark["expires_at"])

    until_blocking(postponed, "the scheduler has looked at it")
    assert system.http.get(f"/threads/{thread}").status_code == 200


@pytest.mark.parametrize("how", ["ttl", "prune"])
def test_the_index_follows_when_older_states_go(system: Any, opensearch_url: str, how: str) -> None:
    run = system.start("chain", {"n": 5}, made(system))
    thread = run["thread_id"]
    system.until_ended(run)
    values = system.values(thread)
    system.assert_indexed(opensearch_url, [thread])
    assert len(system.http.get(f"/threads/{thread}/history?limit=100").json()) == 7
    if how == "ttl":
        change = {"ttl": {"ttl": 0.001, "strategy": "keep_latest"}}
        system.http.patch(f"/threads/{thread}", json=change).raise_for_status()
        until_blocking(
            lambda: "due_at" not in system.db.threads.find_one({"_id": thread})["ttl"], "the thread is pruned"
        )
    else:
        answer = system.http.post("/threads/prune", json={"thread_ids": [thread], "strategy": "keep_latest"})
        assert answer.raise_for_status().json() == {"pruned_count": 1}
    (left,) = system.http.get(f"/threads/{thread}/history?limit=100").json()
    assert left["values"] == values

    def indexed() -> list[str]:
        body = {"query": {"term": {"thread_id": thread}}, "size": 100, "sort": [{"seq": "asc"}, {"note": "asc"}]}
        answer = httpx.post(f"{opensearch_url}/perdure-states/_search", json=body, timeout=30).raise_for_status()
        return [hit["_source"]["event"].removeprefix("perdure.") for hit in answer.json()["hits"]["hits"]]

    wanted = ["checkpoint.saved", "run.started", "run.succeeded", "thread.pruned"]
    until_blocking(lambda: sorted(indexed()) == wanted, "the index has what is left", explain=indexed)
    assert [one["event"] for one in found(system, f"thread:{thread} status:success")]
    until_blocking(lambda: differences(system) == [], "index and store agree", explain=lambda: differences(system))
    again = system.start("chain", {"n": 7}, thread)
    system.until_ended(again)
    assert system.values(thread)["step"] == 7
    until_blocking(lambda: differences(system) == [], "index and store agree", explain=lambda: differences(system))
