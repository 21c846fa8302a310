"""Changing states with the unmodified ``langgraph_sdk``: updates, forks, threads made with states, and everything that refuses."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, StateUpdate
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from tests.e2e.test_deltas import differences, found
from tests.support.polling import until, until_blocking

pytestmark = pytest.mark.timeout(240)

GRAPH = Path(__file__).parent / "graphs" / "ledger.py"
CONFIG: Any = {"configurable": {"thread_id": "1"}}
PROBLEM = "urn:perdure:problem:"


@pytest.fixture(scope="module")
def served(start_module_system: Any) -> Any:
    return start_module_system(settings={"PERDURE_GATEWAY_UPDATE_TIMEOUT_S": "6"})


@pytest.fixture
async def sdk(served: Any) -> AsyncIterator[LangGraphClient]:
    client = get_client(url=served.services.gateway_url, api_key=None)
    yield client
    await client.aclose()


@pytest.fixture(scope="module")
def reference() -> Any:
    """The same graph on LangGraph's own saver."""
    spec = importlib.util.spec_from_file_location("ledger_of_tests", GRAPH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return lambda: module.ledger_graph(InMemorySaver())


def refused(error: pytest.ExceptionInfo[httpx.HTTPStatusError], status: int, kind: str) -> dict[str, Any]:
    """The problem document of a refused request."""
    problem: dict[str, Any] = error.value.response.json()
    assert (error.value.response.status_code, problem["type"]) == (status, PROBLEM + kind), problem
    return problem


async def asked(sdk: LangGraphClient) -> str:
    """A thread that waits at its question."""
    thread = (await sdk.threads.create())["thread_id"]
    values: Any = await sdk.runs.wait(thread, "ledger", input={"items": ["first"]})
    assert values["__interrupt__"][0]["value"] == {"question": "enough?"}
    return thread


def told(states: list[Any]) -> list[Any]:
    return [(s["metadata"]["step"], s["metadata"]["source"], s["next"], s["values"]) for s in states]


def told_by(graph: Any) -> list[Any]:
    return [(s.metadata["step"], s.metadata["source"], list(s.next), s.values) for s in graph.get_state_history(CONFIG)]


def newest_status(opensearch_url: str, thread: str) -> Any:
    """The status of the newest event of a thread in the threads index."""
    body = {"query": {"term": {"thread_id": thread}}}
    answer = httpx.post(f"{opensearch_url}/perdure-threads/_search", json=body, timeout=30).raise_for_status().json()
    return answer["hits"]["hits"][0]["_source"]["status"] if answer["hits"]["hits"] else None


async def test_an_update_is_a_state_like_any_other(
    served: Any, sdk: LangGraphClient, reference: Any, opensearch_url: str
) -> None:
    graph = reference()
    graph.invoke({"items": ["first"]}, CONFIG)
    graph.update_state(CONFIG, {"items": ["by hand kumquat"]}, as_node="count")
    thread = await asked(sdk)
    before = await sdk.threads.get_state(thread)
    answer: Any = await sdk.threads.update_state(thread, {"items": ["by hand kumquat"]}, as_node="count")
    named = answer["checkpoint"]
    assert (named["thread_id"], named["checkpoint_ns"], named["checkpoint_map"]) == (thread, "", {})
    assert (answer["configurable"], answer["checkpoint_id"]) == (named, named["checkpoint_id"])
    state: Any = await sdk.threads.get_state(thread)
    assert state["checkpoint"]["checkpoint_id"] == named["checkpoint_id"]
    assert state["parent_checkpoint"]["checkpoint_id"] == before["checkpoint"]["checkpoint_id"]
    assert told(await sdk.threads.get_history(thread)) == told_by(graph)
    shown: Any = await sdk.threads.get(thread)
    assert (shown["status"], shown["interrupts"], shown["values"]) == ("interrupted", {}, state["values"])
    assert len(await sdk.runs.list(thread)) == 1, "an update is no run that somebody started"
    served.assert_indexed(opensearch_url, [thread])
    await until(lambda: found(served, f'"kumquat" thread:{thread}'), "the update is found by its words")

    again: Any = await sdk.runs.wait(thread, "ledger", input=None)
    assert again["__interrupt__"][0]["value"] == {"question": "enough?"}
    last: Any = await sdk.runs.wait(thread, "ledger", command={"resume": "yes"})
    assert last == {"items": ["first", "counted", "by hand kumquat", "closed after 3"], "note": "yes"}
    assert differences(served) == []


async def test_nothing_runs_next_after_the_end(served: Any, sdk: LangGraphClient, reference: Any) -> None:
    graph = reference()
    graph.invoke({"items": ["first"]}, CONFIG)
    graph.update_state(CONFIG, None, as_node="__end__")
    thread = await asked(sdk)
    await sdk.threads.update_state(thread, None, as_node="__end__")
    state: Any = await sdk.threads.get_state(thread)
    assert (state["next"], state["interrupts"], state["values"]) == ([], [], graph.get_state(CONFIG).values)
    assert (await sdk.threads.get(thread))["status"] == "idle"


async def test_a_run_begins_at_a_fork_of_the_past(sdk: LangGraphClient) -> None:
    thread = await asked(sdk)
    await sdk.runs.wait(thread, "ledger", command={"resume": "yes"})
    ended = await sdk.threads.get_state(thread)
    history = await sdk.threads.get_history(thread)
    place: Any = next(one["checkpoint"] for one in history if one["next"] == ["ask"])
    answer: Any = await sdk.threads.update_state(thread, {"note": "forked"}, checkpoint=place)
    state: Any = await sdk.threads.get_state(thread)
    assert state["checkpoint"]["checkpoint_id"] == answer["checkpoint_id"]
    assert state["parent_checkpoint"]["checkpoint_id"] == place["checkpoint_id"]
    assert (state["values"], state["next"]) == ({"items": ["first", "counted"], "note": "forked"}, ["ask"])
    kept = await sdk.threads.get_state(thread, checkpoint=ended["checkpoint"])
    assert kept["values"] == ended["values"]
    values: Any = await sdk.runs.wait(
        thread, "ledger", input=None, checkpoint={"thread_id": thread, "checkpoint_ns": "", **answer["checkpoint"]}
    )
    assert values["__interrupt__"][0]["value"] == {"question": "enough?"}
    assert (values["items"], values["note"]) == (["first", "counted"], "forked")


@pytest.mark.parametrize(
    ("values", "as_node", "said"),
    [
        ({"items": ["x"]}, "nowhere", "Node nowhere does not exist"),
        ({"items": ["x", "refuse"]}, "count", "ValueError: the ledger takes no such item"),
        ("text", "count", "InvalidUpdateError"),
        ({"items": ["x"]}, "__end__", "Node __end__ does not exist"),
    ],
)
async def test_what_the_graph_refuses_changes_nothing(
    sdk: LangGraphClient, opensearch_url: str, values: Any, as_node: str, said: str
) -> None:
    thread = await asked(sdk)
    before = await sdk.threads.get(thread), await sdk.threads.get_history(thread)
    with pytest.raises(httpx.HTTPStatusError) as error:
        await sdk.threads.update_state(thread, values, as_node=as_node)
    problem = refused(error, 422, "update-refused")
    assert said in problem["detail"]
    assert (await sdk.threads.get(thread), await sdk.threads.get_history(thread)) == before
    await until(
        lambda: newest_status(opensearch_url, thread),
        "the index says how it stands",
        holds=lambda s: s == "interrupted",
    )
    last: Any = await sdk.runs.wait(thread, "ledger", command={"resume": "yes"})
    assert last["items"][-1] == "closed after 2"


async def test_a_thread_that_is_not_at_rest_or_not_known_is_refused(served: Any, sdk: LangGraphClient) -> None:
    thread = await asked(sdk)
    with pytest.raises(httpx.HTTPStatusError) as error:
        await sdk.threads.update_state(thread, {"note": "n"}, checkpoint_id="1f0c0000-0000-6000-8000-000000000000")
    refused(error, 404, "unknown-checkpoint")
    slow = served.start("slow", {"seconds": 600})
    with pytest.raises(httpx.HTTPStatusError) as error:
        await sdk.threads.update_state(slow["thread_id"], {"seconds": 1})
    assert "active run" in refused(error, 409, "thread-busy")["detail"]
    await sdk.runs.cancel(slow["thread_id"], slow["run_id"], wait=True)
    empty = (await sdk.threads.create())["thread_id"]
    with pytest.raises(httpx.HTTPStatusError) as error:
        await sdk.threads.update_state(empty, {"note": "n"})
    assert "graph_id" in refused(error, 422, "no-graph")["detail"]
    with pytest.raises(httpx.HTTPStatusError) as error:
        await sdk.threads.update_state("no-such-thread", {"note": "n"})
    refused(error, 404, "unknown-thread")


async def test_updates_at_once_lose_and_double_nothing(sdk: LangGraphClient) -> None:
    thread = await asked(sdk)
    sent = [sdk.threads.update_state(thread, {"items": [f"n{n}"]}, as_node="count") for n in range(6)]
    answers = await asyncio.gather(*sent, return_exceptions=True)
    made = [f"n{n}" for n, answer in enumerate(answers) if not isinstance(answer, BaseException)]
    for answer in answers:
        if isinstance(answer, BaseException):
            assert isinstance(answer, httpx.HTTPStatusError)
            assert answer.response.json()["type"] == f"{PROBLEM}thread-busy"
    state: Any = await sdk.threads.get_state(thread)
    assert sorted(state["values"]["items"][2:]) == sorted(made)
    assert made


async def test_the_same_key_makes_one_update(served: Any, sdk: LangGraphClient) -> None:
    thread = await asked(sdk)
    body = {"values": {"items": ["once"]}, "as_node": "count"}
    path, key = f"/threads/{thread}/state", {"Idempotency-Key": f"key-{thread}"}
    first, second = (served.http.post(path, json=body, headers=key) for _ in range(2))
    assert (first.status_code, second.status_code, first.json()) == (200, 200, second.json())
    assert (first.headers.get("idempotent-replayed"), second.headers["idempotent-replayed"]) == (None, "true")
    other = served.http.post(path, json=body | {"as_node": "ask"}, headers=key)
    assert (other.status_code, other.json()["type"]) == (422, f"{PROBLEM}idempotency-conflict")
    state: Any = await sdk.threads.get_state(thread)
    assert state["values"]["items"].count("once") == 1


async def test_a_thread_is_made_with_states(
    served: Any, sdk: LangGraphClient, reference: Any, opensearch_url: str
) -> None:
    supersteps: Any = [
        {"updates": [{"values": {"items": ["a"]}, "as_node": "__start__"}]},
        {"updates": [{"values": {"items": ["b"]}, "as_node": "count"}]},
        {"updates": [{"values": None, "command": {"update": {"note": "n"}}, "as_node": "ask"}]},
    ]
    thread: Any = await sdk.threads.create(graph_id="ledger", supersteps=supersteps)
    assert thread["values"] == {"items": ["a", "b"], "note": "n"}
    assert thread["status"] == "interrupted"
    graph = reference()
    updates = [[StateUpdate(one["values"], one["as_node"]) for one in s["updates"]] for s in supersteps[:2]]
    graph.bulk_update_state(CONFIG, updates)
    graph.update_state(CONFIG, Command(update={"note": "n"}), as_node="ask")
    assert told(await sdk.threads.get_history(thread["thread_id"])) == told_by(graph)
    served.assert_indexed(opensearch_url, [thread["thread_id"]])
    repeated = await sdk.threads.create(
        thread_id=thread["thread_id"], if_exists="do_nothing", graph_id="ledger", supersteps=supersteps
    )
    assert repeated["values"] == thread["values"]
    ended: Any = await sdk.runs.wait(thread["thread_id"], "ledger", input=None)
    assert ended["items"] == ["a", "b", "closed after 2"]


async def test_a_thread_whose_states_are_refused_is_not_made(sdk: LangGraphClient) -> None:
    supersteps: Any = [
        {"updates": [{"values": {"items": ["a"]}, "as_node": "__start__"}]},
        {"updates": [{"values": {"items": ["refuse"]}, "as_node": "count"}]},
    ]
    with pytest.raises(httpx.HTTPStatusError) as error:
        await sdk.threads.create(thread_id="refused-states", graph_id="ledger", supersteps=supersteps)
    assert "no such item" in refused(error, 422, "update-refused")["detail"]
    with pytest.raises(httpx.HTTPStatusError) as error:
        await sdk.threads.get("refused-states")
    refused(error, 404, "unknown-thread")


async def test_a_worker_that_is_killed_in_an_update(
    served: Any, sdk: LangGraphClient, tmp_path: Path, opensearch_url: str
) -> None:
    gate = tmp_path / "gate.open"
    supersteps: Any = [
        {"updates": [{"values": {"items": ["a"]}, "as_node": "__start__"}]},
        {"updates": [{"values": {"items": ["b", f"wait:{gate}"]}, "as_node": "count"}]},
    ]
    thread = "killed-in-an-update"
    making = asyncio.create_task(sdk.threads.create(thread_id=thread, graph_id="ledger", supersteps=supersteps))
    await until(gate.with_suffix(".reached").exists, "the worker is in the second superstep")
    assert served.db.notebook.count_documents({"thread": thread, "kind": "c"}) == 1
    worker = served.services["agent_step"]
    worker.kill()
    with pytest.raises(httpx.HTTPStatusError) as error:
        await making
    problem = refused(error, 409, "update-pending")
    path = error.value.response.headers["location"]
    assert path in problem["detail"]
    assert served.http.get(path).json()["status"] in {"pending", "running"}
    gate.touch()
    worker.start()
    ended = until_blocking(
        lambda: served.http.get(path).json(), "the update has ended", holds=lambda run: run["status"] == "success"
    )
    assert served.db.runs.find_one({"_id": ended["run_id"]})["epoch"] == 2
    repeated: Any = await sdk.threads.create(
        thread_id=thread, if_exists="do_nothing", graph_id="ledger", supersteps=supersteps
    )
    assert repeated["values"] == {"items": ["a", "b", f"wait:{gate}"]}
    history = await sdk.threads.get_history(thread)
    assert [one["metadata"]["source"] for one in history] == ["update", "update"]
    until_blocking(
        lambda: served.db.runs.find_one({"_id": ended["run_id"]})["settled"], "the events of the update are published"
    )
    served.assert_indexed(opensearch_url, [thread])
    until_blocking(lambda: differences(served) == [], "index and store agree", explain=lambda: differences(served))


async def test_no_worker_serves_the_graph(served: Any, sdk: LangGraphClient) -> None:
    thread = await asked(sdk)
    history = await sdk.threads.get_history(thread)
    served.services.stop(["agent_step"])
    try:
        with pytest.raises(httpx.HTTPStatusError) as error:
            await sdk.threads.update_state(thread, {"note": "n"})
        assert "Nothing was changed" in refused(error, 503, "no-worker")["detail"]
    finally:
        served.services["agent_step"].start()
    assert await sdk.threads.get_history(thread) == history
