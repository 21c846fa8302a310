"""The states that the gateway shows are those that LangGraph itself reads from the checkpoints."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt
from langgraph_sdk.client import LangGraphClient
from tests.integration.gateway_stage import Gateway, gateway_of_module, gateway_sdk, new_thread  # noqa: F401

from perdure.checkpoint import PerdureSaver


class Talk(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    approved: bool


def talk_graph(saver: PerdureSaver) -> Any:
    def say(_: Talk) -> Talk:
        return {"messages": [AIMessage("hi", id="2")]}

    def ask(_: Talk) -> Talk:
        return {"approved": interrupt({"question": "go on?"})}

    inner = StateGraph(Talk).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END).compile()
    builder = StateGraph(Talk).add_node("say", say).add_node("approve", inner)
    return (
        builder.add_edge(START, "say").add_edge("say", "approve").add_edge("approve", END).compile(checkpointer=saver)
    )


def ran(tasks: Any) -> list[Any]:
    """Name, path and result of LangGraph's tasks, as JSON has them."""
    return sorted(([task.name, list(task.path), task.result] for task in tasks), key=repr)


def shown(tasks: Any) -> list[Any]:
    return sorted(([task["name"], task["path"], task["result"]] for task in tasks), key=repr)


async def test_states_are_those_of_the_graph(gateway: Gateway, sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create(metadata={"by": "sdk"})
    thread_id = thread["thread_id"]
    empty = await sdk.threads.get_state(thread_id)
    assert (empty["values"], empty["next"], empty["checkpoint"]) == ({}, [], None)
    graph = talk_graph(PerdureSaver(gateway.database))
    config: Any = {"configurable": {"thread_id": thread_id}}
    await graph.ainvoke({"messages": [HumanMessage("hello", id="1")]}, config)
    expected = await graph.aget_state(config, subgraphs=True)

    state = await sdk.threads.get_state(thread_id, subgraphs=True)
    assert state["next"] == list(expected.next) == ["approve"]
    assert [m["type"] for m in state["values"]["messages"]] == ["human", "ai"]  # type: ignore[call-overload,index]
    assert state["checkpoint"]["checkpoint_id"] == expected.config["configurable"]["checkpoint_id"]
    assert state["parent_checkpoint"] is not None
    (task,) = state["tasks"]
    assert (task["id"], task["name"]) == (expected.tasks[0].id, "approve")
    assert task["interrupts"][0]["value"] == {"question": "go on?"}
    assert task["interrupts"][0]["id"] == expected.tasks[0].interrupts[0].id
    assert task["state"] is not None
    assert task["state"]["next"] == ["ask"]
    assert [one["value"] for one in state["interrupts"]] == [{"question": "go on?"}]

    shown = await sdk.threads.get(thread_id)
    assert shown["interrupts"] == {task["id"]: task["interrupts"]}
    assert shown["values"] == state["values"]

    await graph.ainvoke(Command(resume=True), config)
    final = await sdk.threads.get_state(thread_id)
    assert (final["next"], final["tasks"], final["values"]["approved"]) == ([], [], True)  # type: ignore[call-overload]
    past = await sdk.threads.get_history(thread_id, limit=10)
    told = [snapshot async for snapshot in graph.aget_state_history(config)]
    assert [one["checkpoint"]["checkpoint_id"] for one in past] == [
        one.config["configurable"]["checkpoint_id"] for one in told
    ]
    assert [one["next"] for one in past] == [list(one.next) for one in told]
    older = await sdk.threads.get_history(thread_id, limit=1, before=past[1]["checkpoint"]["checkpoint_id"])
    assert [one["checkpoint"] for one in older] == [past[2]["checkpoint"]]
    chosen = await sdk.threads.get_state(thread_id, checkpoint_id=past[-1]["checkpoint"]["checkpoint_id"])
    assert chosen["checkpoint"] == past[-1]["checkpoint"]
    by_metadata = await sdk.threads.get_history(thread_id, metadata={"source": "input"})
    assert [one["metadata"]["source"] for one in by_metadata] == ["input"]  # type: ignore[index]


async def test_parallel_tasks_are_told_apart(gateway: Gateway) -> None:
    class Sums(TypedDict, total=False):
        a: int
        b: int
        c: int

    def fail(_: Sums) -> Sums:
        raise ValueError("no")

    builder = StateGraph(Sums)
    builder.add_node("a", lambda _: {"a": 1}).add_node("b", lambda _: {"b": interrupt("b?")}).add_node("c", fail)
    for node in ("a", "b", "c"):
        builder.add_edge(START, node).add_edge(node, END)
    graph = builder.compile(checkpointer=PerdureSaver(gateway.database))
    thread_id = await new_thread(gateway)
    config: Any = {"configurable": {"thread_id": thread_id}}
    with pytest.raises(ValueError, match="no"):
        await graph.ainvoke({}, config)
    expected = await graph.aget_state(config)
    state = (await gateway.http.get(f"/threads/{thread_id}/state")).json()
    assert sorted(state["next"]) == sorted(expected.next)
    assert shown(state["tasks"]) == ran(expected.tasks)
    assert {repr(task["result"]) for task in state["tasks"]} == {"{'a': 1}", "None"}
    by_name = {task["name"]: task for task in state["tasks"]}
    assert set(by_name) == {"a", "b", "c"}
    assert "ValueError" in by_name["c"]["error"]
    for task in expected.tasks:
        assert by_name[task.name]["interrupts"] == [{"id": one.id, "value": one.value} for one in task.interrupts]


async def test_fan_out_and_join(gateway: Gateway) -> None:
    class Parts(TypedDict, total=False):
        done: Annotated[list[int], operator.add]
        total: int

    def part(arg: Any) -> Parts:
        return {"done": [arg["n"] if arg["n"] != 1 else interrupt("one?")]}

    builder = StateGraph(Parts)
    builder.add_node("plan", lambda _: {}).add_node("part", part).add_node("last", lambda _: {})
    builder.add_node("sum", lambda state: {"total": sum(state["done"])})
    builder.add_edge(START, "plan").add_edge(["part", "last"], "sum").add_edge("sum", END)
    builder.add_conditional_edges("plan", lambda _: [*(Send("part", {"n": n}) for n in range(3)), "last"])
    graph = builder.compile(checkpointer=PerdureSaver(gateway.database))
    thread_id = await new_thread(gateway)
    config: Any = {"configurable": {"thread_id": thread_id}}
    await graph.ainvoke({"done": []}, config)
    expected = await graph.aget_state(config)
    state = (await gateway.http.get(f"/threads/{thread_id}/state")).json()
    assert sorted(state["next"]) == sorted(expected.next)
    assert {(task["id"], task["name"]) for task in state["tasks"]} == {(task.id, task.name) for task in expected.tasks}
    assert shown(state["tasks"]) == ran(expected.tasks)
    assert ["part", ["__pregel_push", 2, False], {"done": [2]}] in shown(state["tasks"])
    assert ["part", ["__pregel_push", 1, False], None] in shown(state["tasks"])
    assert ["last", ["__pregel_pull", "last"], {}] in shown(state["tasks"])
    await graph.ainvoke(Command(resume=1), config)
    past = (await gateway.http.get(f"/threads/{thread_id}/history")).json()
    told = [snapshot async for snapshot in graph.aget_state_history(config)]
    assert [sorted(one["next"]) for one in past] == [sorted(one.next) for one in told]
    assert [shown(one["tasks"]) for one in past] == [ran(one.tasks) for one in told]
    assert past[0]["values"] == {"done": [0, 1, 2], "total": 3}
