"""State updates on a worker with real servers: what comes of an update that was overtaken, cancelled, crashed or taken over."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from tests.integration.worker_stage import Stage, open_worker
from tests.support.polling import until

from perdure.chassis.payload import pack
from perdure.gateway.resources.states import States
from perdure.schemas.documents import RunKind
from perdure.schemas.state_updates import CANCELLED, MOVED_ON, NO_CHECKPOINT


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def graph() -> Any:
    builder = StateGraph(State)
    builder.add_node("a", lambda _: {"log": ["a"]})
    builder.add_node("asks", lambda _: {"log": [interrupt("what?")]})
    builder.add_edge(START, "a")
    builder.add_edge("a", "asks")
    builder.add_edge("asks", END)
    return builder.compile()


async def waiting(stage: Stage) -> dict[str, Any]:
    """The document of a thread that waits for an answer."""
    run = await stage.run(run_input={"log": ["one"]})
    await stage.worker.start([run["thread_id"]])
    return await thread_after(stage, await stage.until(run, "interrupted"))


async def thread_after(stage: Stage, ended: dict[str, Any]) -> dict[str, Any]:
    """The thread's document once it says that a run has ended."""

    async def look() -> dict[str, Any]:
        return await stage.db.threads.find_one({"_id": ended["thread_id"]}) or {}

    return await until(look, "the thread's document", holds=lambda found: found.get("seq", 0) >= ended["ended_seq"])


async def update_on(stage: Stage, thread: dict[str, Any], *words: str, **fields: Any) -> dict[str, Any]:
    """Register an update with one superstep for each word, as the gateway does."""
    supersteps = [[{"values": {"log": [word]}, "as_node": "a"}] for word in words]
    return await stage.run(
        thread_id=thread["_id"],
        new_thread=False,
        kind=RunKind.UPDATE.value,
        **{"at_seq": thread["seq"], "payload": pack({"supersteps": supersteps}).inline} | fields,
    )


async def state_of(stage: Stage, thread_id: str) -> Any:
    return await States(stage.db, stage.saver.availability).newest(thread_id)


def unchanged(before: dict[str, Any], after: dict[str, Any], run: dict[str, Any]) -> bool:
    """Whether an update left the thread's document as it was, its sequence number aside."""
    own = {"seq", "ended_first_seq", "refused_run_id"}
    assert after["refused_run_id"] == run["_id"]
    assert after["seq"] > before["seq"]
    return {k: v for k, v in before.items() if k not in own} == {k: v for k, v in after.items() if k not in own}


async def test_an_update_is_made_once_and_recorded(mongodb_uri: str, kafka_bootstrap: str) -> None:
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": graph()}) as stage:
        before = await waiting(stage)
        update = await update_on(stage, before, "two", "three")
        await stage.worker.start([before["_id"]])
        done = await stage.until(update, "success")
        state = await state_of(stage, before["_id"])
        assert state["values"]["log"] == ["one", "a", "two", "three"]
        assert done["update"] == {
            "checkpoint": {
                "checkpoint_ns": "",
                "checkpoint_id": state["checkpoint"]["checkpoint_id"],
                "checkpoint_map": {},
            }
        }
        after = await thread_after(stage, done)
        assert (after["status"], after["next"], after["interrupts"]) == ("interrupted", ["asks"], [])
        assert (after["ended_run_id"], after["last_run_id"]) == (update["_id"], before["last_run_id"])
        entries = (
            await stage.db.notebook.find({"run": update["_id"], "seq": {"$exists": True}}).sort("seq", 1).to_list(None)
        )
        assert [one["seq"] for one in entries] == [*range(before["seq"] + 1, after["seq"] + 1)]
        assert [one["ev"].get("channels") for one in entries] == [None, ["log"], ["log"], None]
        assert "two" in entries[1]["ev"]["text"]


async def test_an_update_that_was_overtaken_is_refused(mongodb_uri: str, kafka_bootstrap: str) -> None:
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": graph()}) as stage:
        before = await waiting(stage)
        update = await update_on(stage, before, "late", at_seq=before["seq"] - 1)
        await stage.worker.start([before["_id"]])
        refused = await stage.until(update, "error")
        assert refused["update"]["refused"]["type"] == MOVED_ON
        assert unchanged(before, await thread_after(stage, refused), update)
        state = await state_of(stage, before["_id"])
        assert (state["values"]["log"], state["next"]) == (["one", "a"], ["asks"])
        assert [one["value"] for one in state["interrupts"]] == ["what?"]
        answer = await stage.run(
            thread_id=before["_id"], new_thread=False, payload=pack({"command": {"resume": "b"}}).inline
        )
        await stage.worker.start([before["_id"]])
        await stage.until(answer, "success")
        assert (await state_of(stage, before["_id"]))["values"]["log"] == ["one", "a", "b"]


async def test_an_update_that_was_cancelled_changes_nothing(mongodb_uri: str, kafka_bootstrap: str) -> None:
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": graph()}) as stage:
        before = await waiting(stage)
        update = await update_on(stage, before, "never", cancel_requested_at=before["updated_at"])
        await stage.worker.start([before["_id"]])
        refused = await stage.until(update, "cancelled")
        assert refused["update"]["refused"]["type"] == CANCELLED
        assert unchanged(before, await thread_after(stage, refused), update)


