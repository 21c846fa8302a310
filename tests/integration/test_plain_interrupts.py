"""Plain interrupts on a real worker: each opens a question, the node gets the bare answer, and who answered is not lost."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from tests.integration.worker_stage import open_worker
from typing_extensions import TypedDict  # of typing only from Python 3.12 on, says pydantic

from perdure.chassis.clock import now
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.payload import pack
from perdure.registry.questions import question_in
from perdure.registry.waits import Waits
from perdure.schemas.waits import WAIT_MARK, OutcomeKind, WaitOutcome


class State(TypedDict, total=False):
    answer: Any


@pytest.mark.parametrize("value", [{WAIT_MARK: "of the graph"}, {WAIT_MARK: 1, "kind": "no such kind"}], ids=str)
async def test_a_plain_interrupt_that_uses_our_key_is_answered_like_any_other(
    mongodb_uri: str, kafka_bootstrap: str, value: dict[str, Any]
) -> None:
    def ask(_: State) -> State:
        return {"answer": interrupt(value)}

    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": builder.compile()}) as stage:
        run = await stage.run()
        await stage.worker.start([run["thread_id"]])
        asked = await stage.until(run, "interrupted")
        assert [one["value"] for one in asked["interrupts"]] == [value]
        (question,) = await stage.db.waits.find({}).to_list(None)
        assert question["interrupt"] == {"value": value, "response_schema": None}
        assert (question["status"], "due_at" in question) == ("open", False), "nothing but an answer ends it"

        command = pack({"command": {"resume": "yes"}}).inline
        resumed = await stage.run(thread_id=run["thread_id"], new_thread=False, payload=command)
        await stage.worker.start([run["thread_id"]])
        await stage.until(resumed, "success")
        state = await stage.saver.aget_tuple({"configurable": {"thread_id": run["thread_id"]}})
        assert state is not None
        assert state.checkpoint["channel_values"]["answer"] == "yes"
        (question,) = await stage.db.waits.find({}).to_list(None)
        assert question["status"] == "closed"


class Limit(TypedDict):
    limit: int


class Answers(TypedDict, total=False):
    answers: Annotated[list[Any], operator.add]


def asking(*values: Any, schema: Any = None) -> Any:
    """A graph of which a node of its own asks each of these values, all at once."""
    builder = StateGraph(Answers)
    for number, value in enumerate(values):
        builder.add_node(f"n{number}", lambda _, v=value: {"answers": [interrupt(v, response_schema=schema)]})
        builder.add_edge(START, f"n{number}")
        builder.add_edge(f"n{number}", END)
    return builder.compile()


def outcome(wait: Any, answer: Any) -> WaitOutcome:
    return WaitOutcome(kind=OutcomeKind.ANSWER, wait_id=wait["_id"], at=now(), payload=answer, by="ann")


async def waits_of(stage: Any) -> dict[Any, Any]:
    return {one["interrupt"]["value"]: one for one in await stage.db.waits.find({}).to_list(None)}


@contextlib.asynccontextmanager
async def waits_on(stage: Any, kafka: str) -> AsyncIterator[Waits]:
    producer = Producer(kafka, "test")
    runs = GroupCommit(stage.db["runs"], availability=stage.saver.availability)
    waits = Waits(stage.db, runs, producer, stage.saver.availability, "test")
    yield waits
    await waits.aclose()
    await runs.close()
    await producer.close(2)


async def test_several_at_once_are_answered_one_by_one(mongodb_uri: str, kafka_bootstrap: str) -> None:
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": asking("a?", "b?")}) as stage:
        run = await stage.run()
        thread = run["thread_id"]
        await stage.worker.start([thread])
        await stage.until(run, "interrupted")
        asked = await waits_of(stage)
        assert set(asked) == {"a?", "b?"}
        async with waits_on(stage, kafka_bootstrap) as waits:
            first = await waits.wake(asked["b?"], outcome(asked["b?"], {"perdure_outcome": "of the person"}))
            await stage.worker.start([thread])
            await stage.until(first.run, "interrupted")
            states = {value: one["status"] for value, one in (await waits_of(stage)).items()}
            assert states == {"a?": "open", "b?": "answered"}
            again = await waits.wake(asked["b?"], outcome(asked["b?"], "too late"))
            assert (again.won, again.outcome.payload, again.outcome.by) == (
                False,
                {"perdure_outcome": "of the person"},
                "ann",
            )
            second = await waits.wake(asked["a?"], outcome(asked["a?"], None))
            await stage.worker.start([thread])
            await stage.until(second.run, "success")
            ended = await waits_of(stage)
            assert {value: one["outcome"].get("payload") for value, one in ended.items()} == {
                "a?": None, "b?": {"perdure_outcome": "of the person"},
            }  # fmt: skip
            assert {one["woken_by"] for one in ended.values()} == {first.run["_id"], second.run["_id"]}
        state = await stage.saver.aget_tuple({"configurable": {"thread_id": thread}})
        assert state is not None
        assert state.checkpoint["channel_values"]["answers"] == [None, {"perdure_outcome": "of the person"}]


async def test_a_response_schema_is_in_the_question_and_in_the_runs_interrupts(
    mongodb_uri: str, kafka_bootstrap: str
) -> None:
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": asking("How much?", schema=Limit)}) as stage:
        run = await stage.run()
        await stage.worker.start([run["thread_id"]])
        asked = await stage.until(run, "interrupted")
        (question,) = await stage.db.waits.find({}).to_list(None)
        schema = question["interrupt"]["response_schema"]
        assert schema["properties"]["limit"]["type"] == "integer"
        assert [one["response_schema"] for one in asked["interrupts"]] == [schema]
        assert question_in(question).answer_schema == schema


async def test_a_command_that_answers_all_closes_all(mongodb_uri: str, kafka_bootstrap: str) -> None:
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": asking("a?", "b?")}) as stage:
        run = await stage.run()
        await stage.worker.start([run["thread_id"]])
        await stage.until(run, "interrupted")
        resume = {one["interrupt_id"]: f"to {value}" for value, one in (await waits_of(stage)).items()}
        command = pack({"command": {"resume": resume}}).inline
        resumed = await stage.run(thread_id=run["thread_id"], new_thread=False, payload=command)
        await stage.worker.start([run["thread_id"]])
        await stage.until(resumed, "success")
        assert {one["status"] for one in (await waits_of(stage)).values()} == {"closed"}
        state = await stage.saver.aget_tuple({"configurable": {"thread_id": run["thread_id"]}})
        assert state is not None
        assert state.checkpoint["channel_values"]["answers"] == ["to a?", "to b?"]
