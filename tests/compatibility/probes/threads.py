"""Threads: making, reading, changing, copying, deleting, pruning."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.compatibility.probe import claim, probe
from tests.compatibility.stage import Stage, mark, refusal

SHOWN = "thread_id created_at updated_at metadata config status"
FILLED = f"{SHOWN} state_updated_at values interrupts"


def assert_recent(thread: dict[str, Any], *fields: str) -> None:
    for name in fields:
        age = datetime.now(UTC) - datetime.fromisoformat(thread[name])
        assert timedelta(seconds=-5) < age < timedelta(minutes=10), (name, thread[name])


async def made_with_an_id(stage: Stage) -> None:
    wanted, metadata = str(uuid.uuid4()), mark()
    made = await stage.sdk.threads.create(thread_id=wanted, metadata=metadata)
    assert (made["thread_id"], made["status"], made["metadata"]) == (wanted, "idle", metadata)
    assert made["config"] == {}
    assert_recent(made, "created_at", "updated_at")
    assert (await stage.sdk.threads.get(wanted))["metadata"] == metadata


async def made_twice(stage: Stage) -> None:
    thread, metadata = str(uuid.uuid4()), mark()
    await stage.sdk.threads.create(thread_id=thread, metadata=metadata)
    async with refusal(409):
        await stage.sdk.threads.create(thread_id=thread, if_exists="raise")
    again = await stage.sdk.threads.create(thread_id=thread, metadata={"other": 1}, if_exists="do_nothing")
    assert (again["thread_id"], again["metadata"]) == (thread, metadata)


async def made_again_while_it_asks(stage: Stage) -> None:
    thread, _ = await stage.asked()
    await stage.at_rest(thread, "interrupted")
    again = await stage.sdk.threads.create(thread_id=thread, if_exists="do_nothing")
    ((interrupt,),) = again["interrupts"].values()
    assert interrupt["value"] == {"question": "go on?"}
    assert again["values"] == await stage.values(thread)


async def read(stage: Stage) -> None:
    metadata = mark()
    thread = await stage.thread(metadata=metadata)
    await stage.walk(thread)
    found = await stage.at_rest(thread, "idle")
    assert found["thread_id"] == thread
    assert found["values"]["log"] == ["left", "right"]
    assert found["metadata"].items() >= {**metadata, "graph_id": "walk"}.items()
    assert found["interrupts"] == {}
    assert isinstance(found["config"], dict)
    assert_recent(found, "created_at", "updated_at", "state_updated_at")
    busy = await stage.held()
    assert (await stage.sdk.threads.get(busy["thread_id"]))["status"] == "busy"
    await stage.sdk.runs.cancel(busy["thread_id"], busy["run_id"], wait=True)
    async with refusal(404):
        await stage.sdk.threads.get(str(uuid.uuid4()))


async def read_while_it_asks(stage: Stage) -> None:
    thread, _ = await stage.asked()
    found = await stage.at_rest(thread, "interrupted")
    ((interrupt,),) = found["interrupts"].values()
    assert interrupt["id"]
    assert interrupt["value"] == {"question": "go on?"}


async def read_after_an_error(stage: Stage) -> None:
    thread = await stage.thread()
    await stage.ended(await stage.sdk.runs.create(thread, "fail", input={}))
    assert (await stage.at_rest(thread, "error"))["status"] == "error"


async def changed(stage: Stage) -> None:
    thread, _ = await stage.walked()
    await stage.sdk.threads.update(thread, metadata={"one": 1, "two": 2})
    told = await stage.sdk.threads.update(thread, metadata={"two": 3})
    assert told["metadata"].items() >= {"one": 1, "two": 3}.items()
    assert (told["thread_id"], told["status"], told["values"]["log"]) == (thread, "idle", ["left", "right"])
    assert told["interrupts"] == {}
    assert isinstance(told["config"], dict)
    assert_recent(told, "created_at", "updated_at", "state_updated_at")
    assert (await stage.sdk.threads.get(thread))["metadata"] == told["metadata"]


async def changed_without_an_answer(stage: Stage) -> None:
    thread = await stage.thread()
    path, body = f"/threads/{thread}", {"metadata": {"one": 1}}
    answer = await stage.http.patch(path, json=body, headers={"Prefer": "return=minimal"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await stage.sdk.threads.get(thread))["metadata"] == {"one": 1}


async def copied(stage: Stage) -> None:
    metadata = mark()
    thread = await stage.thread(metadata=metadata)
    await stage.walk(thread)
    await stage.at_rest(thread)
    await stage.sdk.threads.copy(thread)
    (copy,) = [one for one in await stage.sdk.threads.search(metadata=metadata, limit=10) if one["thread_id"] != thread]
    history = await stage.sdk.threads.get_history(copy["thread_id"])
    assert history[0]["values"] == await stage.values(thread)
    assert len(history) == len(await stage.sdk.threads.get_history(thread))
    await stage.walk(copy["thread_id"], 1)
    assert (await stage.values(copy["thread_id"]))["log"] == ["left", "right", "left"]
    assert (await stage.values(thread))["log"] == ["left", "right"]


async def copied_and_shown(stage: Stage) -> None:
    thread, _ = await stage.asked()
    await stage.at_rest(thread, "interrupted")
    copy = (await stage.http.post(f"/threads/{thread}/copy")).json()
    assert copy["thread_id"] != thread
    assert copy["status"] == "interrupted"
    assert copy["metadata"]["graph_id"] == "ask"
    ((interrupt,),) = copy["interrupts"].values()
    assert interrupt["value"] == {"question": "go on?"}
    assert copy["values"] == await stage.values(thread)
    assert isinstance(copy["config"], dict)
    assert_recent(copy, "created_at", "updated_at", "state_updated_at")


async def deleted(stage: Stage) -> None:
    thread, run = await stage.walked()
    await stage.sdk.threads.delete(thread)
    async with refusal(404):
        await stage.sdk.threads.get(thread)
    async with refusal(404):
        await stage.sdk.runs.get(thread, run["run_id"])
    async with refusal(404):
        await stage.sdk.threads.delete(thread)


async def pruned(stage: Stage) -> None:
    gone, _ = await stage.walked()
    await stage.at_rest(gone)
    answer = await stage.http.post("/threads/prune", json={"thread_ids": [gone], "strategy": "delete"})
    assert answer.json() == {"pruned_count": 1}
    async with refusal(404):
        await stage.sdk.threads.get(gone)


async def pruned_to_the_latest(stage: Stage) -> None:
    kept, _ = await stage.walked()
    await stage.at_rest(kept)
    values = await stage.values(kept)
    assert len(await stage.sdk.threads.get_history(kept)) > 1
    assert (await stage.sdk.threads.prune([kept], strategy="keep_latest"))["pruned_count"] == 1
    assert [one["values"] for one in await stage.sdk.threads.get_history(kept)] == [values]


async def storage(stage: Stage) -> None:
    thread, _ = await stage.walked()
    told = (await stage.http.get(f"/threads/{thread}/storage")).raise_for_status().json()
    assert told["thread_id"] == thread


async def storage_by_part(stage: Stage) -> None:
    thread, _ = await stage.walked()
    told = (await stage.http.get(f"/threads/{thread}/storage")).raise_for_status().json()
    assert told["total"]["bytes"] >= told["parts"]["checkpoints"]["bytes"] > 0


PROBES = (
    probe(
        made_with_an_id,
        claim(
            "POST /threads", body="thread_id metadata", answer="thread_id created_at updated_at metadata config status"
        ),
    ),
    probe(made_twice, claim("POST /threads", body="if_exists=raise if_exists=do_nothing")),
    probe(made_again_while_it_asks, claim("POST /threads", answer="values interrupts")),
    probe(read, claim("GET /threads/{thread_id}", answer=FILLED)),
    probe(read_while_it_asks, claim("GET /threads/{thread_id}", answer="interrupts")),
    probe(read_after_an_error, claim("GET /threads/{thread_id}", answer="status")),
    probe(changed, claim("PATCH /threads/{thread_id}", body="metadata", answer=FILLED)),
    probe(changed_without_an_answer, claim("PATCH /threads/{thread_id}", header="Prefer")),
    probe(copied, claim("POST /threads/{thread_id}/copy")),
    probe(
        copied_and_shown,
        claim("POST /threads/{thread_id}/copy", answer=FILLED),
        differs="A copy is answered as it is, with its values, its interrupts and their status; the Agent Server answers an `idle` "
        "thread without values.",
    ),
    probe(deleted, claim("DELETE /threads/{thread_id}")),
    probe(pruned, claim("POST /threads/prune", body="thread_ids strategy=delete", answer="pruned_count")),
    probe(
        pruned_to_the_latest,
        claim("POST /threads/prune", body="strategy=keep_latest"),
        reference=False,  # its in-memory runtime refuses the strategy
    ),
    probe(storage, claim("GET /threads/{thread_id}/storage", answer="thread_id")),
    probe(
        storage_by_part,
        differs="`GET /threads/{thread_id}/storage` answers `total` and `parts`: states are not stored as one row a channel, and "
        "archived threads, effects, waits and notices count as well.",
    ),
)
