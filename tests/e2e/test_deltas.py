"""States whose values a checkpoint does not hold: DeltaChannels (Deep Agents), and what a command updates.

Everything is compared with what LangGraph's own ``get_state`` says of the same graph on an ``InMemorySaver``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(240)

FOLDER = Path(__file__).parent / "graphs" / "deep"
CONFIG: Any = {"configurable": {"thread_id": "1"}}


def load_agents() -> Any:
    """The module of the agents that the system of these tests serves."""
    spec = importlib.util.spec_from_file_location("deep_agents_of_tests", FOLDER / "agent.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def agents() -> Any:
    return load_agents()


@pytest.fixture(scope="module")
def served(start_module_system: Any) -> Any:
    return start_module_system(settings={"PERDURE_LANGGRAPH_CONFIG": str(FOLDER / "langgraph.json")})


def plain(values: Any) -> Any:
    """Values as the API gives them, without ids and times that differ from run to run."""
    shown = {name: value for name, value in values.items() if name != "messages"}
    for file in shown.get("files", {}).values():
        file.update(created_at="", modified_at="")
    if "messages" in values:
        messages = [m if isinstance(m, dict) else m.model_dump() for m in values["messages"]]
        shown["messages"] = [
            [m["type"], m["content"], m.get("name"), [call["name"] for call in m.get("tool_calls") or ()]]
            for m in messages
        ]
    return json.loads(json.dumps(shown))


def told(graph: Any) -> list[Any]:
    """Step, next nodes and values at each checkpoint, newest first, as LangGraph says."""
    return [(s.metadata["step"], list(s.next), plain(s.values)) for s in graph.get_state_history(CONFIG)]


def history(system: Any, thread: str) -> list[Any]:
    states = system.http.get(f"/threads/{thread}/history?limit=200").raise_for_status().json()
    for state in states:
        place = state["checkpoint"]["checkpoint_id"]
        alone = system.http.get(f"/threads/{thread}/state/{place}").raise_for_status().json()
        assert alone["values"] == state["values"]
        assert [task["name"] for task in state["tasks"] if not task["name"]] == []
    return [(s["metadata"]["step"], s["next"], plain(s["values"])) for s in states]


def found(system: Any, query: str) -> list[Any]:
    answer = system.http.get("/search", params={"q": query, "limit": 100}).raise_for_status().json()
    return list(answer["items"])


def differences(system: Any) -> list[Any]:
    """What ``perdure index verify`` says of the threads of this system; other modules' threads are in the index as well."""
    environment = {**os.environ, **system.services["agent_step"].env}
    command = [sys.executable, "-m", "perdure.indexer.verify", "--full", "--settled-s", "0"]
    report = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert report["states"] > 0
    known = {thread["_id"] for thread in system.db.threads.find({}, {"_id": 1})}
    return [one for one in report["differences"] if one["id"].partition(":")[0] in known]


def indexed(system: Any, opensearch_url: str, thread: str) -> list[Any]:
    body = {"query": {"term": {"thread_id": thread}}, "size": 1000, "sort": [{"seq": "asc"}]}
    hits = httpx.post(f"{opensearch_url}/perdure-states/_search", json=body).raise_for_status().json()["hits"]["hits"]
    return [hit["_source"] for hit in hits]


def test_a_deep_agent_is_seen_at_every_checkpoint(served: Any, agents: Any, opensearch_url: str) -> None:
    reference = agents.deep_agent(InMemorySaver())
    asked = [{"role": "user", "content": "Write about the aubergine."}, {"role": "user", "content": "No, zucchini."}]
    for message in asked:
        reference.invoke({"messages": [message]}, CONFIG)
    first = served.start("deep", {"messages": [asked[0]]})
    thread = first["thread_id"]
    served.until_ended(first)
    (ended,) = served.until_ended(served.start("deep", {"messages": [asked[1]]}, thread))
    assert ended["status"] == "success", ended["error"]
    assert history(served, thread) == told(reference)
    newest = plain(reference.get_state(CONFIG).values)
    assert plain(served.values(thread)) == newest
    assert len(newest["messages"]) == 12
    assert set(newest["files"]) == {"/a.txt", "/b.txt"}
    joined = served.http.get(f"/threads/{thread}/runs/{ended['_id']}/join").raise_for_status().json()
    assert plain(joined) == newest
    shown = served.http.get(f"/threads/{thread}").raise_for_status().json()
    assert plain(shown["values"]) == newest
    served.assert_indexed(opensearch_url, [thread])
    for word in ("aubergine", "quince", "courgettes", "zucchini"):
        until_blocking(
            lambda word=word: found(served, f'"{word}" thread:{thread}'),
            f"{word} is found",
            explain=lambda word=word: word,
        )
    texts = [state.get("text", "") for state in indexed(served, opensearch_url, thread)]
    assert sum("is written" in text for text in texts) == 2, "once as it is said, once as the second run begins"
    until_blocking(lambda: differences(served) == [], "index and store agree", explain=lambda: differences(served))


