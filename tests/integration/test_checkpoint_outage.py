"""The real database is killed for thirty seconds under load: no run fails, nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import operator
import os
import time
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from tests.support.polling import until

from perdure.chassis import mongo
from perdure.checkpoint import SCOPE_KEY, PerdureSaver, RunScope
from perdure.local.stack import Stack

DOWN_S = float(os.environ.get("PERDURE_TEST_OUTAGE_S", "30"))
AGENTS = 100
STEPS = 12


class State(TypedDict):
    log: Annotated[list[str], operator.add]


def graph(saver: PerdureSaver) -> Any:
    builder = StateGraph(State)

    async def work(state: State) -> dict[str, Any]:
        return {"log": [f"{len(state['log'])} " + "x" * 1500]}

    builder.add_node("work", work)
    builder.add_edge(START, "work")
    builder.add_conditional_edges("work", lambda state: "work" if len(state["log"]) < STEPS else END)
    return builder.compile(checkpointer=saver)


@pytest.mark.timeout(300)
async def test_thirty_seconds_without_database(own_mongodb: Stack) -> None:
    client = mongo.connect(own_mongodb.environment()["PERDURE_MONGODB_URI"])
    saver = PerdureSaver(client)
    await saver.ensure_indexes()
    program = graph(saver)
    outages: list[bool] = []
    saver.availability.on_outage(outages.append)
    acknowledged: dict[str, list[int]] = {}
    stop = asyncio.Event()
    finished = 0

    async def agent(number: int) -> None:
        nonlocal finished
        turn = 0
        while not stop.is_set():
            thread = f"{number}-{turn}"
            seen = acknowledged.setdefault(thread, [])
            scope = RunScope(
                thread, "r", 1, 1, new_thread=True, on_durable=lambda document, seen=seen: seen.append(document["seq"])
            )
            config: Any = {"configurable": {"thread_id": thread, SCOPE_KEY: scope}, "recursion_limit": 50}
            found = await program.ainvoke({"log": []}, config, durability="sync")
            assert [entry.split()[0] for entry in found["log"]] == [str(step) for step in range(STEPS)]
            scope.close()
            finished += 1
            turn += 1

    agents = [asyncio.create_task(agent(number)) for number in range(AGENTS)]
    try:
        await until(lambda: finished > AGENTS, "a run of every agent", 120)
        await asyncio.to_thread(own_mongodb.stop_server, "mongodb", kill=True)
        killed = time.monotonic()
        await until(lambda: outages == [True], "the outage is noticed", 120)
        assert not saver.availability.available
        before = finished
        await until(lambda: time.monotonic() - killed > DOWN_S, "the server stays away for a while", 120)
        assert finished - before <= AGENTS, "no run finishes without the database"
        assert not any(task.done() for task in agents), "no run failed"
        await asyncio.to_thread(own_mongodb.start_server, "mongodb")
        await until(lambda: finished > before + AGENTS, "every agent goes on", 120)
    finally:
        stop.set()
        outcomes = await asyncio.gather(*agents, return_exceptions=True)
    assert [outcome for outcome in outcomes if outcome is not None] == []
    assert outages[-1] is False
    assert saver.availability.available
    await nothing_lost_or_doubled(saver, acknowledged)
    await saver.aclose()
    client.close()


async def nothing_lost_or_doubled(saver: PerdureSaver, acknowledged: dict[str, list[int]]) -> None:
    stored: dict[str, list[int]] = {}
    for document in await saver.notebook.store.find({"seq": {"$exists": True}}, {"thread": 1, "seq": 1}):
        stored.setdefault(document["thread"], []).append(document["seq"])
    for thread, numbers in acknowledged.items():
        assert numbers == list(range(1, len(numbers) + 1)), thread
        assert sorted(stored[thread]) == numbers, thread
    reader = PerdureSaver(saver.notebook.store.collection.database)
    for thread in list(acknowledged)[:: max(1, len(acknowledged) // 50)]:
        found = await reader.aget_tuple({"configurable": {"thread_id": thread}})
        assert found is not None
        log = found.checkpoint["channel_values"]["log"]
        assert [entry.split()[0] for entry in log] == [str(step) for step in range(STEPS)]
    await reader.aclose()
