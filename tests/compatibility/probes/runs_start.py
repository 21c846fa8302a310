"""What a run is started with, asked of every operation that starts one."""

from __future__ import annotations

import asyncio
import time
import uuid
from functools import partial
from typing import Any

import httpx
from tests.compatibility.probe import ACCEPTED
from tests.compatibility.stage import Stage, eventually, mark, refusal
from tests.compatibility.starts import ALL, Start, of_each


async def with_input(stage: Stage, start: Start) -> None:
    assert (await start(stage, input={"n": 3}))["log"] == ["left", "right", "left"]


async def by_assistant(stage: Stage, start: Start) -> None:
    (assistant,) = await stage.sdk.assistants.search(graph_id="walk")
    assert (await start(stage, assistant["assistant_id"]))["log"] == ["left"]
    async with refusal(404, 422):
        await start(stage, "nothing")


async def with_metadata(stage: Stage, start: Start) -> None:
    metadata = mark()
    assert (await start(stage, metadata=metadata))["seen"]["metadata"].items() >= metadata.items()


async def with_config(stage: Stage, start: Start) -> None:
    config = {"tags": ["red", "blue"], "configurable": {"colour": "green"}}
    seen = (await start(stage, config=config))["seen"]
    assert {"red", "blue"} <= set(seen["tags"])
    assert seen["configurable"]["colour"] == "green"


async def with_a_recursion_limit(stage: Stage, start: Start) -> None:
    values = await start(stage, input={"n": 10}, config={"recursion_limit": 4})
    assert values["__error__"]["error"] == "GraphRecursionError"


async def with_context(stage: Stage, start: Start) -> None:
    assert (await start(stage, context={"who": "me"}))["seen"]["context"] == {"who": "me"}


async def with_interrupts(stage: Stage, start: Start) -> None:
    assert (await start(stage, input={"n": 3}, interrupt_before=["right"]))["log"] == ["left"]
    assert (await start(stage, input={"n": 3}, interrupt_after=["right"]))["log"] == ["left", "right"]
    assert not (await start(stage, input={"n": 3}, interrupt_before="*")).get("log")


async def with_a_webhook(stage: Stage, start: Start) -> None:
    path = f"/{uuid.uuid4().hex}"
    await start(stage, webhook=stage.hooks.url(path))
    (told,) = await stage.hooked(path)
    run = told.get("data", told)
    assert run["run_id"]
    assert run["thread_id"]


async def delayed(stage: Stage, start: Start) -> None:
    started = time.monotonic()
    assert (await start(stage, after_seconds=1))["log"] == ["left"]
    assert time.monotonic() - started >= 1


async def resumed(stage: Stage, start: Start) -> None:
    thread, _ = await stage.asked()
    values = await start(stage, "ask", thread, command={"resume": "yes"})
    assert values["answer"] == "yes"
    assert values["log"] == ["question", "finish"]


async def resumed_without_a_thread(stage: Stage, start: Start) -> None:
    async with refusal(400, 409):  # a thread that is made with the run waits for nothing
        await start(stage, "ask", command={"resume": "yes"})


async def directed(stage: Stage, start: Start) -> None:
    thread, _ = await stage.walked(1)
    values = await start(stage, thread=thread, command={"update": {"n": 3}, "goto": "right"})
    assert (values["n"], values["log"]) == (3, ["left", "right", "left"])


async def directed_without_a_thread(stage: Stage, start: Start) -> None:
    """LangGraph goes to the node beside the one where the graph begins."""
    values = await start(stage, command={"update": {"n": 1}, "goto": "right"})
    assert (values["n"], values["log"]) == (1, ["right", "left"])


async def directed_to_a_question(stage: Stage, start: Start) -> None:
    values = await start(stage, "ask", command={"update": {"note": "noted"}, "goto": "finish"})
    assert "__error__" not in values
    (interrupt,) = values["__interrupt__"]
    assert interrupt["value"] == {"question": "go on?"}


async def at_a_checkpoint(stage: Stage, start: Start) -> None:
    thread, _ = await stage.walked()
    history = await stage.sdk.threads.get_history(thread)
    (first,) = [one for one in history if one["values"].get("log") == ["left"]]
    checkpoint = {"checkpoint_id": first["checkpoint"]["checkpoint_id"], "checkpoint_ns": ""}
    values = await start(stage, thread=thread, input={"n": 1}, checkpoint=checkpoint)
    assert values["log"] == ["left", "left"]
    values = await start(stage, thread=thread, input={"n": 1}, checkpoint_id=checkpoint["checkpoint_id"])
    assert values["log"] == ["left", "left"]