def test_a_deep_agent_whose_worker_is_killed(served: Any, agents: Any, tmp_path: Path, opensearch_url: str) -> None:
    gate = tmp_path / "open.gate"
    reference = agents.deep_agent(InMemorySaver())
    message = {"role": "user", "content": f"Write about the aubergine, but wait for {gate} first."}
    run = served.start("deep", {"messages": [message]})
    thread = run["thread_id"]
    until_blocking(lambda: len(served.values(thread).get("messages", ())) == 5, "five messages")
    worker = served.services["agent_step"]
    worker.kill()
    gate.touch()
    worker.start()
    (ended,) = served.until_ended(run)
    assert (ended["status"], ended["epoch"]) == ("success", 2), ended["error"]
    reference.invoke({"messages": [message]}, CONFIG)
    assert history(served, thread) == told(reference)
    served.assert_linear([thread])
    served.assert_indexed(opensearch_url, [thread])
    until_blocking(lambda: found(served, f'"quince" thread:{thread}'), "the word of the next worker is found")
    until_blocking(lambda: differences(served) == [], "index and store agree", explain=lambda: differences(served))


def test_an_update_by_command_is_seen_at_once(served: Any, agents: Any, tmp_path: Path, opensearch_url: str) -> None:
    gate = tmp_path / "go"
    reference = agents.table_graph(InMemorySaver())
    begin = {"notes": ["begun"], "gate": str(gate)}
    update = {"total": 99, "notes": ["parsnip"], "log": ["by hand"]}
    reference.invoke(begin, CONFIG)
    reference.invoke(Command(update=update), CONFIG)
    run = served.start("table", begin)
    served.until_ended(run)
    thread = run["thread_id"]
    head = served.http.get(f"/threads/{thread}/state").json()["checkpoint"]
    (ended,) = served.until_ended(served.start("table", thread=thread, command={"update": update}))
    assert ended["status"] == "interrupted"
    wanted = plain(reference.get_state(CONFIG).values)
    assert wanted == {
        "notes": ["begun", "added", "parsnip"], "log": ["by hand"], "total": 99, "gate": str(gate),
    }  # fmt: skip
    state = served.http.get(f"/threads/{thread}/state").json()
    assert plain(state["values"]) == wanted
    assert state["checkpoint"] == head, "an update makes no checkpoint"
    assert len(state["interrupts"]) == 1
    assert plain(served.http.get(f"/threads/{thread}").json()["values"]) == wanted
    joined = served.http.get(f"/threads/{thread}/runs/{ended['_id']}/join").json()
    del joined["__interrupt__"]
    assert plain(joined) == wanted
    assert history(served, thread) == told(reference)
    until_blocking(lambda: found(served, f'"parsnip" thread:{thread}'), "the word of the first update is found")
    # Before the node that it goes to has ended.
    moved = served.start("table", thread=thread, command={"update": {"log": ["fennel"]}, "goto": "slow"})
    until_blocking(lambda: served.values(thread)["log"] == ["by hand", "fennel"], "both updates in the state")
    until_blocking(lambda: found(served, f'"fennel" thread:{thread}'), "the word of the second update is found")
    assert served.run(moved)["status"] == "running"
    worker = served.services["agent_step"]
    worker.kill()
    gate.touch()
    worker.start()
    (ended,) = served.until_ended(moved)
    assert ended["epoch"] == 2
    asyncio.run(reference.ainvoke(Command(update={"log": ["fennel"]}, goto="slow"), CONFIG))
    # ``next`` also names the node that the command went to: it was a task of this checkpoint.
    assert [(step, values) for step, _, values in history(served, thread)] == [(s, v) for s, _, v in told(reference)]
    served.assert_indexed(opensearch_url, [thread])
    until_blocking(lambda: differences(served) == [], "index and store agree", explain=lambda: differences(served))


def test_what_cannot_do_anything_is_refused_or_says_so(served: Any, tmp_path: Path) -> None:
    gate = tmp_path / "go"
    gate.touch()
    done = served.start("table", {"gate": str(gate)})
    thread = done["thread_id"]
    served.until_ended(done)
    served.until_ended(served.start("table", thread=thread, command={"resume": 3}))
    assert served.values(thread)["notes"] == ["added", "3"]
    path = f"/threads/{thread}/runs"
    resumed = served.http.post(path, json={"assistant_id": "table", "command": {"resume": 3}})
    assert (resumed.status_code, resumed.json()["type"]) == (409, "urn:perdure:problem:nothing-to-resume")
    said = subprocess.run(
        [sys.executable, "-m", "perdure.cli", "resume", thread, "3", "--url", str(served.http.base_url)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode != 0
    assert "waits for nothing" in said.stderr + said.stdout
    lost = served.http.post(
        path, json={"assistant_id": "table", "checkpoint_id": "1f1ec57b-75f7-6423-8003-000000000000"}
    )
    assert (lost.status_code, lost.json()["type"]) == (404, "urn:perdure:problem:unknown-checkpoint")

    worker = served.services["agent_step"]
    worker.terminate()
    first = served.start("table", {"gate": str(gate)})
    second = served.start("table", thread=first["thread_id"])
    served.http.post(f"/threads/{first['thread_id']}/runs/{first['run_id']}/cancel").raise_for_status()
    worker.start()
    cancelled, failed = served.until_ended(first, second)
    assert (cancelled["status"], failed["status"]) == ("cancelled", "error")
    assert failed["error"]["type"] == "perdure.agent_step.domain.NothingToContinueError"
    assert "has no state yet" in failed["error"]["message"]
    assert "start a run with an input" in failed["error"]["message"]
