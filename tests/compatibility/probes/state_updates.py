"""Changing states, making threads from states, and threads that are kept for a time only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.compatibility.probe import claim, probe
from tests.compatibility.stage import Stage, eventually, mark, refusal

UPDATE, CREATE = "POST /threads/{thread_id}/state", "POST /threads"
READ, CHANGE = "GET /threads/{thread_id}", "PATCH /threads/{thread_id}"


async def updated(stage: Stage) -> None:
    thread, _ = await stage.walked(1)
    before = await stage.sdk.threads.get_state(thread)
    told = await stage.sdk.threads.update_state(thread, {"log": ["added"]})
    state = await stage.sdk.threads.get_state(thread)
    assert state["values"]["log"] == ["left", "added"]
    assert state["checkpoint"]["checkpoint_id"] == told["checkpoint"]["checkpoint_id"]
    assert told["checkpoint"]["thread_id"] == thread
    assert told["checkpoint"]["checkpoint_ns"] == ""
    assert state["parent_checkpoint"]["checkpoint_id"] == before["checkpoint"]["checkpoint_id"]  # type: ignore[index]
    assert state["metadata"]["source"] == "update"


async def updated_as_a_node(stage: Stage) -> None:
    thread, _ = await stage.asked()
    await stage.sdk.threads.update_state(thread, {"answer": "yes", "log": ["question"]}, as_node="question")
    state = await stage.sdk.threads.get_state(thread)
    assert state["next"] == ["finish"]
    run = await stage.sdk.runs.create(thread, "ask", input=None)
    assert (await stage.ended(run))["status"] == "success"
    assert (await stage.values(thread))["log"] == ["question", "finish"]


async def ended_by_hand(stage: Stage) -> None:
    """``__end__``: agent-inbox ignores a question so."""
    thread, _ = await stage.asked()
    await stage.sdk.threads.update_state(thread, None, as_node="__end__")
    state = await stage.sdk.threads.get_state(thread)
    assert (state["next"], state["tasks"]) == ([], [])


async def forked(stage: Stage) -> None:
    thread, _ = await stage.walked(2)
    history = await stage.sdk.threads.get_history(thread)
    (first,) = [one for one in history if one["values"].get("log") == ["left"]]
    checkpoint: Any = {"checkpoint_id": first["checkpoint"]["checkpoint_id"], "checkpoint_ns": ""}
    await stage.sdk.threads.update_state(thread, {"log": ["forked"]}, as_node="left", checkpoint=checkpoint)
    state = await stage.sdk.threads.get_state(thread)
    assert state["values"]["log"] == ["left", "forked"]
    assert state["parent_checkpoint"]["checkpoint_id"] == checkpoint["checkpoint_id"]  # type: ignore[index]
    assert state["next"] == ["right"]


async def refused(stage: Stage) -> None:
    thread, _ = await stage.walked(1)
    async with refusal(400, 404, 422):
        await stage.sdk.threads.update_state(thread, {"log": ["x"]}, as_node="nobody")


async def made_of_states(stage: Stage) -> None:
    steps: Any = [
        {"updates": [{"values": {"n": 2}, "as_node": "__start__"}]},
        {"updates": [{"values": {"done": 0}, "as_node": "begin"}]},
        {"updates": [{"values": {"done": 1, "log": ["made"]}, "as_node": "left"}]},
    ]
    thread = await stage.thread(graph_id="walk", supersteps=steps)
    state = await stage.sdk.threads.get_state(thread)
    assert (state["values"]["log"], state["next"]) == (["made"], ["right"])
    assert len(await stage.sdk.threads.get_history(thread)) >= 3
    await stage.ended(await stage.sdk.runs.create(thread, "walk", input=None))
    assert (await stage.values(thread))["log"] == ["made", "right"]


def _assert_ttl(thread: Any, minutes: float) -> None:
    ttl = thread["ttl"]
    assert (ttl["strategy"], ttl["ttl_minutes"]) == ("delete", minutes)
    left = datetime.fromisoformat(ttl["expires_at"]) - datetime.now(UTC)
    assert abs(left - timedelta(minutes=minutes)) < timedelta(minutes=1)


async def kept_for_a_time(stage: Stage) -> None:
    thread = await stage.thread(ttl={"ttl": 60, "strategy": "delete"})
    _assert_ttl(await stage.sdk.threads.get(thread, include=["ttl"]), 60)
    changed = await stage.sdk.threads.update(thread, metadata=mark(), ttl={"ttl": 90, "strategy": "delete"})
    assert changed["thread_id"] == thread
    _assert_ttl(await stage.sdk.threads.get(thread, include=["ttl"]), 90)


async def gone_after_its_time(stage: Stage) -> None:
    made = await stage.thread(ttl={"ttl": 0.02, "strategy": "delete"})
    changed = await stage.thread()
    await stage.sdk.threads.update(changed, metadata={}, ttl={"ttl": 0.02, "strategy": "delete"})
    for thread in (made, changed):

        async def is_gone(thread: str = thread) -> bool:
            return (await stage.http.get(f"/threads/{thread}")).status_code == 404

        await eventually(is_gone, "the thread is gone")


PROBES = (
    probe(updated, claim(UPDATE, body="values", answer="checkpoint")),
    probe(updated_as_a_node, claim(UPDATE, body="as_node")),
    probe(ended_by_hand, claim(UPDATE, body="as_node")),
    probe(forked, claim(UPDATE, body="checkpoint.checkpoint_id")),
    probe(refused, claim(UPDATE, body="as_node")),
    probe(made_of_states, claim(CREATE, body="supersteps")),
    probe(
        kept_for_a_time,
        claim(CREATE, body="ttl.ttl ttl.strategy"),
        claim(CHANGE, body="ttl.ttl ttl.strategy"),
        claim(READ, query="include", answer="ttl.strategy ttl.ttl_minutes ttl.expires_at"),
        reference=False,  # its in-memory runtime shows none
    ),
    probe(
        gone_after_its_time,
        claim(CREATE, body="ttl.ttl ttl.strategy"),
        claim(CHANGE, body="ttl.ttl ttl.strategy"),
        reference=False,
    ),
)
