"""What histories say is what LangGraph streams, event for event, in every mode that is told from the history."""

from __future__ import annotations

import json
import operator
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from tests.support.recorded import Recorded, Thread, comparable

from perdure.gateway.streams.telling import Told


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    n: int


def says(text: str) -> Any:
    return lambda _: {"log": [text]}


def same(run: Recorded) -> None:
    streamed, said = comparable(run.streamed), comparable(run.said)
    assert said.keys() == streamed.keys()
    for ns, events in streamed.items():
        assert said[ns] == events, ns
    assert run.told[-1].event == "end"


async def test_one_node_after_another() -> None:
    builder = StateGraph(State).add_sequence([("a", says("a")), ("b", says("b"))]).add_edge(START, "a")
    thread = Thread(builder)
    same(await thread.run({"log": ["in"], "n": 1}))
    same(await thread.run({"log": ["again"]}))


async def test_parallel_nodes_and_a_join() -> None:
    builder = StateGraph(State)
    for name in ("a", "b", "c", "d"):
        builder.add_node(name, says(name))
    builder.add_edge(START, "a").add_edge("a", "b").add_edge("a", "c").add_edge(["b", "c"], "d").add_edge("d", END)
    same(await Thread(builder).run({"log": []}))


async def test_sends_and_commands() -> None:
    def fan(_: State) -> list[Send]:
        return [Send("work", {"n": n}) for n in range(3)]

    def work(state: State) -> Command[Any]:
        return Command(update={"log": [f"work {state['n']}"]}, goto="last" if state["n"] == 1 else ())

    builder = StateGraph(State).add_node("fan", says("fan")).add_node("work", work).add_node("last", says("last"))
    builder.add_edge(START, "fan").add_conditional_edges("fan", fan, ["work"])
    same(await Thread(builder).run({"log": []}))


async def test_a_node_that_writes_nothing_and_one_that_writes_twice() -> None:
    def twice(_: State) -> list[Any]:
        return [Command(update={"log": ["1"]}), Command(update={"log": ["2"]})]

    builder = StateGraph(State).add_sequence([("nothing", lambda _: None), ("twice", twice)]).add_edge(START, "nothing")
    same(await Thread(builder).run({"log": []}))


def asking() -> StateGraph[Any]:
    def ask(_: State) -> State:
        return {"log": [f"answer {interrupt('may I?')}"]}

    return StateGraph(State).add_sequence([("a", says("a")), ("ask", ask), ("z", says("z"))]).add_edge(START, "a")


async def test_an_interrupt_and_its_answer() -> None:
    thread = Thread(asking())
    same(await thread.run({"log": []}))
    same(await thread.run(Command(resume="yes"), {"resume": "yes"}))


async def test_an_interrupt_beside_a_node_that_ends() -> None:
    def ask(_: State) -> State:
        return {"log": [f"answer {interrupt('may I?')}"]}

    builder = StateGraph(State).add_node("ask", ask).add_node("b", says("b")).add_node("z", says("z"))
    builder.add_edge(START, "ask").add_edge(START, "b").add_edge(["ask", "b"], "z")
    thread = Thread(builder)
    first = await thread.run({"log": []})
    last = first.streamed.pop()
    assert last[1] == "values", "LangGraph shows what no checkpoint has: what b wrote beside the interrupt"
    same(first)
    same(await thread.run(Command(resume="yes"), {"resume": "yes"}))


async def test_a_stop_before_and_after_a_node() -> None:
    builder = (
        StateGraph(State).add_sequence([("a", says("a")), ("b", says("b")), ("c", says("c"))]).add_edge(START, "a")
    )
    for asked in ({"interrupt_before": ["b"]}, {"interrupt_after": ["a"]}, {"interrupt_before": "*"}):
        thread = Thread(builder)
        same(await thread.run({"log": []}, **asked))
        same(await thread.run(None))


async def test_a_goto_from_outside() -> None:
    thread = Thread(asking())
    await thread.run({"log": []})
    gone = await thread.run(Command(goto="z"), {"goto": "z"})
    assert gone.streamed.pop()[1] == "values", "z ended beside the question that is asked again"
    same(gone)


async def test_a_node_that_fails_beside_one_that_ends() -> None:
    def fail(_: State) -> State:
        raise ValueError("broken")

    builder = StateGraph(State).add_node("a", says("a")).add_node("fail", fail)
    builder.add_edge(START, "a").add_edge(START, "fail")
    run = await Thread(builder).run({"log": []})
    same(run)
    assert [(one.event, one.data) for one in run.told[-2:]] == [
        ("error", b'{"error":"ValueError","message":"broken"}'),
        ("end", b"null"),
    ]


def within(inner: StateGraph[Any]) -> StateGraph[Any]:
    outer = StateGraph(State).add_node("before", says("before")).add_node("sub", inner.compile())
    return outer.add_edge(START, "before").add_edge("before", "sub")


async def test_a_subgraph() -> None:
    inner = StateGraph(State).add_sequence([("x", says("x")), ("y", says("y"))]).add_edge(START, "x")
    same(await Thread(within(within(inner))).run({"log": []}))


async def test_an_interrupt_in_a_subgraph() -> None:
    thread = Thread(within(asking()))
    same(await thread.run({"log": []}))
    same(await thread.run(Command(resume="yes"), {"resume": "yes"}))


async def test_whole_messages_once_each_with_their_ids() -> None:
    def answer(state: MessagesState) -> dict[str, Any]:
        given = state["messages"][-1]
        return {"messages": [given, AIMessage("without an id"), AIMessage("with an id", id="mine")]}

    builder = StateGraph(MessagesState).add_sequence([("answer", answer)]).add_edge(START, "answer")
    run = await Thread(builder).run({"messages": [HumanMessage("hello", id="first")]})
    whole = [json_of(one) for one in run.told if one.whole and one.mode == "messages-tuple"]
    final = json_of([one for one in run.told if one.mode == "values"][-1])["messages"]
    assert [message["content"] for message, _ in whole] == ["without an id", "with an id"]
    assert [message["id"] for message, _ in whole] == [message["id"] for message in final[1:]]
    assert whole[0][1]["langgraph_node"] == "answer"
    assert whole[0][1]["run_id"] == "run-1"
    complete = [json_of(one) for one in run.told if one.event == "messages/complete"]
    assert complete == [[message] for message, _ in whole]


def json_of(one: Told) -> Any:
    return json.loads(one.data)
