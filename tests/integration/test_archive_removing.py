"""Deleted threads on a real database: nothing is left, whoever dies, and the deletion is told after everything else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.archive_stage import LEASE_S, Stage, objects, opened
from tests.integration.test_archive_purge import everything

from perdure.archive.removing import Remover
from perdure.archive.store import ArchiveStore
from perdure.archive.work import Work, take_over
from perdure.chassis.clock import now
from perdure.schemas.documents import ArchiveState


@pytest.fixture
async def stage(mongodb_uri: str, kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with opened(mongodb_uri, kafka_bootstrap, ArchiveStore(str(tmp_path / "archive"))) as made:
        yield made


def remover(stage: Stage, grace_s: float = 0) -> Remover:
    return Remover(stage.db, stage.store, stage.producer, "test", timedelta(seconds=grace_s))


async def mark(stage: Stage, thread_id: str) -> None:
    """What the gateway does."""
    thread = await stage.document(thread_id)
    leftover = (thread.get("archive") or {}).get("object")
    removing = {"state": ArchiveState.REMOVING.value, "at": now(), "expires_at": now(), "leftover": leftover}
    await stage.db.threads.update_one({"_id": thread_id}, {"$set": {"archive": removing}})


async def taken(stage: Stage) -> Work:
    (work,) = await take_over(stage.db, LEASE_S, 5, {"$eq": ArchiveState.REMOVING.value})
    return work


async def test_nothing_is_left_of_an_archived_thread(stage: Stage, tmp_path: Path) -> None:
    thread_id = await stage.thread()
    await stage.archiver.archive(await stage.document(thread_id))
    assert objects(tmp_path)
    await mark(stage, thread_id)
    assert await remover(stage).go_on(await taken(stage))
    assert (await everything(stage), objects(tmp_path)) == (0, [])


async def test_what_comes_until_the_end_of_the_grace_goes_too(stage: Stage) -> None:
    thread_id, other = await stage.thread(), await stage.thread()
    of_other = await stage.db.notebook.count_documents({"_id": {"$regex": f"^{other}"}})
    await mark(stage, thread_id)
    assert not await remover(stage, grace_s=0.5).go_on(await taken(stage))
    assert await stage.db.notebook.count_documents({"_id": {"$regex": f"^{thread_id}"}}) == 0
    late = await stage.run(thread_id, payload_chunks=1)
    await stage.db.payloads.insert_one({"_id": f"{late['_id']}:0", "data": b"x"})
    assert (
        await take_over(stage.db, LEASE_S, 5, {"$eq": ArchiveState.REMOVING.value}) == []
    )  # not before the grace is over
    await stage.db.threads.update_one(
        {"_id": thread_id}, {"$set": {"archive.expires_at": now(), "archive.at": now() - timedelta(1)}}
    )
    assert await remover(stage).go_on(await taken(stage))
    assert await stage.db.runs.count_documents({"thread_id": thread_id}) == 0
    assert await stage.db.payloads.count_documents({"_id": f"{late['_id']}:0"}) == 0
    assert await stage.db.threads.distinct("_id") == [other]
    assert await stage.db.notebook.count_documents({"_id": {"$regex": f"^{other}"}}) == of_other


async def test_a_run_is_ended_and_tells_everything_first(stage: Stage) -> None:
    thread_id = await stage.thread()
    run = await stage.run(thread_id, status="running", settled=False)
    await mark(stage, thread_id)
    before = await stage.db.notebook.count_documents({})
    assert not await remover(stage).go_on(await taken(stage))
    assert "cancel_requested_at" in (await stage.db.runs.find_one({"_id": run["_id"]}) or {})
    await stage.db.runs.delete_one(
        {"_id": run["_id"]}
    )  # SecantusDB keeps the running slot of a run that is only updated
    await stage.db.runs.insert_one({**run, "status": "cancelled"})
    await stage.db.threads.update_one({"_id": thread_id}, {"$set": {"archive.expires_at": now()}})
    assert not await remover(stage).go_on(await taken(stage))
    assert await stage.slot(thread_id) is not None  # no other run begins
    assert await stage.db.notebook.count_documents({}) == before
    await stage.db.runs.update_one({"_id": run["_id"]}, {"$set": {"settled": True}})
    await stage.db.threads.update_one({"_id": thread_id}, {"$set": {"archive.expires_at": now()}})
    assert await remover(stage).go_on(await taken(stage))
    assert await everything(stage) == 0