async def at_a_checkpoint_of_a_subgraph(stage: Stage, start: Start) -> None:
    thread = await stage.thread()
    await stage.ended(await stage.sdk.runs.create(thread, "nested", input={}))
    state = await stage.sdk.threads.get_state(thread, subgraphs=True)
    checkpoint: Any = state["tasks"][0]["state"]["checkpoint"]  # type: ignore[index]
    assert checkpoint["checkpoint_ns"].startswith("inner:")
    async with refusal(404):
        await start(stage, "nested", thread, input=None, checkpoint=checkpoint)


async def on_a_thread_that_is_not_there(stage: Stage, start: Start) -> None:
    thread = str(uuid.uuid4())
    async with refusal(404):
        await start(stage, thread=thread, if_not_exists="reject")
    assert (await start(stage, thread=thread, if_not_exists="create"))["log"] == ["left"]
    assert (await stage.values(thread))["log"] == ["left"]


async def after_the_others(stage: Stage, start: Start) -> None:
    thread = await stage.thread()
    await stage.sdk.runs.create(thread, "walk", input={"n": 2, "delay_s": 0.1})
    values = await start(stage, thread=thread, input={"n": 1, "delay_s": 0}, multitask_strategy="enqueue")
    assert values["log"] == ["left", "right", "left"]


async def instead_of_none(stage: Stage, start: Start) -> None:
    run = await stage.held()
    async with refusal(409):
        await start(stage, thread=run["thread_id"], multitask_strategy="reject")
    await stage.sdk.runs.cancel(run["thread_id"], run["run_id"], wait=True)
    values = await start(stage, thread=run["thread_id"], input={"n": 1, "delay_s": 0}, multitask_strategy="reject")
    assert values["log"] == ["left"]


async def instead_of_the_others(stage: Stage, start: Start) -> None:
    thread, _ = await stage.walked(1)
    run = await stage.held(thread)
    values = await start(stage, thread=thread, input={"n": 1, "delay_s": 0}, multitask_strategy="interrupt")
    assert values["log"] == ["left", "left"]
    assert (await stage.ended(run))["status"] == "interrupted"


async def undoing_the_others(stage: Stage, start: Start) -> None:
    thread, _ = await stage.walked(1)
    run = await stage.held(thread)
    values = await start(stage, thread=thread, input={"n": 1, "delay_s": 0}, multitask_strategy="rollback")
    assert values["log"] == ["left", "left"]
    async with refusal(404):
        await stage.sdk.runs.get(thread, run["run_id"])

    async def left() -> bool:
        history = await stage.sdk.threads.get_history(thread, limit=100)
        return run["run_id"] in {one["metadata"].get("run_id") for one in history}

    await eventually(left, "what the run wrote is undone", lambda is_left: not is_left)


async def always_durable(stage: Stage, start: Start) -> None:
    thread = await stage.thread()
    for option in ({"durability": "exit"}, {"checkpoint_during": False}):
        before = len(await stage.sdk.threads.get_history(thread, limit=100))
        await start(stage, thread=thread, input={"n": 2}, **option)
        assert len(await stage.sdk.threads.get_history(thread, limit=100)) - before >= 4, option


async def always_durable_without_a_thread(stage: Stage, start: Start) -> None:
    for option in ({"durability": "exit"}, {"checkpoint_during": False}):
        metadata = mark()
        await start(stage, input={"n": 2}, metadata=metadata, **option)
        (thread,) = await stage.sdk.threads.search(metadata=metadata)
        assert len(await stage.sdk.threads.get_history(thread["thread_id"], limit=100)) >= 4, option


async def without_effect(stage: Stage, start: Start) -> None:
    options = {"feedback_keys": ["score"], "langsmith_tracer": {"project_name": "none"}}
    assert (await start(stage, **options))["log"] == ["left"]


async def feedback_without_effect(stage: Stage, start: Start) -> None:
    assert (await start(stage, feedback_keys=["score"]))["log"] == ["left"]


async def not_streamed(stage: Stage, start: Start) -> None:
    """What is streamed of a run changes nothing of what is waited for."""
    options: dict[str, Any] = {"stream_mode": ["updates"], "stream_subgraphs": True, "stream_resumable": True}
    assert (await start(stage, input={"n": 2}, **options))["log"] == ["left", "right"]


async def kept(stage: Stage, start: Start) -> None:
    metadata = mark()
    await start(stage, metadata=metadata, on_completion="keep")
    (thread,) = await stage.sdk.threads.search(metadata=metadata)
    assert thread["values"]["log"] == ["left"]


async def deleted_after_its_end(stage: Stage, start: Start) -> None:
    metadata = mark()
    searching = partial(stage.sdk.threads.search, metadata=metadata)
    if start.kind in {"create", "batch"}:
        run = await start.run(stage, "walk", None, input={"n": 1}, metadata=metadata, on_completion="delete")
        async with refusal(404):
            await _gone(stage, run["thread_id"])
    else:
        values = await start(stage, metadata=metadata, on_completion="delete")
        assert values["log"] == ["left"]
    await eventually(searching, "the thread is gone", lambda threads: threads == [])


