"""States: the newest, at a checkpoint, the history. Each probe reads what another operation wrote."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.compatibility.probe import Claim, claim, probe
from tests.compatibility.stage import Stage, refusal

Read = Callable[[Stage, str], Awaitable[Any]]

STATE, AT = "GET /threads/{thread_id}/state", "GET /threads/{thread_id}/state/{checkpoint_id}"
AT_POST = "POST /threads/{thread_id}/state/checkpoint"
HISTORY, HISTORY_POST = "GET /threads/{thread_id}/history", "POST /threads/{thread_id}/history"
CHECKPOINT = "checkpoint.checkpoint_id checkpoint.checkpoint_ns checkpoint.thread_id"
AT_REST = f"values next {CHECKPOINT} metadata created_at parent_checkpoint"
ASKING = "tasks.id tasks.name tasks.path tasks.interrupts interrupts.id interrupts.value interrupts.response_schema"


async def newest(stage: Stage, thread: str) -> Any:
    return await stage.sdk.threads.get_state(thread)


async def _newest_id(stage: Stage, thread: str) -> Any:
    return (await newest(stage, thread))["checkpoint"]["checkpoint_id"]


async def at(stage: Stage, thread: str) -> Any:
    return await stage.sdk.threads.get_state(thread, checkpoint_id=await _newest_id(stage, thread))


async def at_post(stage: Stage, thread: str) -> Any:
    checkpoint: Any = {"checkpoint_id": await _newest_id(stage, thread), "checkpoint_ns": ""}
    return await stage.sdk.threads.get_state(thread, checkpoint=checkpoint)


async def first_of_history(stage: Stage, thread: str) -> Any:
    return (await stage.http.get(f"/threads/{thread}/history")).raise_for_status().json()[0]


async def first_of_history_post(stage: Stage, thread: str) -> Any:
    return (await stage.sdk.threads.get_history(thread))[0]


READS: dict[str, Read] = {
    STATE: newest,
    AT: at,
    AT_POST: at_post,
    HISTORY: first_of_history,
    HISTORY_POST: first_of_history_post,
}


async def at_rest(stage: Stage, read: Read) -> None:
    thread, run = await stage.walked()
    state = await read(stage, thread)
    assert state["values"]["log"] == ["left", "right"]
    assert state["next"] == []
    checkpoint = state["checkpoint"]
    assert (checkpoint["thread_id"], checkpoint.get("checkpoint_ns", "")) == (thread, "")
    assert checkpoint["checkpoint_id"] == await _newest_id(stage, thread)
    parent = state["parent_checkpoint"]["checkpoint_id"]
    before = await stage.sdk.threads.get_state(thread, checkpoint_id=parent)
    assert before["values"]["log"] == ["left"]
    assert state["metadata"]["run_id"] == run["run_id"]
    assert state["metadata"]["source"] == "loop"
    assert state["created_at"].startswith("20")


async def asking(stage: Stage, read: Read) -> None:
    thread, _ = await stage.asked()
    state = await read(stage, thread)
    assert state["next"] == ["question"]
    (task,) = state["tasks"]
    assert task["name"] == "question"
    assert task["path"] == ["__pregel_pull", "question"]
    assert task["id"]
    (interrupt,) = task["interrupts"]
    assert interrupt["value"] == {"question": "go on?"}
    assert interrupt["id"]
    assert interrupt["response_schema"] == {"type": "string"}
    assert state["interrupts"] == task["interrupts"]


async def fanned_out(stage: Stage, read: Read) -> None:
    thread = await stage.thread()
    await stage.ended(await stage.sdk.runs.create(thread, "fan", input={}))
    tasks = (await read(stage, thread))["tasks"]
    assert [(one["path"][:2], one["name"]) for one in tasks] == [(["__pregel_push", n], "each") for n in range(3)]
    assert [len(one["interrupts"]) for one in tasks] == [0, 1, 0]
    assert [one["result"] for one in tasks] == [{"log": ["each 0"]}, None, {"log": ["each 2"]}]


async def failed(stage: Stage, read: Read) -> None:
    thread = await stage.thread()
    await stage.ended(await stage.sdk.runs.create(thread, "fail", input={}))
    (task,) = (await read(stage, thread))["tasks"]
    assert task["name"] == "break"
    assert "failed on purpose" in task["error"]


async def _nested(stage: Stage) -> tuple[str, str]:
    """A thread whose subgraph asks, and the namespace of the subgraph's checkpoints."""
    thread = await stage.thread()
    await stage.ended(await stage.sdk.runs.create(thread, "nested", input={}))
    (task,) = (await stage.sdk.threads.get_state(thread, subgraphs=True))["tasks"]
    namespace = str(task["state"]["checkpoint"]["checkpoint_ns"])  # type: ignore[index]
    assert namespace.startswith("inner:")
    return thread, namespace


