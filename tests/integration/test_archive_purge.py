"""Purging on a real database: nothing is left, whoever dies, and what is held or wanted stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.archive_stage import LEASE_S, LONG_AGO, Stage, objects, opened

from perdure.archive.policy import RetentionPolicy
from perdure.archive.purging import Purger, plan
from perdure.archive.store import ArchiveStore
from perdure.chassis.clock import now
from perdure.schemas.documents import THREADS


@pytest.fixture
async def stage(mongodb_uri: str, kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with opened(mongodb_uri, kafka_bootstrap, ArchiveStore(str(tmp_path / "archive"))) as made:
        yield made


class Search:
    """What stands for the index: whose documents were removed, and whether that fails."""

    def __init__(self) -> None:
        self.forgotten: list[tuple[str, str]] = []
        self.away = False

    async def forget(self, tenant: str, thread_id: str) -> int:
        if self.away:
            raise ConnectionError("away")
        self.forgotten.append((tenant, thread_id))
        return 0


async def archived(stage: Stage) -> str:
    thread_id = await stage.thread()
    await stage.archiver.archive(await stage.document(thread_id))
    return thread_id


def purger(stage: Stage, search: Search) -> Purger:
    return Purger(stage.db, stage.store, search.forget, LEASE_S)


async def everything(stage: Stage) -> int:
    return sum([await stage.db[name].count_documents({}) for name in await stage.db.list_collection_names()])


async def test_nothing_is_left_also_of_what_came_after_it_was_packed(stage: Stage, tmp_path: Path) -> None:
    search = Search()
    thread_id = await archived(stage)
    late = await stage.run(thread_id, settled=True, status="cancelled", payload_chunks=1)
    await stage.db.payloads.insert_one({"_id": f"{late['_id']}:0", "data": b"x"})
    assert await purger(stage, search).purge(await stage.document(thread_id))
    assert (await everything(stage), objects(tmp_path)) == (0, [])
    assert search.forgotten == [("default", thread_id)]


async def test_a_run_that_came_at_the_last_moment_is_not_purged(stage: Stage, tmp_path: Path) -> None:
    thread_id = await archived(stage)
    document = await stage.document(thread_id)
    late = await stage.run(thread_id)  # after the plan, right before the purge
    assert not await purger(stage, Search()).purge(document)
    assert await stage.document(thread_id) == document
    assert len(objects(tmp_path)) == 1
    await stage.scheduler().finish()
    assert "archive" not in await stage.document(thread_id)
    assert await stage.db.runs.find_one({"_id": late["_id"], "status": "pending"}) is not None


async def test_a_hold_that_came_after_the_plan_holds(stage: Stage) -> None:
    thread_id = await archived(stage)
    document = await stage.document(thread_id)
    hold = {"by": "ann", "reason": "case 7", "at": LONG_AGO}
    await stage.db[THREADS].update_one({"_id": thread_id}, {"$set": {"hold": hold}})
    assert not await purger(stage, Search()).purge(document)
    assert await stage.document(thread_id) == document | {"hold": hold}


async def test_a_purge_that_was_broken_off_is_gone_on_with_at_once(stage: Stage, tmp_path: Path) -> None:
    search = Search()
    search.away = True
    thread_id = await archived(stage)
    with pytest.raises(ConnectionError):
        await purger(stage, search).purge(await stage.document(thread_id))
    assert (await stage.document(thread_id))["archive"]["state"] == "purging"
    await stage.scheduler().finish()
    assert (await stage.document(thread_id))["archive"]["state"] == "purging", "only who is asked to removes for good"
    search.away = False
    assert [thread["_id"] async for thread in purger(stage, search).go_on()] == [thread_id]
    assert (await everything(stage), objects(tmp_path)) == (0, [])


async def test_the_plan_counts_from_the_archiving_and_names_its_rule(stage: Stage) -> None:
    thread_id = await archived(stage)
    policy = RetentionPolicy(purge_days=1.0)
    assert [one async for one in plan(stage.db, policy, now())] == []
    await stage.db[THREADS].update_one({"_id": thread_id}, {"$set": {"archive.at": LONG_AGO}})
    (one,) = [one async for one in plan(stage.db, policy, now())]
    assert (one.thread["_id"], one.rule, one.kept) == (thread_id, "default", None)