async def _gone(stage: Stage, thread: str) -> None:
    while True:
        await stage.sdk.threads.get(thread)
        await asyncio.sleep(0.1)


async def while_somebody_listens(stage: Stage, start: Start) -> None:
    for wanted, options in {
        "success": {"on_disconnect": "continue"},
        "interrupted": {"on_disconnect": "cancel"},
    }.items():
        metadata = mark()
        body = {"assistant_id": "walk", "input": {"n": 1, "delay_s": 4}, "metadata": metadata, **options}
        thread = await stage.thread(metadata=metadata) if start.stateful else None
        if thread is None:
            body["on_completion"] = "keep"
        try:
            await stage.http.post(start.path(thread), json=body, timeout=1.5)
        except httpx.ReadTimeout:
            pass
        else:
            raise AssertionError("the answer did not wait for the run")
        if thread is None:
            (found,) = await stage.sdk.threads.search(metadata=metadata)
            thread = found["thread_id"]
        (run,) = await stage.sdk.runs.list(thread)
        assert (await stage.ended(run))["status"] == wanted


STATEFUL = tuple(one for one in ALL if one.stateful)
STATELESS = tuple(one for one in ALL if not one.stateful)
BATCH = tuple(one for one in ALL if one.kind == "batch")
HELD = tuple(one for one in ALL if one.kind in {"wait", "stream"})
NOT_STREAMED = tuple(one for one in ALL if one.kind != "stream")
DURABLE = "always `sync`: every superstep is durable before the next one, at least what is asked for"
ROOT = '`""` only: a run starts at a checkpoint of the whole graph'

PROBES = (
    *of_each(ALL, with_input, body="input"),
    *of_each(ALL, by_assistant, body="assistant_id"),
    *of_each(ALL, with_metadata, body="metadata"),
    *of_each(ALL, with_config, body="config.tags config.configurable"),
    *of_each(ALL, with_a_recursion_limit, body="config.recursion_limit"),
    *of_each(ALL, with_context, body="context"),
    *of_each(ALL, with_interrupts, body="interrupt_before interrupt_after"),
    *of_each(ALL, with_a_webhook, body="webhook"),
    *of_each(ALL, delayed, body="after_seconds"),
    *of_each(STATEFUL, resumed, body="command.resume"),
    *of_each(STATELESS, resumed_without_a_thread, body="command.resume"),
    *of_each(STATEFUL, directed, body="command.update command.goto"),
    *of_each(STATELESS, directed_without_a_thread, body="command.update command.goto"),
    *of_each(STATELESS, directed_to_a_question, body="command.update command.goto"),
    *of_each(STATEFUL, at_a_checkpoint, body="checkpoint.checkpoint_id checkpoint_id"),
    *of_each(STATEFUL, at_a_checkpoint_of_a_subgraph, partly={"body.checkpoint.checkpoint_ns": ROOT}),
    *of_each(STATEFUL, on_a_thread_that_is_not_there, body="if_not_exists=create if_not_exists=reject"),
    *of_each(STATEFUL, after_the_others, body="multitask_strategy=enqueue"),
    *of_each(STATEFUL, instead_of_none, body="multitask_strategy=reject"),
    *of_each(STATEFUL, instead_of_the_others, body="multitask_strategy=interrupt"),
    *of_each(STATEFUL, undoing_the_others, body="multitask_strategy=rollback"),
    *of_each(STATEFUL, always_durable, partly={"body.durability": DURABLE, "body.checkpoint_during": DURABLE}),
    *of_each(
        STATELESS,
        always_durable_without_a_thread,
        partly={"body.durability": DURABLE, "body.checkpoint_during": DURABLE},
    ),
    *of_each(
        tuple(one for one in ALL if one.kind != "batch"),
        without_effect,
        partly={"body.feedback_keys": "accepted; no feedback links are made", "body.langsmith_tracer": ACCEPTED},
    ),
    *of_each(
        BATCH,
        feedback_without_effect,
        partly={"body.feedback_keys": "accepted; no feedback links are made"},
    ),
    *of_each(
        NOT_STREAMED,
        not_streamed,
        partly=dict.fromkeys(("body.stream_mode", "body.stream_subgraphs", "body.stream_resumable"), ACCEPTED),
    ),
    *of_each(STATELESS, kept, body="on_completion=keep"),
    *of_each(STATELESS, deleted_after_its_end, body="on_completion=delete"),
    *of_each(HELD, while_somebody_listens, body="on_disconnect=continue on_disconnect=cancel"),
)