async def no_checkpoint_of_a_subgraph(stage: Stage) -> None:
    thread, namespace = await _nested(stage)
    for read in (newest, at, at_post):
        (task,) = (await read(stage, thread))["tasks"]
        assert (task["name"], task["checkpoint"], task["state"]) == ("inner", None, None)
    checkpoint: Any = {"checkpoint_id": await _newest_id(stage, thread), "checkpoint_ns": ""}
    for named in ({}, {"checkpoint_id": checkpoint["checkpoint_id"]}, {"checkpoint": checkpoint}):
        (task,) = (await stage.sdk.threads.get_state(thread, subgraphs=True, **named))["tasks"]  # type: ignore[arg-type]
        assert task["checkpoint"]["checkpoint_ns"] == namespace


async def with_subgraphs(stage: Stage) -> None:
    thread, namespace = await _nested(stage)
    (task,) = (await stage.sdk.threads.get_state(thread, subgraphs=True))["tasks"]
    _assert_inside(task["state"], namespace)
    newest_id = await _newest_id(stage, thread)
    (task,) = (await stage.sdk.threads.get_state(thread, checkpoint_id=newest_id, subgraphs=True))["tasks"]
    _assert_inside(task["state"], namespace)
    checkpoint: Any = {"checkpoint_id": newest_id, "checkpoint_ns": ""}
    (task,) = (await stage.sdk.threads.get_state(thread, checkpoint=checkpoint, subgraphs=True))["tasks"]
    _assert_inside(task["state"], namespace)


def _assert_inside(state: Any, namespace: str) -> None:
    assert state["checkpoint"]["checkpoint_ns"] == namespace
    assert state["next"] == ["inside"]
    (inside,) = state["tasks"]
    assert inside["interrupts"][0]["value"] == {"question": "inside?"}


async def in_a_namespace(stage: Stage) -> None:
    thread, namespace = await _nested(stage)
    checkpoint: Any = {"checkpoint_ns": namespace}
    _assert_inside(await stage.sdk.threads.get_state(thread, checkpoint=checkpoint), namespace)


async def history_in_a_namespace(stage: Stage) -> None:
    thread, namespace = await _nested(stage)
    found = await stage.sdk.threads.get_history(thread, checkpoint={"checkpoint_ns": namespace})
    assert found
    assert {one["checkpoint"]["checkpoint_ns"] for one in found} == {namespace}


async def earlier(stage: Stage) -> None:
    thread, _ = await stage.walked()
    for one in await stage.sdk.threads.get_history(thread):
        checkpoint = one["checkpoint"]
        same = await stage.sdk.threads.get_state(thread, checkpoint_id=checkpoint["checkpoint_id"])
        assert (same["values"], same["next"]) == (one["values"], one["next"])
        same = await stage.sdk.threads.get_state(thread, checkpoint=checkpoint)
        assert (same["values"], same["next"]) == (one["values"], one["next"])


