"""LangGraph's ``RemoteGraph``: a graph that Perdure runs, as a node of a graph that runs elsewhere."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_client


@pytest.fixture
async def remote(system: Any) -> AsyncIterator[RemoteGraph]:
    async with get_client(url=system.services.gateway_url) as client:
        yield RemoteGraph("agent", client=client)


def parent_of(remote: RemoteGraph) -> Any:
    async def before(_: MessagesState) -> dict[str, Any]:
        return {"messages": [HumanMessage("asked by the parent")]}

    builder = StateGraph(MessagesState)
    builder.add_node("before", before)
    builder.add_node("remote", remote)
    builder.add_edge(START, "before")
    builder.add_edge("before", "remote")
    builder.add_edge("remote", END)
    return builder.compile(checkpointer=InMemorySaver())


async def test_it_is_invoked_alone(remote: RemoteGraph) -> None:
    values: Any = await remote.ainvoke({"messages": [{"role": "user", "content": "one"}]})
    assert [one["content"] for one in values["messages"]] == ["one", "I heard: one "]


async def test_it_is_a_node_of_another_graph(remote: RemoteGraph) -> None:
    config = {"configurable": {"thread_id": str(uuid.uuid4())}}
    values = await parent_of(remote).ainvoke({"messages": [HumanMessage("hi")]}, config)
    assert [one.content for one in values["messages"]] == ["hi", "asked by the parent", "I heard: asked by the parent "]


async def test_what_it_says_is_told_by_the_graph_that_it_is_a_node_of(remote: RemoteGraph) -> None:
    config = {"configurable": {"thread_id": str(uuid.uuid4())}}
    told = [
        part
        async for part in parent_of(remote).astream(
            {"messages": [HumanMessage("hi")]}, config, stream_mode=["updates", "messages"], subgraphs=True
        )
    ]
    nodes = [list(data) for ns, mode, data in told if mode == "updates" and not ns]
    assert nodes == [["before"], ["remote"]]
    within = [data for ns, mode, data in told if mode == "updates" and ns]
    assert [list(one) for one in within] == [["agent"]]
    words = [data[0]["content"] for ns, mode, data in told if mode == "messages" and ns]
    assert words[:3] == ["I ", "heard: ", "asked "]


async def test_its_interrupt_is_the_parents_and_so_is_the_answer(remote: RemoteGraph) -> None:
    """Through the thread that the remote graph keeps."""
    config: Any = {"configurable": {"thread_id": str(uuid.uuid4())}}
    stopped: Any = await remote.ainvoke({"messages": [{"role": "user", "content": "transfer"}]}, config)
    assert stopped["messages"][-1]["content"] == "I heard: transfer "
    state = await remote.aget_state(config)
    assert state.next == ("approve",)
    (asked,) = [one for task in state.tasks for one in task.interrupts]
    assert asked.value[0]["action_request"]["action"] == "transfer"
