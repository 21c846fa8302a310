"""Pure decisions of agent-step, checked against what LangGraph itself does."""

from __future__ import annotations

import operator
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import InvalidUpdateError, NodeTimeoutError
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from perdure.agent_step import domain
from perdure.agent_step.domain import Outcome, RunStatus
from perdure.schemas.events import ErrorInfo, InterruptInfo


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def _node(name: str) -> Any:
    return lambda _: {"log": [name]}


def _graph() -> Any:
    builder = StateGraph(State)
    for name in ("a", "b", "c", "joined", "each"):
        builder.add_node(name, _node(name))
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    builder.add_edge("a", "c")
    builder.add_edge(["b", "c"], "joined")
    builder.add_conditional_edges("joined", lambda _: [Send("each", {}) for _ in range(3)], ["each"])
    builder.add_edge("each", END)
    return builder.compile(checkpointer=InMemorySaver())


def test_nodes_that_ran_and_run_next_are_those_that_langgraph_names() -> None:
    graph = _graph()
    config: Any = {"configurable": {"thread_id": "t"}}
    graph.invoke({"log": []}, config)
    states = list(graph.get_state_history(config))
    assert len(states) == 6
    ran_before: tuple[str, ...] = ()
    for state in reversed(states):
        found = graph.checkpointer.get_tuple(state.config)
        expected = tuple(sorted(set(state.next)))
        assert domain.nodes_next(found.checkpoint) == expected
        if state.metadata["source"] != "input" and ran_before != ("each",):
            assert domain.nodes_ran(found.checkpoint) == tuple(n for n in ran_before if n != "__start__")
        ran_before = expected


def test_an_outcome_survives_its_entry() -> None:
    outcomes = [
        Outcome(RunStatus.SUCCESS, head="c1", steps=3),
        Outcome(RunStatus.INTERRUPTED, interrupts=(InterruptInfo(id="i", value={"q": 1}),), next=("a",), head="c1"),
        Outcome(RunStatus.ERROR, error=ErrorInfo(type="ValueError", message="m", node="n"), next=("n",), head="c1"),
        Outcome(RunStatus.CANCELLED, next=("n",), head=None),
    ]
    for outcome in outcomes:
        entry = {"event": outcome.status.value, "ev": outcome.event_fields()}
        assert Outcome.from_entry(entry) == outcome


@pytest.mark.parametrize(
    ("resume", "waiting", "expected"),
    [
        ("yes", ["i1"], {"i1": "yes"}),
        ({"answer": 1}, ["i1"], {"i1": {"answer": 1}}),
        ({"i1": "yes"}, ["i1"], {"i1": "yes"}),
        ("yes", [], "yes"),
        ("yes", ["i1", "i2"], "yes"),
    ],
)
def test_an_answer_is_addressed_to_the_one_question(resume: Any, waiting: list[str], expected: Any) -> None:
    assert domain.resume_map(resume, waiting) == expected


def test_after_a_crash_only_what_is_still_asked_is_answered() -> None:
    assert domain.still_to_answer({"i1": "yes"}, ["i1"]) == {"i1": "yes"}
    assert domain.still_to_answer({"i1": "yes"}, ["i2"]) is None
    assert domain.still_to_answer({"i1": 1, "i2": 2}, ["i2", "i3"]) == {"i2": 2}


def test_a_time_limit_is_told_from_a_nodes_own_timeout() -> None:
    assert domain.is_timeout(TimeoutError())
    raised_by_node = TimeoutError("the server did not answer")
    raised_by_node.add_note("During task with name 'fetch' and id '123'")
    assert not domain.is_timeout(raised_by_node)
    assert domain.error_info(raised_by_node).node == "fetch"
    assert domain.is_timeout(NodeTimeoutError("fetch", 1.5, kind="run", run_timeout=1.0))
    assert not domain.is_timeout(ValueError())


async def _fails_aside(_: State) -> State:
    return _fails({})


def _fails(_: State) -> State:
    raise ValueError("no net")


@pytest.mark.parametrize("node", [_fails, _fails_aside])
async def test_a_traceback_begins_with_the_users_own_frames(node: Any) -> None:
    inner = StateGraph(State)
    inner.add_node("total", node)
    inner.add_edge(START, "total")
    builder = StateGraph(State)
    builder.add_node("outer", inner.compile())
    builder.add_edge(START, "outer")
    with pytest.raises(ValueError, match="no net") as caught:
        await builder.compile().ainvoke({"log": []})
    info = domain.error_info(as_the_worker_sees_it(caught.value))
    lines = (info.traceback or "").splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    frames = [line.split(", in ")[1] for line in lines if line.startswith("  File ")]
    assert frames[-1] == "_fails"
    assert set(frames) <= {"_fails", "_fails_aside"}
    assert info.node == "total"


async def test_a_traceback_without_a_users_frame_is_whole() -> None:
    builder = StateGraph(State)
    builder.add_node("wrong", lambda _: 7)
    builder.add_edge(START, "wrong")
    with pytest.raises(InvalidUpdateError) as caught:
        await builder.compile().ainvoke({"log": []})
    trace = domain.traceback_of(as_the_worker_sees_it(caught.value))
    assert "/langgraph/pregel/" in trace


def as_the_worker_sees_it(error: BaseException) -> BaseException:
    """The error without the frame of the test, which stands where the worker stands."""
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)


def test_nodes_are_named_where_the_error_names_none() -> None:
    assert domain.error_info(ValueError("no"), ["a", "b"]).node == "a, b"
    assert domain.error_info(ValueError("no")).node is None


def test_a_huge_question_is_replaced_by_a_note() -> None:
    class Asked:
        id = "i"
        value = "x" * (domain.INTERRUPT_VALUE_LIMIT + 1)

    assert "see the thread's state" in domain.interrupt_info(Asked()).value
