"""What Deep Agents' UI asks of a server, replayed with the Python SDK: every answer has what the UI reads, also after a reload.

The requests are those of langchain-ai/deep-agents-ui, ``src/app/hooks/useChat.ts`` and ``useThreads.ts``: list threads, make one,
run, state, history, change the files, stop. States are compared with those that LangGraph's own saver has of the same agent.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from tests.e2e.test_deltas import CONFIG, FOLDER, differences, history, load_agents, plain, told
from tests.support.polling import until

pytestmark = pytest.mark.timeout(240)

ORIGIN = "http://localhost:3000"
DONE = [{"content": "research", "status": "completed"}, {"content": "write", "status": "completed"}]


@pytest.fixture(scope="module")
def agents() -> Any:
    return load_agents()


@pytest.fixture(scope="module")
def served(start_module_system: Any) -> Any:
    settings = {"PERDURE_LANGGRAPH_CONFIG": str(FOLDER / "langgraph.json"), "PERDURE_CORS_ALLOW_ORIGINS": ORIGIN}
    return start_module_system(settings=settings)


@pytest.fixture
async def sdk(served: Any) -> AsyncIterator[LangGraphClient]:
    client = get_client(url=served.services.gateway_url, api_key=None, headers={"Origin": ORIGIN})
    yield client
    await client.aclose()


def asked(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def test_the_calls_of_the_ui(served: Any, sdk: LangGraphClient, agents: Any, opensearch_url: str) -> None:
    reference = agents.team_agent(InMemorySaver())
    reference.invoke(asked("Write about zucchini."), CONFIG)
    mine = {"content": "my own words", "encoding": "utf-8", "created_at": "2026-01-01", "modified_at": "2026-01-01"}
    preflight = served.http.options(
        "/threads/search", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assistants = await sdk.assistants.search(graph_id="team")
    mark = {"assistant_id": assistants[0]["assistant_id"]}
    listing: Any = {"limit": 20, "offset": 0, "sort_by": "updated_at", "sort_order": "desc", "metadata": mark}
    assert await sdk.threads.search(**listing) == []

    thread = (await sdk.threads.create(metadata=mark))["thread_id"]
    empty: Any = await sdk.threads.get_state(thread)
    assert (empty["values"], empty["next"], empty["tasks"], empty["checkpoint"]) == ({}, [], [], None)
    assert await sdk.threads.get_history(thread) == []
    run = await sdk.runs.create(thread, "team", input=asked("Write about zucchini."), config={"recursion_limit": 100})
    await sdk.runs.join(thread, run["run_id"])
    state: Any = await sdk.threads.get_state(thread, subgraphs=True)
    assert plain(state["values"]) == plain(reference.get_state(CONFIG).values)
    assert (state["values"]["todos"], set(state["values"]["files"])) == (DONE, {"/facts.txt"})
    assert state["values"]["messages"][4]["content"] == "A zucchini is a courgette."
    assert history(served, thread) == told(reference)
    (call,) = [
        task
        for one in await sdk.threads.get_history(thread, limit=100)
        for task in one["tasks"]
        if task["result"] and "/facts.txt" in (task["result"].get("files") or {})  # type: ignore[attr-defined]
    ]
    assert (call["path"][0], call["result"]["messages"][0]["tool_call_id"]) == ("__pregel_push", "t2")  # type: ignore[typeddict-item]

    answer: Any = await sdk.threads.update_state(thread, {"files": {"/mine.txt": mine}})
    reference.update_state(CONFIG, {"files": {"/mine.txt": mine}})
    assert answer["checkpoint"]["thread_id"] == thread
    changed: Any = await sdk.threads.get_state(thread)
    assert changed["values"]["files"]["/mine.txt"] == mine
    assert changed["values"] == state["values"] | {"files": changed["values"]["files"]}
    assert changed["next"] == []
    assert history(served, thread) == told(reference)

    reference.invoke(asked("Now read mine."), CONFIG)
    values: Any = await sdk.runs.wait(thread, "team", input=asked("Now read mine."))
    assert plain(values) == plain(reference.get_state(CONFIG).values)
    assert set(values["files"]) == {"/facts.txt", "/mine.txt"}
    assert history(served, thread) == told(reference)
    (listed,) = await sdk.threads.search(**listing)
    assert (listed["thread_id"], listed["status"]) == (thread, "idle")
    assert plain(listed["values"]) == plain(values)
    assert listed["values"]["messages"][0]["content"] == "Write about zucchini."
    served.assert_indexed(opensearch_url, [thread])
    assert differences(served) == []


async def test_files_are_changed_while_the_agent_waits_and_stop_stops(
    served: Any, sdk: LangGraphClient, tmp_path: Path
) -> None:
    gate = tmp_path / "never.gate"
    thread = (await sdk.threads.create())["thread_id"]
    run = await sdk.runs.create(thread, "deep", input=asked(f"Write about the aubergine, but wait for {gate} first."))

    async def messages() -> int:
        state: Any = await sdk.threads.get_state(thread)
        return len(state["values"].get("messages", ()))

    await until(messages, "the agent works", holds=lambda count: count == 5)
    (busy,) = await sdk.threads.search(ids=[thread])
    assert busy["status"] == "busy"
    await sdk.runs.cancel(thread, run["run_id"], wait=True, action="interrupt")
    stopped: Any = await sdk.threads.get_state(thread)
    files = stopped["values"]["files"]
    edited = files["/a.txt"] | {"content": "cucumber\n"}
    await sdk.threads.update_state(thread, {"files": {"/a.txt": edited}}, as_node="tools")
    state: Any = await sdk.threads.get_state(thread)
    assert (state["values"]["files"]["/a.txt"], state["next"]) == (edited, ["model"])
    assert len(state["values"]["messages"]) == 5
    (shown,) = await sdk.threads.search(ids=[thread])
    assert (shown["status"], shown["values"]) == ("interrupted", state["values"])
    gate.touch()
    values: Any = await sdk.runs.wait(thread, "deep", input=None)
    assert values["messages"][-1]["content"] == "The report on aubergines is written."
    assert values["files"]["/a.txt"] == edited


async def test_what_the_ui_streams(sdk: LangGraphClient, agents: Any) -> None:
    """``useStream`` of the UI: states and tokens, sub-agents as well, to be joined again after a reload."""
    reference = agents.team_agent(InMemorySaver())
    reference.invoke(asked("Write about zucchini."), CONFIG)
    whole = reference.get_state(CONFIG).values
    thread = (await sdk.threads.create())["thread_id"]
    stream: Any = sdk.runs.stream(
        thread,
        "team",
        input=asked("Write about zucchini."),
        stream_mode=["values", "messages-tuple"],
        stream_subgraphs=True,
        stream_resumable=True,
        on_disconnect="continue",
    )
    seen = [part async for part in stream]
    (last,) = [part.data for part in seen if part.event == "values"][-1:]
    assert plain(last) == plain(whole)

    chunks = [(part.event, part.data[0]) for part in seen if part.event.partition("|")[0] == "messages"]
    calls: dict[str, str] = {}
    words: dict[str, str] = {}
    for _, chunk in chunks:
        if chunk["type"] == "AIMessageChunk":
            words[chunk["id"]] = words.get(chunk["id"], "") + chunk["content"]
            for call in chunk["tool_call_chunks"]:
                calls[chunk["id"]] = calls.get(chunk["id"], "") + (call["args"] or "")
    own = {one.id: one for one in whole["messages"] if one.type == "ai"}
    for name, message in own.items():
        assert words[name] == message.content
        if message.tool_calls:
            assert json.loads(calls[name]) == message.tool_calls[0]["args"]
    of_subagents = {chunk["id"] for event, chunk in chunks if "|" in event and chunk["type"] == "AIMessageChunk"}
    assert {words[name] for name in of_subagents if name not in own} >= {"A zucchini is a courgette."}

    (started,) = [part.data for part in seen if part.event == "metadata"]
    again = [part async for part in sdk.runs.join_stream(thread, started["run_id"], last_event_id=seen[4].id)]
    assert [part.id for part in again] == [part.id for part in seen[5:]]
