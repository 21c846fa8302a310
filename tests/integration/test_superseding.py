"""A run that ends the active runs of its thread, on a worker with real servers: what stays, what is undone, what a crash leaves."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

import orjson
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from tests.integration.worker_stage import Stage, open_worker
from tests.support.polling import until

from perdure.chassis.payload import pack
from perdure.checkpoint import PerdureSaver
from perdure.gateway.resources.states import States


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    ask: bool


class Gate:
    """``a`` notes that it ran and asks if the input says so; ``b`` waits for the test."""

    def __init__(self) -> None:
        self.entered = 0
        self.open = asyncio.Event()

    def graph(self) -> Any:
        def a(state: State) -> State:
            return {"log": ["a" if not state.get("ask") else interrupt("what?")], "ask": False}

        async def b(state: State) -> State:
            self.entered += 1
            await self.open.wait()
            return {"log": ["b"]}

        builder = StateGraph(State)
        builder.add_node("a", a)
        builder.add_node("b", b)
        builder.add_edge(START, "a")
        builder.add_edge("a", "b")
        builder.add_edge("b", END)
        return builder.compile()

    async def reached(self, count: int) -> None:
        await until(lambda: self.entered >= count, f"b was entered {count} times")


async def thread_with_history(stage: Stage, gate: Gate) -> str:
    """A thread whose first run has ended."""
    gate.open.set()
    first = await stage.run(run_input={"log": ["one"]})
    await stage.worker.start([first["thread_id"]])
    await stage.until(first, "success")
    gate.open.clear()
    return str(first["thread_id"])


async def run_on(stage: Stage, thread_id: str, word: str, **fields: Any) -> dict[str, Any]:
    """Register another run of a thread, as the gateway's one insert does, and nothing else."""
    return await stage.run(run_input={"log": [word]}, thread_id=thread_id, new_thread=False, **fields)


async def log_of(stage: Stage, thread_id: str) -> Any:
    state = await States(stage.db, stage.saver.availability).newest(thread_id)
    return state and state["values"].get("log")


async def ended(stage: Stage, thread_id: str, run: Mapping[str, Any], status: str) -> dict[str, Any]:
    """The run's document at its end; what the commands topic would bring is brought by the test."""

    async def look() -> dict[str, Any]:
        await stage.worker.start([thread_id])
        return await stage.stored(run)

    return await until(look, f"the run is {status}", holds=lambda document: document["status"] == status)


@pytest.mark.parametrize(
    ("strategy", "log"),
    [
        ("interrupt", ["one", "a", "b", "two", "a", "three", "a", "b"]),
        ("rollback", ["one", "a", "b", "three", "a", "b"]),
    ],
)
async def test_the_insert_alone_ends_the_older_runs(
    mongodb_uri: str, kafka_bootstrap: str, strategy: str, log: list[str]
) -> None:
    """As a gateway leaves it that is killed right after its insert."""
    gate = Gate()
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": gate.graph()}) as stage:
        thread_id = await thread_with_history(stage, gate)
        active = await run_on(stage, thread_id, "two")
        await stage.worker.start([thread_id])
        await gate.reached(2)
        queued = await run_on(stage, thread_id, "never")
        last = await run_on(stage, thread_id, "three", multitask_strategy=strategy)
        stopped = await ended(stage, thread_id, active, "cancelled")
        assert (await ended(stage, thread_id, queued, "cancelled"))["steps"] == 0
        assert stopped.get("deleted", False) is (strategy == "rollback")
        gate.open.set()
        await ended(stage, thread_id, last, "success")
        assert await log_of(stage, thread_id) == log
        thread = await stage.db.threads.find_one({"_id": thread_id})
        assert thread is not None
        assert (thread["status"], thread["last_run_id"]) == ("idle", last["_id"])
        stored = await stage.db.notebook.find({"thread": thread_id, "seq": {"$exists": True}}).to_list(None)
        assert sorted(one["seq"] for one in stored) == list(range(1, thread["seq"] + 1)), "the history has no gap"
        undone = {one["run"] for one in stored if one.get("undone")}
        assert undone == ({active["_id"], queued["_id"]} if strategy == "rollback" else set())
        states = States(stage.db, stage.saver.availability).history(thread_id, limit=100)
        shown = [orjson.loads(state) async for state in states]
        seen = {word for state in shown for word in state["values"].get("log", ())}
        assert ("two" in seen) is (strategy == "interrupt")
        assert "never" not in seen


