"""Crons: making, reading, changing, searching, counting, removing; and what their runs are started with."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from tests.compatibility.probe import ACCEPTED, claim, probe
from tests.compatibility.probes.threads import assert_recent
from tests.compatibility.stage import Stage, eventually, mark, refusal

OF_THREAD, STATELESS = "POST /threads/{thread_id}/runs/crons", "POST /runs/crons"
SEARCH, COUNT = "POST /runs/crons/search", "POST /runs/crons/count"
READ, CHANGE, REMOVE = "GET /runs/crons/{cron_id}", "PATCH /runs/crons/{cron_id}", "DELETE /runs/crons/{cron_id}"
CRON = "cron_id assistant_id created_at updated_at schedule payload metadata enabled next_run_date"
DAILY = "0 7 * * *"
EVERY_SECOND = "* * * * * *"


async def _make(stage: Stage, **more: Any) -> Any:
    return await stage.sdk.crons.create("walk", schedule=DAILY, **{"input": {"n": 1}, **more})


async def _make_on(stage: Stage, thread: str, **more: Any) -> Any:
    return await stage.sdk.crons.create_for_thread(thread, "walk", schedule=DAILY, **{"input": {"n": 1}, **more})


async def _read(stage: Stage, cron: Mapping[str, Any]) -> Any:
    return (await stage.http.get(f"/runs/crons/{cron['cron_id']}")).raise_for_status().json()


def _assert_cron(cron: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    assert uuid.UUID(cron["cron_id"])
    assert uuid.UUID(cron["assistant_id"])
    assert cron["schedule"] == DAILY
    assert cron["payload"]["input"] == {"n": 1}
    assert cron["metadata"].items() >= metadata.items()
    assert cron["enabled"] is True
    following = datetime.fromisoformat(cron["next_run_date"])
    assert (following.hour, following.minute) == (7, 0)
    assert timedelta(0) < following - datetime.now(UTC) <= timedelta(days=1)
    assert_recent(dict(cron), "created_at", "updated_at")


async def shown(stage: Stage) -> None:
    metadata, thread = mark(), await stage.thread()
    end = datetime.now(UTC) + timedelta(days=3)
    made = [
        await _make(stage, metadata=metadata, end_time=end),
        await _make_on(stage, thread, metadata=metadata, end_time=end),
    ]
    found = await stage.sdk.crons.search(metadata=metadata)
    assert {one["cron_id"] for one in found} == {one["cron_id"] for one in made}
    for cron in (*made, *found, *[await _read(stage, one) for one in made]):
        _assert_cron(cron, metadata)
        assert abs(datetime.fromisoformat(cron["end_time"]) - end) < timedelta(seconds=1)
    assert [one["thread_id"] for one in (made[1], await _read(stage, made[1]))] == [thread, thread]
    for one in made:
        await stage.sdk.crons.delete(one["cron_id"])
        async with refusal(404):
            await _read(stage, one)


async def disabled(stage: Stage) -> None:
    for cron in (await _make(stage, enabled=False), await _make_on(stage, await stage.thread(), enabled=False)):
        assert cron["enabled"] is False
        changed = await stage.sdk.crons.update(cron["cron_id"], enabled=True)
        assert changed["enabled"] is True
        await stage.sdk.crons.delete(cron["cron_id"])


async def in_a_time_zone(stage: Stage) -> None:
    for cron in (
        await _make(stage, timezone="Asia/Tokyo"),
        await _make_on(stage, await stage.thread(), timezone="Asia/Tokyo"),
    ):
        assert datetime.fromisoformat(cron["next_run_date"]).astimezone(UTC).hour == 22
        changed = await stage.sdk.crons.update(cron["cron_id"], timezone="UTC")
        assert datetime.fromisoformat(changed["next_run_date"]).astimezone(UTC).hour == 7
        await stage.sdk.crons.delete(cron["cron_id"])


async def changed(stage: Stage) -> None:
    cron = await _make(stage)
    end = datetime.now(UTC) + timedelta(days=2)
    metadata = mark()
    told = await stage.sdk.crons.update(
        cron["cron_id"], schedule="0 8 * * *", end_time=end, metadata=metadata, input={"n": 2}
    )
    for one in (told, await _read(stage, cron)):
        assert (one["cron_id"], one["assistant_id"]) == (cron["cron_id"], cron["assistant_id"])
        assert (one["schedule"], one["enabled"]) == ("0 8 * * *", True)
        assert one["metadata"].items() >= metadata.items()
        assert one["payload"]["input"] == {"n": 2}
        assert abs(datetime.fromisoformat(one["end_time"]) - end) < timedelta(seconds=1)
        assert datetime.fromisoformat(one["next_run_date"]).hour == 8
        assert_recent(one, "created_at", "updated_at")
    await stage.sdk.crons.delete(cron["cron_id"])


async def searched(stage: Stage) -> None:
    metadata, thread = mark(), await stage.thread()
    mine = [await _make(stage, metadata=metadata) for _ in range(2)]
    of_thread = await _make_on(stage, thread, metadata=metadata, enabled=False)
    search, count = stage.sdk.crons.search, stage.sdk.crons.count
    assert len(await search(metadata=metadata)) == 3
    assert await count(metadata=metadata) == 3
    assert [one["cron_id"] for one in await search(thread_id=thread)] == [of_thread["cron_id"]]
    assert await count(thread_id=thread) == 1
    assert len(await search(metadata=metadata, assistant_id=mine[0]["assistant_id"])) == 3
    assert await count(metadata=metadata, assistant_id=mine[0]["assistant_id"]) == 3
    assert await count(metadata=metadata, assistant_id=str(uuid.uuid4())) == 0
    assert [one["cron_id"] for one in await search(metadata=metadata, enabled=False)] == [of_thread["cron_id"]]
    oldest_first = [one["cron_id"] for one in (*mine, of_thread)]
    found = await search(metadata=metadata, sort_by="created_at", sort_order="asc")
    assert [one["cron_id"] for one in found] == oldest_first
    found = await search(metadata=metadata, sort_by="created_at", sort_order="desc", limit=2)
    assert [one["cron_id"] for one in found] == oldest_first[:0:-1]
    found = await search(metadata=metadata, sort_by="created_at", sort_order="asc", offset=1)
    assert [one["cron_id"] for one in found] == oldest_first[1:]
    found = await search(metadata=metadata, select=["cron_id", "schedule"])
    assert [set(one) for one in found] == [{"cron_id", "schedule"}] * 3
    for cron_id in oldest_first:
        await stage.sdk.crons.delete(cron_id)


FIRED: dict[str, Any] = {
    "input": {"n": 3},
    "config": {"tags": ["red"], "configurable": {"colour": "green"}, "recursion_limit": 40},
    "interrupt_after": ["right"],
}


def _assert_fired(values: Mapping[str, Any]) -> None:
    assert values["log"] == ["left", "right"]
    assert "red" in values["seen"]["tags"]
    assert values["seen"]["configurable"]["colour"] == "green"
    assert values["seen"]["recursion_limit"] == 40


async def _fired(stage: Stage, cron: Mapping[str, Any], metadata: Mapping[str, Any], thread: str | None) -> Any:
    """The values that the first run of a cron left, once it has been fired; the cron is removed."""

    async def first() -> Any:
        if thread is not None:
            runs = await stage.sdk.runs.list(thread)
            return runs[-1] if runs else None
        for one in await stage.sdk.threads.search(metadata=dict(metadata)):
            return (await stage.sdk.runs.list(one["thread_id"]) or [None])[-1]
        return None

    run = await eventually(first, "the cron has fired")
    await stage.sdk.crons.delete(cron["cron_id"])
    return await stage.sdk.runs.join(run["thread_id"], run["run_id"])


async def fired(stage: Stage) -> None:
    metadata = mark()
    cron: Any = await stage.sdk.crons.create("walk", schedule=EVERY_SECOND, metadata=metadata, **FIRED)
    _assert_fired(await _fired(stage, cron, metadata, None))


async def fired_on_a_thread(stage: Stage) -> None:
    thread = await stage.thread()
    cron: Any = await stage.sdk.crons.create_for_thread(thread, "walk", schedule=EVERY_SECOND, **FIRED)
    _assert_fired(await _fired(stage, cron, {}, thread))


async def fired_with_context(stage: Stage) -> None:
    more: dict[str, Any] = {"schedule": EVERY_SECOND, "input": {"n": 1}, "context": {"who": "me"}}
    more |= {"interrupt_before": ["right"]}
    metadata, thread = mark(), await stage.thread()
    path = f"/{uuid.uuid4().hex}"
    cron: Any = await stage.sdk.crons.create("walk", metadata=metadata, webhook=stage.hooks.url(path), **more)
    assert (await _fired(stage, cron, metadata, None))["seen"]["context"] == {"who": "me"}
    await stage.hooked(path)
    path = f"/{uuid.uuid4().hex}"
    cron = await stage.sdk.crons.create_for_thread(thread, "walk", webhook=stage.hooks.url(path), **more)
    assert (await _fired(stage, cron, {}, thread))["seen"]["context"] == {"who": "me"}
    await stage.hooked(path)


async def fired_as_changed(stage: Stage) -> None:
    metadata = mark()
    cron: Any = await _make(stage, metadata=metadata)
    more: Any = {"schedule": EVERY_SECOND, **FIRED}
    await stage.sdk.crons.update(cron["cron_id"], **more)
    _assert_fired(await _fired(stage, cron, metadata, None))


async def told_as_changed(stage: Stage) -> None:
    metadata = mark()
    path = f"/{uuid.uuid4().hex}"
    cron: Any = await _make(stage, metadata=metadata)
    await stage.sdk.crons.update(cron["cron_id"], schedule=EVERY_SECOND, webhook=stage.hooks.url(path))
    assert (await _fired(stage, cron, metadata, None))["log"] == ["left"]
    await stage.hooked(path)


async def fired_with_changed_context(stage: Stage) -> None:
    metadata = mark()
    cron: Any = await _make(stage, metadata=metadata, input={"n": 2})
    more: Any = {"schedule": EVERY_SECOND, "context": {"who": "me"}, "interrupt_before": ["right"]}
    await stage.sdk.crons.update(cron["cron_id"], **more)
    values = await _fired(stage, cron, metadata, None)
    assert values["seen"]["context"] == {"who": "me"}
    assert values["log"] == ["left"]


async def without_streams(stage: Stage) -> None:
    metadata, thread = mark(), await stage.thread()
    options: dict[str, Any] = {
        "stream_mode": ["updates"],
        "stream_subgraphs": True,
        "stream_resumable": True,
        "durability": "exit",
    }
    more = {"schedule": EVERY_SECOND, "input": {"n": 1}, **options}
    cron: Any = await stage.sdk.crons.create("walk", metadata=metadata, **more)
    assert (await _fired(stage, cron, metadata, None))["log"] == ["left"]
    cron = await stage.sdk.crons.create_for_thread(thread, "walk", **more)
    assert (await _fired(stage, cron, {}, thread))["log"] == ["left"]
    metadata = mark()
    cron = await _make(stage, metadata=metadata)
    await stage.sdk.crons.update(cron["cron_id"], schedule=EVERY_SECOND, **options)
    assert (await _fired(stage, cron, metadata, None))["log"] == ["left"]


async def kept(stage: Stage) -> None:
    metadata = mark()
    cron: Any = await stage.sdk.crons.create(
        "walk", schedule=EVERY_SECOND, input={"n": 1}, metadata=metadata, on_run_completed="keep"
    )
    await stage.sdk.crons.update(cron["cron_id"], on_run_completed="keep")
    assert (await _fired(stage, cron, metadata, None))["log"] == ["left"]
    kept = await stage.sdk.threads.search(metadata=metadata)  # the newest may be one that was made just now
    assert ["left"] in [(one["values"] or {}).get("log") for one in kept]


async def deleted(stage: Stage) -> None:
    """The run tells that it ran by its webhook; then its thread goes."""
    made, changed = mark(), mark()
    paths = [f"/{uuid.uuid4().hex}" for _ in range(2)]
    more: dict[str, Any] = {"schedule": EVERY_SECOND, "input": {"n": 1}, "webhook": stage.hooks.url(paths[0])}
    crons: list[Any] = [await stage.sdk.crons.create("walk", metadata=made, on_run_completed="delete", **more)]
    crons.append(await _make(stage, metadata=changed, on_run_completed="keep"))
    more["webhook"] = stage.hooks.url(paths[1])
    await stage.sdk.crons.update(crons[1]["cron_id"], on_run_completed="delete", **more)
    for path, metadata, cron in zip(paths, (made, changed), crons, strict=True):
        await stage.hooked(path)
        await stage.sdk.crons.delete(cron["cron_id"])
        searching = partial(stage.sdk.threads.search, metadata=metadata)
        await eventually(searching, "the threads are gone", lambda threads: threads == [])


async def fired_in_place_of_a_run(stage: Stage) -> None:
    """``rollback``: what the run before wrote is undone."""
    held = await stage.held()
    thread = held["thread_id"]
    more: dict[str, Any] = {"schedule": EVERY_SECOND, "input": {"n": 1, "delay_s": 0}}
    cron: Any = await stage.sdk.crons.create_for_thread(thread, "walk", multitask_strategy="rollback", **more)

    async def is_gone() -> bool:
        return held["run_id"] not in {one["run_id"] for one in await stage.sdk.runs.list(thread, limit=50)}

    await eventually(is_gone, "the run is undone")
    await stage.sdk.crons.delete(cron["cron_id"])


async def _runs_of(stage: Stage, thread: str, held: Mapping[str, Any]) -> list[Any]:
    return [one for one in await stage.sdk.runs.list(thread, limit=20) if one["run_id"] != held["run_id"]]


async def fired_beside_a_run(stage: Stage) -> None:
    """``enqueue`` adds a run that waits, ``interrupt`` ends the run that was there."""
    held = await stage.held()
    thread = held["thread_id"]
    more: dict[str, Any] = {"schedule": EVERY_SECOND, "input": {"n": 1, "delay_s": 0}}
    cron: Any = await stage.sdk.crons.create_for_thread(thread, "walk", multitask_strategy="enqueue", **more)
    waiting = await eventually(partial(_runs_of, stage, thread, held), "the cron has fired")
    await stage.sdk.crons.delete(cron["cron_id"])
    assert waiting[-1]["status"] == "pending"
    assert (await stage.sdk.runs.get(thread, held["run_id"]))["status"] == "running"
    cron = await stage.sdk.crons.create_for_thread(thread, "walk", multitask_strategy="interrupt", **more)
    assert (await stage.ended(held))["status"] == "interrupted"
    await stage.sdk.crons.delete(cron["cron_id"])


async def not_fired_beside_a_run(stage: Stage) -> None:
    """``reject``: a fire time at which a run is active is skipped, and the cron goes on."""
    thread = await stage.thread()
    held = await stage.sdk.runs.create(thread, "walk", input={"n": 1, "delay_s": 6})
    more: dict[str, Any] = {"schedule": EVERY_SECOND, "input": {"n": 1, "delay_s": 0}}
    cron: Any = await stage.sdk.crons.create_for_thread(thread, "walk", multitask_strategy="reject", **more)
    due = datetime.fromisoformat(cron["next_run_date"])

    async def passed() -> bool:
        return datetime.fromisoformat((await _read(stage, cron))["next_run_date"]) > due + timedelta(seconds=1)

    await eventually(passed, "two fire times have passed")
    assert await _runs_of(stage, thread, held) == []
    await stage.ended(held)
    await eventually(partial(_runs_of, stage, thread, held), "the cron has fired")
    await stage.sdk.crons.delete(cron["cron_id"])


NO_STREAMS = dict.fromkeys(("body.stream_mode", "body.stream_subgraphs", "body.stream_resumable"), ACCEPTED)
NO_STREAMS |= {"body.durability": "always `sync`"}
GIVEN = "input config.tags config.configurable config.recursion_limit"
PROBES = (
    probe(
        shown,
        claim(STATELESS, body="schedule assistant_id metadata end_time", answer=f"{CRON} end_time"),
        claim(OF_THREAD, body="schedule assistant_id metadata end_time", answer=f"{CRON} end_time thread_id"),
        claim(SEARCH, answer=f"{CRON} end_time thread_id"),
        claim(READ, answer=f"{CRON} end_time thread_id"),
        claim(REMOVE),
    ),
    probe(disabled, *(claim(one, body="enabled") for one in (STATELESS, OF_THREAD, CHANGE))),
    probe(in_a_time_zone, *(claim(one, body="timezone") for one in (STATELESS, OF_THREAD, CHANGE))),
    probe(changed, claim(CHANGE, body="schedule end_time metadata input", answer=f"{CRON} end_time")),
    probe(
        searched,
        claim(SEARCH, body="assistant_id thread_id enabled metadata limit offset sort_by sort_order select"),
        claim(COUNT, body="assistant_id thread_id metadata"),
    ),
    probe(fired, claim(STATELESS, body=f"{GIVEN} interrupt_after")),
    probe(fired_on_a_thread, claim(OF_THREAD, body=f"{GIVEN} interrupt_after")),
    probe(
        fired_with_context,
        claim(STATELESS, body="context webhook interrupt_before"),
        claim(OF_THREAD, body="context webhook interrupt_before"),
    ),
    probe(fired_as_changed, claim(CHANGE, body=f"{GIVEN} interrupt_after")),
    probe(told_as_changed, claim(CHANGE, body="webhook")),
    probe(fired_with_changed_context, claim(CHANGE, body="context interrupt_before")),
    probe(without_streams, *(claim(one, partly=NO_STREAMS) for one in (STATELESS, OF_THREAD, CHANGE))),
    probe(kept, claim(STATELESS, body="on_run_completed=keep"), claim(CHANGE, body="on_run_completed=keep")),
    probe(deleted, claim(STATELESS, body="on_run_completed=delete"), claim(CHANGE, body="on_run_completed=delete")),
    probe(fired_in_place_of_a_run, claim(OF_THREAD, body="multitask_strategy=rollback")),
    probe(fired_beside_a_run, claim(OF_THREAD, body="multitask_strategy=enqueue multitask_strategy=interrupt")),
    probe(not_fired_beside_a_run, claim(OF_THREAD, body="multitask_strategy=reject")),
)