async def history(stage: Stage) -> None:
    thread, _ = await stage.walked()
    path = f"/threads/{thread}/history"
    everything = (await stage.http.get(path, params={"limit": 100})).json()
    assert [len(one["values"].get("log", [])) for one in everything] == [2, 1, 0, 0, 0][: len(everything)]
    assert len(everything) >= 4
    assert (await stage.http.get(path, params={"limit": 2})).json() == everything[:2]
    before = everything[1]["checkpoint"]["checkpoint_id"]
    assert (await stage.http.get(path, params={"before": before, "limit": 100})).json() == everything[2:]


async def history_posted(stage: Stage) -> None:
    thread, first = await stage.walked()
    second = await stage.walk(thread)
    everything = await stage.sdk.threads.get_history(thread, limit=100)
    assert await stage.sdk.threads.get_history(thread, limit=2) == everything[:2]
    before: Any = {"configurable": {"checkpoint_id": everything[1]["checkpoint"]["checkpoint_id"]}}
    assert await stage.sdk.threads.get_history(thread, before=before, limit=100) == everything[2:]
    of_run = await stage.sdk.threads.get_history(thread, metadata={"run_id": first["run_id"]}, limit=100)
    assert of_run == [one for one in everything if one["metadata"]["run_id"] == first["run_id"]]
    assert 0 < len(of_run) < len(everything)
    assert second["run_id"] != first["run_id"]


async def before_a_checkpoint(stage: Stage) -> None:
    thread, _ = await stage.walked()
    everything = await stage.sdk.threads.get_history(thread, limit=100)
    before = everything[1]["checkpoint"]
    assert await stage.sdk.threads.get_history(thread, before=before, limit=100) == everything[2:]
    assert await stage.sdk.threads.get_history(thread, before=before["checkpoint_id"], limit=100) == everything[2:]


async def empty(stage: Stage) -> None:
    state = await stage.sdk.threads.get_state(await stage.thread())
    assert (state["values"], state["next"], state["tasks"]) == ({}, [], [])
    assert state["checkpoint"] is None


async def unknown(stage: Stage) -> None:
    thread = "00000000-0000-4000-8000-000000000000"
    async with refusal(404):
        await stage.sdk.threads.get_state(thread)
    async with refusal(404):
        await stage.sdk.threads.get_history(thread)


def _of_each(run: Any, answer: str, **more: Any) -> list[Any]:
    return [
        probe(_bound(run, read), claim(operation, answer=answer), name=operation, **more)
        for operation, read in READS.items()
    ]


def _bound(run: Any, read: Read) -> Any:
    async def bound(stage: Stage) -> None:
        await run(stage, read)

    bound.__name__, bound.__module__ = run.__name__, run.__module__
    return bound


def _subgraph_claims() -> list[Claim]:
    return [
        claim(STATE, query="subgraphs", answer="tasks.state"),
        claim(AT, query="subgraphs", answer="tasks.state"),
        claim(AT_POST, body="subgraphs", answer="tasks.state"),
    ]


PROBES = (
    *_of_each(at_rest, AT_REST),
    *_of_each(asking, ASKING),
    *_of_each(fanned_out, "tasks.result tasks.path"),
    *_of_each(failed, "tasks.error"),
    probe(
        no_checkpoint_of_a_subgraph,
        *(claim(one, partly={"answer.tasks.checkpoint": "with `subgraphs` only"}) for one in (STATE, AT, AT_POST)),
    ),
    probe(with_subgraphs, *_subgraph_claims()),
    probe(in_a_namespace, claim(AT_POST, body="checkpoint.checkpoint_ns")),
    probe(history_in_a_namespace, claim(HISTORY_POST, body="checkpoint.checkpoint_ns")),
    probe(earlier, claim(AT), claim(AT_POST, body="checkpoint.checkpoint_id")),
    probe(history, claim(HISTORY, query="limit before")),
    probe(history_posted, claim(HISTORY_POST, body="limit before metadata")),
    probe(
        before_a_checkpoint,
        differs="`before` of a posted history may be a config (as the Agent Server has it), and, as the SDK's types say, a "
        "checkpoint or its id.",
    ),
    probe(empty, claim(STATE)),
    probe(unknown, claim(STATE), claim(HISTORY_POST)),
)