async def test_an_update_that_cannot_be_read_or_crashes_is_not_parked(mongodb_uri: str, kafka_bootstrap: str) -> None:
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": graph()}) as stage:
        before = await waiting(stage)
        update = await update_on(stage, before, "never")
        await stage.db.runs.update_one({"_id": update["_id"]}, {"$set": {"payload": b"\x01broken"}})
        await stage.worker.start([before["_id"]])
        refused = await stage.until(update, "error")
        assert "cannot be read" in refused["update"]["refused"]["message"]
        assert "parked" not in refused
        assert unchanged(before, await thread_after(stage, refused), update)


async def test_who_takes_an_update_over_makes_all_of_it_once(mongodb_uri: str, kafka_bootstrap: str) -> None:
    """The owner before died when the first of two supersteps was durable."""
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": graph()}) as stage:
        before = await waiting(stage)
        update = await update_on(stage, before, "two", "three")
        await stage.worker.start([before["_id"]])
        await stage.until(update, "success")
        await _as_if_died_after_the_first(stage, before, update)
        await stage.worker.start([before["_id"]])
        done = await stage.until(update, "success")
        assert done["epoch"] == 2
        state = await state_of(stage, before["_id"])
        assert state["values"]["log"] == ["one", "a", "two", "three"]
        made = {"run": update["_id"], "kind": "c"}
        assert await stage.db.notebook.count_documents(made | {"undone": True}) == 1
        assert await stage.db.notebook.count_documents(made | {"undone": None}) == 2


async def test_a_subgraph_is_changed_where_it_waits(mongodb_uri: str, kafka_bootstrap: str) -> None:
    inner = StateGraph(State)
    inner.add_node("first", lambda _: {"log": ["first"]})
    inner.add_node("asks", lambda state: {"log": [f"{interrupt('what?')} after {state['log']}"]})
    inner.add_edge(START, "first")
    inner.add_edge("first", "asks")
    outer = StateGraph(State)
    outer.add_node("inner", lambda _: {"log": inner_graph.invoke({"log": []})["log"]})
    outer.add_edge(START, "inner")
    inner_graph = inner.compile()
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": outer.compile()}) as stage:
        before = await waiting(stage)
        (of_inner,) = await stage.db.notebook.find({"thread": before["_id"], "kind": "c", "ns": {"$ne": ""}}).distinct(
            "ns"
        )
        payload = {"supersteps": [[{"values": {"log": ["mended"]}, "as_node": "first"}]], "checkpoint_ns": of_inner}
        update = await update_on(stage, before, payload=pack(payload).inline)
        await stage.worker.start([before["_id"]])
        done = await stage.until(update, "success")
        assert done["update"]["checkpoint"]["checkpoint_ns"] == of_inner
        after = await thread_after(stage, done)
        assert (after["status"], after["head"], after["interrupts"]) == (
            "interrupted",
            before["head"],
            before["interrupts"],
        )
        answer = await stage.run(
            thread_id=before["_id"], new_thread=False, payload=pack({"command": {"resume": "b"}}).inline
        )
        await stage.worker.start([before["_id"]])
        await stage.until(answer, "success")
        assert (await state_of(stage, before["_id"]))["values"]["log"][-1] == "b after ['first', 'mended']"


async def test_an_update_of_a_checkpoint_that_is_gone_is_refused(mongodb_uri: str, kafka_bootstrap: str) -> None:
    async with open_worker(mongodb_uri, kafka_bootstrap, {"graph": graph()}) as stage:
        before = await waiting(stage)
        payload = {"supersteps": [[{"values": {"log": ["x"]}, "as_node": "a"}]], "checkpoint_id": "gone"}
        update = await update_on(stage, before, payload=pack(payload).inline)
        await stage.worker.start([before["_id"]])
        refused = await stage.until(update, "error")
        assert refused["update"]["refused"]["type"] == NO_CHECKPOINT
        assert unchanged(before, await thread_after(stage, refused), update)


async def _as_if_died_after_the_first(stage: Stage, before: dict[str, Any], update: dict[str, Any]) -> None:
    """Take everything back that the update wrote after its first checkpoint."""
    notebook = stage.db.notebook
    entries = await notebook.find({"run": update["_id"], "seq": {"$exists": True}}).sort("seq", 1).to_list(None)
    started, first, second, end = entries
    assert (started["kind"], first["kind"], second["kind"], end["kind"]) == ("e", "c", "c", "e")
    await notebook.delete_many({"_id": {"$in": [second["_id"], end["_id"]]}})
    await stage.db.threads.replace_one({"_id": before["_id"]}, before)
    pending = {"status": "pending", "owner": None, "settled": False}
    gone = dict.fromkeys(("first_seq", "ended_seq", "ended_at", "update", "head", "next", "interrupts"), "")
    await stage.db.runs.update_one({"_id": update["_id"]}, {"$set": pending, "$unset": gone})
