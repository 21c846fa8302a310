"""What a run does, end to end: graphs of every shape, failures, waits, sizes, order."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(240)


def test_chain_of_sync_and_async_nodes(system: Any, opensearch_url: str) -> None:
    run = system.start("chain", {"n": 5})
    (ended,) = system.until_ended(run)
    assert ended["status"] == "success", ended["error"]
    values = system.values(run["thread_id"])
    assert values["step"] == 5
    assert values["log"] == ["1 odd", "2 even", "3 odd", "4 even", "5 odd"]
    assert values["env"] == "from langgraph.json"
    system.assert_linear([run["thread_id"]])
    system.assert_indexed(opensearch_url, [run["thread_id"]])
    history = system.http.get(f"/threads/{run['thread_id']}/history?limit=100").raise_for_status().json()
    assert [state["metadata"]["step"] for state in history] == [5, 4, 3, 2, 1, 0, -1]
    assert [state["next"] for state in history] == [[], ["odd"], ["even"], ["odd"], ["even"], ["odd"], ["__start__"]]


def test_subgraphs_sends_and_commands(system: Any) -> None:
    run = system.start("subgraph", {"n": 7})
    (ended,) = system.until_ended(run)
    assert ended["status"] == "success", ended["error"]
    values = system.values(run["thread_id"])
    assert values["log"] == ["inner a", "inner b", "called", "jumped"]
    assert sorted(values["squares"]) == [i * i for i in range(7)]
    assert values["total"] == sum(i * i for i in range(7))
    system.assert_linear([run["thread_id"]])


def test_failure_says_what_and_where_and_a_new_run_goes_on(system: Any) -> None:
    run = system.start("fails", {})
    (ended,) = system.until_ended(run)
    assert ended["status"] == "error"
    assert ended["error"]["type"] == "ValueError"
    assert ended["error"]["node"] == "broken"
    assert "failed on purpose" in ended["error"]["message"]
    assert ended["next"] == ["broken"]
    thread = system.http.get(f"/threads/{run['thread_id']}").raise_for_status().json()
    assert thread["status"] == "error"


def test_retry_policy(system: Any, tmp_path: Path) -> None:
    attempts = tmp_path / "attempts"
    run = system.start("flaky", {"file": str(attempts)})
    (ended,) = system.until_ended(run)
    assert ended["status"] == "success", ended["error"]
    assert len(attempts.read_text().splitlines()) == 3


@pytest.mark.parametrize("graph", ["times_out", "step_times_out"])
def test_time_limits(system: Any, graph: str) -> None:
    (ended,) = system.until_ended(system.start(graph, {}))
    assert ended["status"] == "timeout"
    assert ended["next"] == ["endless"]


def test_value_that_cannot_be_stored(system: Any) -> None:
    run = system.start("unserialisable", {})
    (ended,) = system.until_ended(run)
    assert ended["status"] == "error"
    assert ended["error"]["type"].endswith("NotSerialisable")
    assert run["thread_id"] in ended["error"]["message"]
    assert ended["error"]["node"] == "opaque"
    sent = system.start("unserialisable", {"what": "sent"})
    assert [one["error"]["node"] for one in system.until_ended(sent)] == ["each"]
    system.assert_linear([run["thread_id"]])


def test_two_questions_are_asked_and_answered_in_turn(system: Any) -> None:
    run = system.start("ask", {})
    thread = run["thread_id"]
    (first,) = system.until_ended(run)
    assert first["status"] == "interrupted"
    assert [i["value"] for i in first["interrupts"]] == [{"question": "first"}]
    assert system.http.get(f"/threads/{thread}").json()["status"] == "interrupted"
    again = system.start("ask", thread=thread, command={"resume": "one"})
    (second,) = system.until_ended(again)
    assert second["status"] == "interrupted", second["error"]
    assert [i["value"] for i in second["interrupts"]] == [{"question": "second"}]
    (third,) = system.until_ended(system.start("ask", thread=thread, command={"resume": "two"}))
    assert third["status"] == "success", third["error"]
    assert system.values(thread)["answers"] == ["one", "two"]
    system.assert_linear([thread])


@pytest.mark.parametrize("size", [2 << 20, 20 << 20])
@pytest.mark.parametrize("kind", ["as_text", "as_list"])
def test_large_states(system: Any, size: int, kind: str) -> None:
    shape = {"size": size, "as_text": kind == "as_text", "as_list": kind == "as_list", "chunk": 20_000}
    run = system.start("big", shape)
    (ended,) = system.until_ended(run, timeout_s=120)
    assert ended["status"] == "success", ended["error"]
    answer = system.http.get(f"/threads/{run['thread_id']}/state", timeout=60).raise_for_status().json()["values"]
    assert len(answer["text"]) + sum(len(str(m)) for m in answer["messages"]) >= size
    assert len(answer["digest"]) == hashlib.sha256().digest_size * 2
    system.assert_linear([run["thread_id"]])


def test_large_input(system: Any) -> None:
    text = "0123456789abcdef" * (3 << 16)
    run = system.start("big", {"size": 10, "text": text, "as_text": False, "as_list": False})
    (ended,) = system.until_ended(run)
    assert ended["status"] == "success", ended["error"]


def test_runs_of_one_thread_take_turns_in_order(system: Any, tmp_path: Path) -> None:
    thread = system.http.post("/threads", json={}).raise_for_status().json()["thread_id"]
    runs = [
        system.start("effects", {"n": 2, "step": 0, "delay_s": 0.05, "file": str(tmp_path / f"f{i}")}, thread)
        for i in range(5)
    ]
    ended = system.until_ended(*runs)
    assert {run["status"] for run in ended} == {"success"}
    starts = [run["first_seq"] for run in ended]
    assert starts == sorted(starts), "runs of a thread started out of order"
    assert all((tmp_path / f"f{i}").read_text().count("\n") == 2 for i in range(5))
    system.assert_linear([thread])


def test_cancel_a_running_run(system: Any) -> None:
    run = system.start("slow", {"seconds": 60})
    until_blocking(lambda: system.run(run)["status"] == "running", "the run is executed")
    answer = system.http.post(f"/threads/{run['thread_id']}/runs/{run['run_id']}/cancel")
    assert answer.status_code == 202, answer.text
    (ended,) = system.until_ended(run, timeout_s=20)
    assert ended["status"] == "cancelled"
    refused = system.http.post(f"/threads/{run['thread_id']}/runs/{run['run_id']}/cancel")
    assert refused.status_code == 409
    assert refused.headers["content-type"].startswith("application/problem+json")


def test_the_same_key_starts_one_run(system: Any) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"assistant_id": "chain", "input": {"n": 2}}
    first, second = (system.http.post("/runs", json=body, headers=key).json() for _ in range(2))
    assert first["run_id"] == second["run_id"]
    system.until_ended(first)


def test_unknown_graph_is_refused(system: Any) -> None:
    answer = system.http.post("/runs", json={"assistant_id": "no such graph", "input": {}})
    assert answer.status_code == 404
    assert "chain" in answer.json()["detail"]


def test_a_past_state_is_found_by_its_text(system: Any) -> None:
    word = f"needle{uuid.uuid4().hex[:10]}"
    run = system.start("big", {"size": 10, "text": "x", "messages": [{"role": "user", "content": f"look for {word}"}]})
    system.until_ended(run)
    found = until_blocking(
        lambda: system.http.get("/search", params={"q": word}).raise_for_status().json()["items"],
        "the word is found",
        15,
    )
    assert {item["thread_id"] for item in found} == {run["thread_id"]}
