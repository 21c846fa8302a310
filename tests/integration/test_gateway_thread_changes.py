"""Threads are changed, copied, deleted and pruned, on the real database; what the scheduler then does is in ``tests/e2e``."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from tests.integration.gateway_stage import Gateway, end, gateway_of_module, new_thread  # noqa: F401

from perdure.chassis.clock import now
from perdure.checkpoint import PerdureSaver

TEXT = "a text of several kilobytes, so that it is stored beside its checkpoint; " * 100


def asking_graph(saver: PerdureSaver) -> Any:
    def first(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "text": TEXT}

    def ask(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "answer": interrupt("go on?")}

    builder = StateGraph(dict).add_node("first", first).add_node("ask", ask)
    return builder.add_edge(START, "first").add_edge("first", "ask").compile(checkpointer=saver)


async def interrupted(gateway: Gateway, **body: Any) -> str:
    """A thread with several states that waits for an answer."""
    thread_id = await new_thread(gateway, **body)
    await asking_graph(PerdureSaver(gateway.database)).ainvoke({"n": 1}, {"configurable": {"thread_id": thread_id}})
    return thread_id


async def shown(gateway: Gateway, thread_id: str) -> dict[str, Any]:
    return dict((await gateway.http.get(f"/threads/{thread_id}")).raise_for_status().json())


def problem(response: Any, status: int) -> tuple[str, str]:
    assert response.status_code == status, response.text
    body = response.json()
    return body["type"].rpartition(":")[2], body["detail"]


async def test_metadata_is_merged(gateway: Gateway) -> None:
    thread_id = await new_thread(gateway, metadata={"kept": {"a": 1}, "a.b": "$x", "replaced": {"a": 1}})
    before = await shown(gateway, thread_id)
    change = {"metadata": {"replaced": {"b": "$kept"}, "new": None, "$set": ["$$ROOT"]}}
    changed = (await gateway.http.patch(f"/threads/{thread_id}", json=change)).raise_for_status().json()
    assert changed["metadata"] == {"kept": {"a": 1}, "a.b": "$x", **change["metadata"]}
    assert changed["updated_at"] > before["updated_at"]
    assert changed == await shown(gateway, thread_id)
    minimal = await gateway.http.patch(
        f"/threads/{thread_id}", json={"metadata": {"more": 1}}, headers={"Prefer": "return=minimal"}
    )
    assert (minimal.status_code, minimal.content) == (204, b"")
    assert (await shown(gateway, thread_id))["metadata"] == {**changed["metadata"], "more": 1}


async def test_what_cannot_be_changed_is_refused(gateway: Gateway) -> None:
    thread_id = await new_thread(gateway, metadata={"a": "x" * 40_000})
    path = f"/threads/{thread_id}"
    assert problem(await gateway.http.patch("/threads/nobody", json={}), 404)[0] == "unknown-thread"
    assert problem(await gateway.http.patch(path, json={"ttl": {"ttl": 0}}), 422)[0] == "invalid-request"
    assert "metadata" in problem(await gateway.http.patch(path, json={"metadata": []}), 422)[1]
    assert "larger" in problem(await gateway.http.patch(path, json={"metadata": {"b": "x" * 40_000}}), 422)[1]
    assert (await shown(gateway, thread_id))["metadata"] == {"a": "x" * 40_000}


async def test_a_copy_has_all_states_and_goes_its_own_way(gateway: Gateway) -> None:
    source = await interrupted(gateway, metadata={"title": "one"})
    response = await gateway.http.post(f"/threads/{source}/copy")
    copy = response.raise_for_status().json()
    target = copy["thread_id"]
    assert response.headers["Location"] == f"/threads/{target}"
    original = await shown(gateway, source)
    same = ("values", "interrupts", "metadata", "status", "state_updated_at")
    assert {name: copy[name] for name in same} == {name: original[name] for name in same}
    assert copy["values"]["text"] == TEXT
    histories = [
        (await gateway.http.get(f"/threads/{one}/history", params={"limit": 100})).json() for one in (source, target)
    ]
    assert [one["values"] for one in histories[0]] == [one["values"] for one in histories[1]]
    assert {one["checkpoint"]["thread_id"] for one in histories[1]} == {target}
    graph = asking_graph(PerdureSaver(gateway.database))
    answered = await graph.ainvoke(Command(resume="yes"), {"configurable": {"thread_id": target}})
    assert (answered["answer"], answered["text"]) == ("yes", TEXT)
    assert await shown(gateway, source) == original


async def test_a_thread_with_an_active_run_is_not_copied(gateway: Gateway) -> None:
    assert problem(await gateway.http.post("/threads/nobody/copy"), 404)[0] == "unknown-thread"
    run = (await gateway.start()).json()
    assert problem(await gateway.http.post(f"/threads/{run['thread_id']}/copy"), 409)[0] == "thread-busy"
    await end(gateway, run["run_id"], "success", settled=True)
    assert (await gateway.http.post(f"/threads/{run['thread_id']}/copy")).status_code == 200


async def test_a_deleted_thread_is_gone_for_every_reader_at_once(gateway: Gateway) -> None:
    thread_id = await interrupted(gateway, metadata={"test": "deleted"})
    run = (await gateway.start(f"/threads/{thread_id}/runs")).json()
    deleted = await gateway.http.delete(f"/threads/{thread_id}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    path = f"/threads/{thread_id}"
    for page in (
        "",
        "/state",
        "/history",
        "/runs",
        "/storage",
        f"/runs/{run['run_id']}",
        f"/runs/{run['run_id']}/join",
    ):
        assert (await gateway.http.get(path + page)).status_code == 404, page
    for method, page in (("PATCH", ""), ("DELETE", ""), ("POST", "/runs"), ("POST", "/copy"), ("PUT", "/hold")):
        body = {"by": "me", "reason": "x"} if page == "/hold" else {"assistant_id": "agent", "input": {}}
        assert (await gateway.http.request(method, path + page, json=body)).status_code == 404, (method, page)
    count = await gateway.http.post("/threads/count", json={"metadata": {"test": "deleted"}})
    assert count.json() == 0
    again = await gateway.http.post("/threads", json={"thread_id": thread_id, "if_exists": "do_nothing"})
    assert problem(again, 409)[0] == "thread-exists"
    assert again.headers["Retry-After"] == "20"


@pytest.mark.parametrize("state", ["packing", "marked", "archived", "restoring", "purging"])
async def test_a_thread_is_deleted_wherever_it_is(gateway: Gateway, state: str) -> None:
    thread_id = await new_thread(gateway)
    mark = {"state": state, "object": "tenant-default/1.zst", "token": "t", "at": now()}
    await gateway.database.threads.update_one({"_id": thread_id}, {"$set": {"archive": mark}})
    deleted = await gateway.http.delete(f"/threads/{thread_id}")
    if state == "purging":
        assert problem(deleted, 409)[0] == "thread-archived"
        return
    assert deleted.status_code == 204
    stored = await gateway.database.threads.find_one({"_id": thread_id})
    assert stored is not None
    assert set(stored["archive"]) == {"state", "at", "expires_at", "leftover"}  # who had the token works on it no more
    assert (stored["archive"]["state"], stored["archive"]["leftover"]) == ("removing", mark["object"])


async def test_what_is_held_or_in_an_open_batch_is_kept(gateway: Gateway) -> None:
    held, item = await new_thread(gateway), await new_thread(gateway)
    await gateway.http.put(f"/threads/{held}/hold", json={"by": "legal", "reason": "case 7"})
    kind, detail = problem(await gateway.http.delete(f"/threads/{held}"), 409)
    assert kind == "thread-held"
    assert "case 7" in detail
    await gateway.database.batches.insert_one({"_id": "b1", "tenant": "default", "open": True})
    await gateway.database.threads.update_one({"_id": item}, {"$set": {"batch": {"id": "b1", "number": 1}}})
    kind, detail = problem(await gateway.http.delete(f"/threads/{item}"), 409)
    assert kind == "thread-busy"
    assert "b1" in detail
    pruned = await gateway.http.post("/threads/prune", json={"thread_ids": [held, item, "unknown"]})
    assert pruned.json() == {"pruned_count": 0}
    await gateway.http.delete(f"/threads/{held}/hold")
    await gateway.database.batches.update_one({"_id": "b1"}, {"$set": {"open": False}})
    pruned = await gateway.http.post("/threads/prune", json={"thread_ids": [held, item, held]})
    assert pruned.json() == {"pruned_count": 2}
    assert (await gateway.http.get(f"/threads/{held}")).status_code == 404


async def test_pruning_keeps_the_latest_state(gateway: Gateway) -> None:
    thread_id = await interrupted(gateway)
    before = await shown(gateway, thread_id)
    active = (await gateway.start()).json()["thread_id"]
    body = {"thread_ids": [thread_id, active, "unknown"], "strategy": "keep_latest"}
    assert (await gateway.http.post("/threads/prune", json=body)).json() == {"pruned_count": 1}
    assert len((await gateway.http.get(f"/threads/{thread_id}/history")).json()) == 1
    assert await shown(gateway, thread_id) == before
    graph = asking_graph(PerdureSaver(gateway.database))
    answered = await graph.ainvoke(Command(resume="yes"), {"configurable": {"thread_id": thread_id}})
    assert (answered["answer"], answered["text"]) == ("yes", TEXT)
    wrong = await gateway.http.post("/threads/prune", json={"thread_ids": [thread_id], "strategy": "all"})
    assert "strategy" in problem(wrong, 422)[1]
    assert (await gateway.http.post("/threads/prune", json={"thread_ids": []})).json() == {"pruned_count": 0}
