"""What lives is never archived, and what comes at the same moment wins or is kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from tests.integration.archive_stage import LONG_AGO, Gate, Stage, kill, objects, opened, place

from perdure.agent_step.claims import Claims
from perdure.archive.archiving import LivesError
from perdure.archive.candidates import Candidates
from perdure.archive.errors import WorkLostError
from perdure.archive.policy import RetentionPolicy
from perdure.archive.store import ArchiveStore
from perdure.chassis.clock import now
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.outage import Availability


@pytest.fixture
async def stage(mongodb_uri: str, kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with opened(mongodb_uri, kafka_bootstrap, ArchiveStore(str(tmp_path / "archive"))) as made:
        yield made


LIVING: dict[str, tuple[str, dict[str, Any], str]] = {
    "pending": ("runs", {"status": "pending", "settled": False, "epoch": 1}, "a run of it is not finished"),
    "unsettled": ("runs", {"status": "success", "settled": False}, "a run of it is not finished"),
    "parked": ("runs", {"status": "error", "settled": True, "parked_noted": False}, "is still to be noted"),
    "wait": ("waits", {"status": "open"}, "it waits"),
    "signal": ("signals", {"state": "free", "offered": False}, "a signal to it"),
    "schedule": ("schedules", {"next_at": now()}, "a schedule"),
    "paused schedule": ("schedules", {"paused": True}, "a schedule"),
    "notice": ("deliveries", {"state": "pending", "due_at": now()}, "a notice"),
    "event": ("notebook", {"published": False}, "an event"),
}


@pytest.mark.parametrize("what", LIVING)
async def test_what_lives_is_not_archived(stage: Stage, tmp_path: Path, what: str) -> None:
    collection, fields, why = LIVING[what]
    thread_id = await stage.thread()
    one = {**place(thread_id), **fields}
    if collection == "notebook":
        one = {"_id": f"{thread_id}\x1fn\x1f000000000002\x1f0001", "kind": "n", **fields}
    await stage.db[collection].insert_one(one)
    await require_kept(stage, tmp_path, thread_id, why)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"status": "interrupted"}, "status is interrupted"),
        ({"stuck": {"noticed_at": LONG_AGO}}, "it is stuck"),
        ({"hold": {"by": "ann", "reason": "case 7", "at": LONG_AGO}}, r"legal hold: case 7 \(ann\)"),
        ({"batch": {"id": "batch-1", "number": 1}}, "its batch is not finished"),
    ],
)
async def test_what_its_document_keeps_is_not_archived(
    stage: Stage, tmp_path: Path, fields: dict[str, Any], why: str
) -> None:
    await stage.db.batches.insert_one({"_id": "batch-1", "open": True})
    await require_kept(stage, tmp_path, await stage.thread(**fields), why)


async def require_kept(stage: Stage, folder: Path, thread_id: str, why: str) -> None:
    before, document = await stage.snapshot(thread_id), await stage.document(thread_id)
    (candidate,), more = await Candidates(stage.db, RetentionPolicy()).portion(now())
    assert candidate.thread["_id"] == thread_id
    assert not more
    assert candidate.kept is not None
    assert re.search(why, candidate.kept), candidate.kept
    await stage.scheduler().turn()
    with pytest.raises(LivesError):
        await stage.archiver.archive(document)
    assert await stage.snapshot(thread_id) == before
    assert await stage.document(thread_id) == document
    assert (await stage.slot(thread_id), objects(folder)) == (None, [])


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_run_that_comes_while_its_thread_is_packed_wins(stage: Stage, tmp_path: Path, moment: str) -> None:
    gate = stage.store = Gate(str(tmp_path / "archive"))
    thread_id = await stage.thread()
    document = await stage.document(thread_id)
    claims = Claims(
        stage.db, GroupCommit(stage.db.runs, availability=Availability()), Availability(), lambda: "worker", {"g"}
    )

    async def claimed() -> list[str]:
        claim = await claims.claim([thread_id], suspects=[], together=lambda _: 1)
        return [str(one.run["_id"]) for one in claim.won]

    started: list[str] = []

    async def start() -> None:
        started.append((await stage.run(thread_id))["_id"])
        assert await claimed() == [], "no run begins while its thread is copied"

    setattr(gate, moment, start)
    with pytest.raises(LivesError, match="a run of it came meanwhile"):
        await stage.archiver.archive(document)
    assert await stage.document(thread_id) == document
    assert objects(tmp_path) == []
    assert await claimed() == started


@pytest.mark.parametrize("fields", [{}, {"new_thread": True}], ids=["start", "redriven item"])
async def test_a_run_that_slips_through_at_the_last_moment_brings_its_thread_back(
    stage: Stage, fields: dict[str, Any]
) -> None:
    thread_id = await stage.thread()
    before = await stage.snapshot(thread_id)
    await stage.archiver.archive(await stage.document(thread_id))
    late = await stage.run(thread_id, **fields)  # by a gateway that read the thread before it was marked
    claims = Claims(
        stage.db, GroupCommit(stage.db.runs, availability=Availability()), Availability(), lambda: "worker", {"g"}
    )
    claim = await claims.claim([thread_id], suspects=[], together=lambda _: 1)
    assert claim.won == [], "it must not run on an empty thread"
    await stage.scheduler().finish()
    back = await stage.document(thread_id)
    assert "archive" not in back
    after = await stage.snapshot(thread_id)
    assert set(before["runs"]) < set(after["runs"])
    assert {**after, "runs": []} == {**before, "runs": []}
    claim = await claims.claim([thread_id], suspects=[], together=lambda _: 1)
    assert [one.run["_id"] for one in claim.won] == [late["_id"]]


async def test_a_running_run_is_not_disturbed(stage: Stage, tmp_path: Path) -> None:
    thread_id = await stage.thread()
    document = await stage.document(thread_id)
    await stage.run(thread_id, status="running", owner="worker")
    with pytest.raises(LivesError, match="a run of it is running"):
        await stage.archiver.archive(document)
    assert await stage.document(thread_id) == document
    assert objects(tmp_path) == []


async def test_a_hold_that_comes_while_its_thread_is_packed_holds(stage: Stage, tmp_path: Path) -> None:
    gate = stage.store = Gate(str(tmp_path / "archive"))
    thread_id = await stage.thread()
    before, document = await stage.snapshot(thread_id), await stage.document(thread_id)
    hold = {"by": "ann", "reason": "case 7", "at": LONG_AGO}

    async def put_hold() -> None:
        await stage.db.threads.update_one({"_id": thread_id}, {"$set": {"hold": hold}})

    gate.after = put_hold
    with pytest.raises(LivesError, match="legal hold"):
        await stage.archiver.archive(document)
    assert await stage.document(thread_id) == document | {"hold": hold}
    assert await stage.snapshot(thread_id) == before
    assert objects(tmp_path) == []


async def test_of_several_who_archive_one_thread_one_does(stage: Stage, tmp_path: Path) -> None:
    thread_id = await stage.thread()
    document = await stage.document(thread_id)
    outcomes = await asyncio.gather(*(stage.archiver.archive(document) for _ in range(4)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in outcomes) == ["LivesError"] * 3 + ["NoneType"]
    assert await stage.snapshot(thread_id) == {}
    assert len(objects(tmp_path)) == 1


async def test_what_comes_after_it_was_packed_is_kept(stage: Stage) -> None:
    thread_id = await stage.thread()
    await stage.archiver.archive(await stage.document(thread_id))
    early = {**place(thread_id), "name": "go", "state": "free", "offered": True, "created_at": LONG_AGO}
    await stage.db.signals.insert_one(early)
    await stage.restorer.restore(await stage.document(thread_id), "ann")
    assert await stage.db.signals.count_documents({"thread_id": thread_id}) == 2
    assert await stage.db.signals.find_one({"_id": early["_id"]}) is not None


async def test_a_run_that_ends_while_an_attempt_gives_up_keeps_its_end(stage: Stage, tmp_path: Path) -> None:
    thread_id = await stage.thread()
    document = await stage.document(thread_id)
    await kill(stage, tmp_path, thread_id, "before the slot")
    ended = {"seq": 5, "ended_run_id": "newer", "ended_first_seq": 3, "updated_at": now()}
    await stage.db.threads.update_one({"_id": thread_id}, {"$set": ended})
    assert (await stage.finish(thread_id))["ended_run_id"] == "newer"
    assert await stage.document(thread_id) == document | ended | {"updated_at": ANY}


async def test_what_changes_after_it_was_packed_is_kept(stage: Stage, tmp_path: Path) -> None:
    gate = stage.store = Gate(str(tmp_path / "archive"))
    thread_id = await stage.thread()
    before = await stage.snapshot(thread_id)
    (signal,) = await stage.db.signals.find({"thread_id": thread_id}).to_list(None)

    async def change() -> None:
        await stage.db.signals.update_one({"_id": signal["_id"]}, {"$set": {"taken_by": "another wait"}})

    gate.after = change
    await stage.archiver.archive(await stage.document(thread_id))
    changed = signal | {"taken_by": "another wait"}
    assert await stage.db.signals.find_one({"_id": signal["_id"]}) == changed
    assert set(await stage.snapshot(thread_id)) == {"signals"}
    await stage.restorer.restore(await stage.document(thread_id), "ann")
    assert await stage.db.signals.find_one({"_id": signal["_id"]}) == changed
    assert {**await stage.snapshot(thread_id), "signals": []} == {**before, "signals": []}


async def test_who_lost_the_work_while_it_stored_leaves_no_object(stage: Stage, tmp_path: Path) -> None:
    gate = stage.store = Gate(str(tmp_path / "archive"))
    thread_id = await stage.thread()
    before, document = await stage.snapshot(thread_id), await stage.document(thread_id)

    async def take_over() -> None:
        expired = {"archive.expires_at": LONG_AGO}
        await stage.db.threads.update_one({"_id": thread_id}, {"$set": expired})
        await stage.scheduler().finish()
        gate.before = None

    gate.before = take_over
    with pytest.raises(WorkLostError):
        await stage.archiver.archive(document)
    assert (await stage.snapshot(thread_id), await stage.document(thread_id)) == (before, document)
    assert objects(tmp_path) == []