async def test_a_rollback_takes_back_an_answer(mongodb_uri: str, kafka_bootstrap: str) -> None:
    gate = Gate()
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": gate.graph()}) as stage:
        asking = await stage.run(run_input={"ask": True})
        thread_id = asking["thread_id"]
        before = await ended(stage, thread_id, asking, "interrupted")
        wrong = await run_on(stage, thread_id, "", payload=pack({"command": {"resume": "wrong"}}).inline)
        await stage.worker.start([thread_id])
        await gate.reached(1)
        change = {"cancel_requested_at": wrong["created_at"], "cancel_action": "rollback"}
        await stage.db.runs.update_one({"_id": wrong["_id"]}, {"$set": change})
        await until(stage.heartbeat, "the worker hears of it", holds=lambda _: True)
        await ended(stage, thread_id, wrong, "cancelled")
        thread = await stage.db.threads.find_one({"_id": thread_id})
        assert thread is not None
        assert (thread["status"], thread["head"]) == ("interrupted", before["head"])
        assert thread["interrupts"] == before["interrupts"]
        state = await States(stage.db, stage.saver.availability).newest(thread_id)
        assert state is not None
        assert [one["value"] for one in state["interrupts"]] == ["what?"]
        right = await run_on(stage, thread_id, "", payload=pack({"command": {"resume": "right"}}).inline)
        gate.open.set()
        await ended(stage, thread_id, right, "success")
        assert await log_of(stage, thread_id) == ["right", "b"]


class DiesOnce(PerdureSaver):
    """Fails at the point where a process may be killed: the end is in the history, nothing is undone yet."""

    died = 0

    async def undo(self, *arguments: Any) -> None:
        self.died += 1
        if self.died == 1:
            raise RuntimeError("killed")
        await super().undo(*arguments)


async def test_a_rollback_survives_its_worker(mongodb_uri: str, kafka_bootstrap: str) -> None:
    gate = Gate()
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": gate.graph()}, DiesOnce) as stage:
        thread_id = await thread_with_history(stage, gate)
        active = await run_on(stage, thread_id, "two")
        await stage.worker.start([thread_id])
        await gate.reached(2)
        last = await run_on(stage, thread_id, "three", multitask_strategy="rollback")
        assert (await ended(stage, thread_id, active, "cancelled"))["deleted"]
        assert stage.saver.died == 2  # type: ignore[attr-defined]
        gate.open.set()
        await ended(stage, thread_id, last, "success")
        assert await log_of(stage, thread_id) == ["one", "a", "b", "three", "a", "b"]
        ends = {"thread": thread_id, "run": active["_id"], "event": "cancelled"}
        assert await stage.db.notebook.count_documents(ends) == 1


async def test_a_delayed_run_lets_others_go_first(mongodb_uri: str, kafka_bootstrap: str) -> None:
    gate = Gate()
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": gate.graph()}) as stage:
        thread_id = await thread_with_history(stage, gate)
        gate.open.set()
        later = await run_on(stage, thread_id, "later", delayed=True)
        now = await run_on(stage, thread_id, "now")
        await ended(stage, thread_id, now, "success")
        await stage.worker.start([thread_id])
        assert (await stage.stored(later))["status"] == "pending"
        await stage.db.runs.update_one({"_id": later["_id"]}, {"$unset": {"delayed": ""}})
        await ended(stage, thread_id, later, "success")
        assert await log_of(stage, thread_id) == ["one", "a", "b", "now", "a", "b", "later", "a", "b"]
