"""``perdure index verify`` on what live services wrote: the index agrees with the database to the millisecond."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(400)

SETTINGS = {
    "PERDURE_EXPECTED_DEFAULT_S": "1.5",
    "PERDURE_EXPECTED_FLOOR_S": "1.5",
    "PERDURE_STUCK_INTERVAL_S": "0.3",
    "PERDURE_STUCK_GRACE_S": "0.2",
}


def test_the_index_agrees_with_the_database_after_all_kinds_of_agents(
    start_system: Callable[..., Any], own_stack: Callable[..., Any], tmp_path: Path
) -> None:
    servers = own_stack("kafka", "mongodb", "opensearch")
    system = start_system(servers=servers, settings=SETTINGS)
    live(system, tmp_path)
    url = servers.environment()["PERDURE_OPENSEARCH_URL"]
    await_index(system, url)

    report = tool(system, "verify")
    assert (report["differences"], report["ranges"]) == ([], 0)
    assert report["threads"] == system.db.threads.count_documents({})
    assert report["states"] == stored(system) > 100
    assert tool(system, "verify", "--full")["differences"] == []
    before = written(url)
    assert tool(system, "repair")["differences"] == []
    assert written(url) == before, "there was nothing to repair"
    assert tool(system, "verify")["differences"] == []


def live(system: Any, folder: Path) -> None:
    """Let agents of all kinds live until nothing moves any more."""
    repaired = folder / "repaired"
    failed = system.start("fails", {"repaired": str(repaired)}, metadata={"team": "sea"})
    stuck = system.start("slow", {"seconds": 4})
    cancelled = system.start("slow", {"seconds": 600})
    asking = system.start("ask", {})
    listening = system.start("listener", {"count": 2, "timeout_s": 600})
    asked = system.start("asker", {})
    others = [
        system.start("chain", {"n": 3}),
        system.start("subgraph", {}),
        system.start("unserialisable", {}),
        system.start("times_out", {}),
        system.start("branches", {"sleep_s": 0.7}),
        system.start("listener", {"timeout_s": 0.8}),
        system.start("sleeper", {"sleep_s": 1.2}),
        system.start("asker", {"expires_s": 0.9, "escalate": True}),
    ]
    lines = b"".join(json.dumps({"input": {"n": 2}}).encode() + b"\n" for _ in range(5))
    batch = system.http.post(
        "/batches", params={"assistant_id": "chain"}, content=lines, headers={"Content-Type": "application/x-ndjson"}
    )
    schedule = system.http.post(
        "/schedules", json={"assistant_id": "chain", "cron": "* * * * * *", "input": {"n": 1}, "overlap": "allow"}
    )
    system.until_ended(failed, asking, listening, asked, *others)
    repaired.touch()
    post(system, failed, f"runs/{failed['run_id']}/retry")
    post(system, cancelled, f"runs/{cancelled['run_id']}/cancel")
    for number in (1, 2):
        post(system, listening, "signals/reply", {"payload": number})
    (approval,) = system.http.get("/approvals", params={"thread_id": asked["thread_id"]}).json()["approvals"]
    answer = {"answer": {"approved": True}, "by": "ada"}
    assert system.http.post(f"/approvals/{approval['approval_id']}", json=answer).status_code == 202
    system.start("ask", None, asking["thread_id"], command={"resume": "first"})
    system.until_ended(stuck, cancelled)
    scheduled = {"metadata.schedule_id": schedule.json()["schedule_id"]}
    until_blocking(lambda: system.db.runs.count_documents(scheduled) >= 3, "three runs of the schedule")
    system.http.post(f"/schedules/{schedule.json()['schedule_id']}/pause").raise_for_status()
    batch_path = f"/batches/{batch.json()['batch_id']}"
    until_blocking(lambda: system.http.get(batch_path).json()["status"] == "completed", "the batch is completed")
    open_waits = {"status": "open", "due_at": {"$exists": True}}
    until_blocking(lambda: not system.db.waits.count_documents(open_waits), "no timer is open")
    until_blocking(lambda: not system.db.runs.count_documents({"settled": False}), "all runs are settled")
    told = {"event": "recovered", "thread": stuck["thread_id"], "published": True}
    until_blocking(lambda: system.db.notebook.count_documents(told), "the recovery is published")
    kinds = set(system.db.runs.distinct("status"))
    assert kinds == {"success", "error", "timeout", "interrupted", "cancelled"}
    assert set(system.db.notebook.distinct("event", {"kind": "n"})) >= {"stuck", "recovered", "escalated"}


def post(system: Any, run: Any, what: str, body: Any = None) -> None:
    answer = system.http.post(f"/threads/{run['thread_id']}/{what}", json=body or {})
    assert answer.status_code in {200, 202, 204}, answer.text


def stored(system: Any) -> int:
    """How many states the index should have."""
    return int(system.db.notebook.count_documents({"kind": {"$in": ["c", "e", "n"]}, "ev": {"$exists": True}}))


def await_index(system: Any, url: str) -> None:
    def found() -> int:
        httpx.post(f"{url}/perdure-states,perdure-threads/_refresh", timeout=30).raise_for_status()
        return int(httpx.get(f"{url}/perdure-states/_count", timeout=30).raise_for_status().json()["count"])

    until_blocking(
        lambda: found() == stored(system), "the index has what is stored", explain=lambda: (found(), stored(system))
    )
    ends = {thread["_id"]: thread["seq"] for thread in system.db.threads.find({}, {"seq": 1})}

    def behind() -> list[str]:
        """Threads whose newest state is not in the threads index, which is written once a second at most."""
        body = {"size": 1_000, "_source": ["seq"]}
        answer = httpx.post(f"{url}/perdure-threads/_search", json=body, timeout=30).raise_for_status().json()
        newest = {one["_id"]: one["_source"]["seq"] for one in answer["hits"]["hits"]}
        return [thread for thread, seq in ends.items() if newest.get(thread, 0) < seq]

    until_blocking(behind, "the newest document of every thread", holds=lambda threads: not threads)


def written(url: str) -> Any:
    """How many documents were ever written to and deleted from the indices."""
    answer = httpx.get(f"{url}/perdure-states,perdure-threads/_stats/indexing", timeout=30).raise_for_status().json()
    done = answer["_all"]["primaries"]["indexing"]
    return done["index_total"], done["delete_total"]


def tool(system: Any, name: str, *arguments: str) -> Any:
    """What ``perdure index verify`` and ``repair`` run, of what is there now."""
    env = {**os.environ, **system.services["indexer"].env}
    command = [sys.executable, "-m", f"perdure.indexer.{name}", "--settled-s", "0", *arguments]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, timeout=120)
    return json.loads(done.stdout)
