"""A plain ``interrupt()`` whose value uses a key of ours: the thread waits for an answer, as for any other."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from tests.integration.worker_stage import open_worker

from perdure.chassis.payload import pack
from perdure.schemas.waits import WAIT_MARK


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
        assert await stage.db.waits.count_documents({}) == 0, "nothing of ours ends it"

        command = pack({"command": {"resume": "yes"}}).inline
        resumed = await stage.run(thread_id=run["thread_id"], new_thread=False, payload=command)
        await stage.worker.start([run["thread_id"]])
        await stage.until(resumed, "success")
        state = await stage.saver.aget_tuple({"configurable": {"thread_id": run["thread_id"]}})
        assert state is not None
        assert state.checkpoint["channel_values"]["answer"] == "yes"
