"""Runs after their start: reading, listing, joining, cancelling, deleting; and how a start is answered."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

import httpx
from tests.compatibility.probe import claim, probe
from tests.compatibility.probes.threads import assert_recent
from tests.compatibility.stage import Stage, eventually, mark, refusal

CREATE, CREATE_STATELESS, BATCH = "POST /threads/{thread_id}/runs", "POST /runs", "POST /runs/batch"
WAIT, WAIT_STATELESS = "POST /threads/{thread_id}/runs/wait", "POST /runs/wait"
LIST, READ = "GET /threads/{thread_id}/runs", "GET /threads/{thread_id}/runs/{run_id}"
DELETE, JOIN = "DELETE /threads/{thread_id}/runs/{run_id}", "GET /threads/{thread_id}/runs/{run_id}/join"
CANCEL, CANCEL_MANY = "POST /threads/{thread_id}/runs/{run_id}/cancel", "POST /runs/cancel"
RUN = "run_id thread_id assistant_id created_at updated_at status metadata kwargs multitask_strategy"


def _assert_run(run: Mapping[str, Any], thread: str, metadata: Mapping[str, Any]) -> None:
    assert run["run_id"]
    assert run["thread_id"] == thread
    assert uuid.UUID(run["assistant_id"])
    assert run["metadata"].items() >= metadata.items()
    assert run["kwargs"]["input"] == {"n": 1}
    assert run["multitask_strategy"] == "enqueue"
    assert_recent(dict(run), "created_at", "updated_at")


async def shown(stage: Stage) -> None:
    thread, metadata = await stage.thread(), mark()
    run = await stage.sdk.runs.create(thread, "walk", input={"n": 1}, metadata=metadata)
    _assert_run(run, thread, metadata)
    assert run["status"] in {"pending", "running"}
    ended = await stage.ended(run)
    _assert_run(ended, thread, metadata)
    assert ended["status"] == "success"
    (listed,) = await stage.sdk.runs.list(thread)
    _assert_run(listed, thread, metadata)
    assert listed["status"] == "success"


async def shown_without_a_thread(stage: Stage) -> None:
    metadata = mark()
    run = await stage.sdk.runs.create(None, "walk", input={"n": 1}, metadata=metadata, on_completion="keep")
    _assert_run(run, run["thread_id"], metadata)
    assert run["status"] in {"pending", "running"}
    body: Any = {"assistant_id": "walk", "input": {"n": 1}, "metadata": metadata, "on_completion": "keep"}
    for one in await stage.sdk.runs.create_batch([body, body]):
        _assert_run(one, one["thread_id"], metadata)
        assert one["thread_id"] != run["thread_id"]


async def statuses(stage: Stage) -> None:
    run = await stage.sdk.runs.create(await stage.thread(), "fail", input={})
    assert (await stage.ended(run))["status"] == "error"


async def status_of_a_run_that_asks(stage: Stage) -> None:
    _, run = await stage.asked()
    assert run["status"] == "interrupted"


async def located(stage: Stage) -> None:
    thread = await stage.thread()
    told: list[Any] = []
    run = await stage.sdk.runs.create(thread, "walk", input={"n": 1}, on_run_created=told.append)
    assert [(one["run_id"], one["thread_id"]) for one in told] == [(run["run_id"], thread)]
    run = await stage.sdk.runs.create(None, "walk", input={"n": 1}, on_run_created=told.append)
    assert told[-1]["run_id"] == run["run_id"]
    for of in (thread, None):
        await stage.sdk.runs.wait(of, "walk", input={"n": 1}, on_run_created=told.append)
        assert uuid.UUID(told[-1]["run_id"])
    assert len({one["run_id"] for one in told}) == 4


async def found_where_it_runs(stage: Stage) -> None:
    """``Location`` of a run that is waited for is where its values are, if the connection breaks."""
    thread = await stage.thread()
    answer = await stage.http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "walk", "input": {"n": 1}})
    (run,) = await stage.sdk.runs.list(thread)
    assert answer.headers["Location"] == f"/threads/{thread}/runs/{run['run_id']}/join"
    assert (await stage.http.get(answer.headers["Location"])).json() == answer.json()
    body = {"assistant_id": "walk", "input": {"n": 1}, "on_completion": "keep"}
    answer = await stage.http.post("/runs/wait", json=body)
    assert (await stage.http.get(answer.headers["Location"])).json() == answer.json()


async def accepted(stage: Stage) -> None:
    thread = await stage.thread()
    body = {"assistant_id": "walk", "input": {"n": 1}}
    answer = await stage.http.post(f"/threads/{thread}/runs", json=body)
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/threads/{thread}/runs/{answer.json()['run_id']}"
    answer = await stage.http.post(f"/threads/{thread}/runs", json=body, headers={"Sec-Fetch-Mode": "cors"})
    assert answer.status_code == 200


async def listed(stage: Stage) -> None:
    thread, first = await stage.walked(1)
    second = await stage.walk(thread, 1)
    await stage.ended(await stage.sdk.runs.create(thread, "fail", input={}))
    ids = [one["run_id"] for one in await stage.sdk.runs.list(thread)]
    assert ids[1:] == [second["run_id"], first["run_id"]]
    assert [one["run_id"] for one in await stage.sdk.runs.list(thread, limit=1)] == ids[:1]
    assert [one["run_id"] for one in await stage.sdk.runs.list(thread, limit=5, offset=1)] == ids[1:]
    assert [one["run_id"] for one in await stage.sdk.runs.list(thread, status="error")] == ids[:1]
    assert [set(one) for one in await stage.sdk.runs.list(thread, select=["run_id", "status"])] == [
        {"run_id", "status"}
    ] * 3


async def joined(stage: Stage) -> None:
    thread = await stage.thread()
    run = await stage.sdk.runs.create(thread, "walk", input={"n": 2, "delay_s": 0.2})
    joining = asyncio.ensure_future(stage.sdk.runs.join(thread, run["run_id"]))
    assert (await joining)["log"] == ["left", "right"]  # type: ignore[call-overload]
    assert (await stage.sdk.runs.join(thread, run["run_id"]))["log"] == ["left", "right"]  # type: ignore[call-overload]


async def joined_with_an_error(stage: Stage) -> None:
    thread = await stage.thread()
    run = await stage.sdk.runs.create(thread, "fail", input={})
    values: Any = await stage.sdk.runs.join(thread, run["run_id"])
    assert values["__error__"] == {"error": "ValueError", "message": "failed on purpose"}
    for of in (thread, None):
        values = await stage.sdk.runs.wait(of, "fail", input={}, raise_error=False)
        assert values["__error__"] == {"error": "ValueError", "message": "failed on purpose"}


async def joined_with_a_question(stage: Stage) -> None:
    thread = await stage.thread()
    run = await stage.sdk.runs.create(thread, "ask", input={})
    asked: Any = await stage.sdk.runs.join(thread, run["run_id"])
    for values in (
        asked,
        await stage.sdk.runs.wait(await stage.thread(), "ask", input={}),
        await stage.sdk.runs.wait(None, "ask", input={}),
    ):
        (interrupt,) = values["__interrupt__"]
        assert interrupt["id"]
        assert interrupt["value"] == {"question": "go on?"}


async def joined_until_it_is_cut_off(stage: Stage) -> None:
    for wanted, cancels in {"success": "0", "interrupted": "1"}.items():
        thread = await stage.thread()
        run = await stage.sdk.runs.create(thread, "walk", input={"n": 1, "delay_s": 3})
        path = f"/threads/{thread}/runs/{run['run_id']}/join"
        try:
            await stage.http.get(path, params={"cancel_on_disconnect": cancels}, timeout=1)
        except httpx.ReadTimeout:
            assert (await stage.ended(run))["status"] == wanted
        else:
            raise AssertionError("the run was not waited for")


async def cancelled(stage: Stage) -> None:
    run = await stage.held()
    thread = run["thread_id"]
    await stage.sdk.runs.cancel(thread, run["run_id"], wait=True, action="interrupt")
    assert (await stage.sdk.runs.get(thread, run["run_id"]))["status"] == "interrupted"
    waiting = await stage.held()
    await stage.sdk.runs.cancel(waiting["thread_id"], waiting["run_id"], wait=False)
    assert (await stage.ended(waiting))["status"] == "interrupted"


async def rolled_back(stage: Stage) -> None:
    thread, _ = await stage.walked(1)
    before = await stage.sdk.threads.get_history(thread)
    run = await stage.held(thread)
    await stage.sdk.runs.cancel(thread, run["run_id"], wait=True, action="rollback")
    await _gone(stage, run)
    assert await stage.sdk.threads.get_history(thread) == before


async def _gone(stage: Stage, run: Mapping[str, Any]) -> None:
    reading = partial(stage.sdk.runs.list, run["thread_id"])
    await eventually(reading, "the run is gone", lambda runs: run["run_id"] not in {one["run_id"] for one in runs})


async def cancelled_many(stage: Stage) -> None:
    for action in ("interrupt", "rollback"):
        run = await stage.held()
        await stage.sdk.runs.cancel_many(thread_id=run["thread_id"], run_ids=[run["run_id"]], action=action)  # type: ignore[arg-type]
        if action == "rollback":
            await _gone(stage, run)
        else:
            assert (await stage.ended(run))["status"] == "interrupted"
    async with refusal(404):
        await stage.sdk.runs.cancel_many(thread_id=await stage.thread(), run_ids=[str(uuid.uuid4())])


async def cancelled_by_status(stage: Stage) -> None:
    for statuses in (["pending", "running"], ["all"]):
        running = await stage.held()
        pending = await stage.sdk.runs.create(running["thread_id"], "walk", input={"n": 1})
        for status in statuses:
            await stage.sdk.runs.cancel_many(status=status)  # type: ignore[arg-type]
            if status == "pending":
                assert (await stage.sdk.runs.get(running["thread_id"], running["run_id"]))["status"] == "running"
        for run in (running, pending):
            assert (await stage.ended(run))["status"] == "interrupted"
        assert not (await stage.values(running["thread_id"]))["log"]


async def cancelled_before_its_turn(stage: Stage) -> None:
    running = await stage.held()
    pending = await stage.sdk.runs.create(running["thread_id"], "walk", input={"n": 1})
    await stage.sdk.runs.cancel(pending["thread_id"], pending["run_id"])
    asked = await stage.sdk.runs.get(pending["thread_id"], pending["run_id"])
    assert (asked["status"], bool(asked["cancel_requested_at"])) == ("pending", True)  # type: ignore[typeddict-item]
    await stage.sdk.runs.cancel(running["thread_id"], running["run_id"])
    assert (await stage.ended(pending))["status"] == "interrupted"


async def deleted(stage: Stage) -> None:
    thread, run = await stage.walked()
    await stage.sdk.runs.delete(thread, run["run_id"])
    async with refusal(404):
        await stage.sdk.runs.get(thread, run["run_id"])
    assert await stage.sdk.runs.list(thread) == []


async def not_deleted_while_active(stage: Stage) -> None:
    run = await stage.held()
    async with refusal(409):
        await stage.sdk.runs.delete(run["thread_id"], run["run_id"])
    await stage.sdk.runs.cancel(run["thread_id"], run["run_id"], wait=True)


async def not_deleted_on_completion(stage: Stage) -> None:
    thread = await stage.thread()
    for end in ("", "/wait", "/stream"):
        async with refusal():
            body = {"assistant_id": "walk", "input": {"n": 1}, "on_completion": "delete"}
            (await stage.http.post(f"/threads/{thread}/runs{end}", json=body)).raise_for_status()


async def kept_by_default(stage: Stage) -> None:
    metadata = mark()
    await stage.sdk.runs.wait(None, "walk", input={"n": 1}, metadata=metadata)
    (thread,) = await stage.sdk.threads.search(metadata=metadata)
    assert thread["values"]["log"] == ["left"]


async def problems(stage: Stage) -> None:
    answer = await stage.http.post("/runs", json={"assistant_id": "walk", "input": {}, "multitask_strategy": "none"})
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["errors"][0]["pointer"] == "/multitask_strategy"


async def cancelled_while_it_waits(stage: Stage) -> None:
    """A run that only asks has ended: there is nothing to cancel."""
    thread, run = await stage.asked()
    async with refusal(409):
        await stage.sdk.runs.cancel(thread, run["run_id"])


async def resumed_without_a_question(stage: Stage) -> None:
    thread, _ = await stage.walked()
    async with refusal(409):
        await stage.sdk.runs.create(thread, "walk", command={"resume": "yes"})


NO_DELETE = {"body.on_completion=delete": "refused with 422: a thread of one's own is deleted by `DELETE`"}
PROBES = (
    probe(shown, claim(CREATE, answer=RUN), claim(READ, answer=RUN), claim(LIST, answer=RUN)),
    probe(shown_without_a_thread, claim(CREATE_STATELESS, answer=RUN), claim(BATCH, answer=RUN)),
    probe(statuses, claim(READ, answer="status")),
    probe(
        located,
        *(claim(one, answer_header="Content-Location") for one in (CREATE, CREATE_STATELESS, WAIT, WAIT_STATELESS)),
    ),
    probe(found_where_it_runs, claim(WAIT, answer_header="Location"), claim(WAIT_STATELESS, answer_header="Location")),
    probe(listed, claim(LIST, query="limit offset status select")),
    probe(joined, claim(JOIN)),
    probe(joined_with_an_error, *(claim(one, answer="__error__") for one in (JOIN, WAIT, WAIT_STATELESS))),
    probe(joined_with_a_question, *(claim(one, answer="__interrupt__") for one in (JOIN, WAIT, WAIT_STATELESS))),
    probe(joined_until_it_is_cut_off, claim(JOIN, query="cancel_on_disconnect")),
    probe(cancelled, claim(CANCEL, query="wait action=interrupt")),
    probe(rolled_back, claim(CANCEL, query="action=rollback")),
    probe(cancelled_many, claim(CANCEL_MANY, query="action=interrupt action=rollback", body="thread_id run_ids")),
    probe(cancelled_by_status, claim(CANCEL_MANY, body="status"), alone=True),
    probe(deleted, claim(DELETE)),
    probe(
        not_deleted_on_completion,
        *(claim(one, refused=NO_DELETE) for one in (CREATE, WAIT, f"{CREATE}/stream")),
    ),
    probe(
        status_of_a_run_that_asks,
        differs="A run that ended with a question is `interrupted`; the Agent Server says `success`, so that only its thread tells "
        "whether somebody is asked.",
    ),
    probe(
        cancelled_before_its_turn,
        differs="A run that waits for another one of its thread and is cancelled never begins, but is `pending` (with "
        "`cancel_requested_at`) until its turn comes: the runs of a thread end in their order.",
    ),
    probe(
        accepted,
        differs="A background start is answered **202** with the run and its `Location`: it is durable, and has not begun. Only "
        "`fetch` clients (`Sec-Fetch-Mode`), whose SDK drops the body of a 202, get the Agent Server's 200.",
    ),
    probe(
        kept_by_default,
        differs="The thread of `POST /runs` is **kept** (`on_completion: keep`; the Agent Server's default is `delete`): what "
        "has run can be read and found later, until retention archives it.",
    ),
    probe(
        problems,
        differs='Errors are RFC 9457 problem documents that name every wrong field; the Agent Server answers `{"detail": ...}`.',
    ),
    probe(
        not_deleted_while_active,
        differs="An active run is not deleted (409 `run-active`): cancel it first.",
    ),
    probe(
        resumed_without_a_question,
        differs="`command.resume` on a thread that waits for nothing is refused (409 `nothing-to-resume`) instead of being lost.",
    ),
    probe(
        cancelled_while_it_waits,
        differs="A run that has ended, or waits for an answer, cannot be cancelled (409 `run-ended`).",
    ),
)
