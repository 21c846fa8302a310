"""Whoever dies, freezes or loses the store while a thread goes or comes back: nothing is lost, and another finishes it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.archive_stage import Gate, Stage, kill, objects, opened, run_victim
from tests.integration.archive_victim import POINTS

from perdure.archive import store
from perdure.archive.errors import ArchiveDamagedError, ArchiveUnavailableError, WorkLostError
from perdure.archive.store import ArchiveStore
from perdure.local.resources import free_port

BEFORE_MARK = ("before the slot", "before writing", "between write and verify", "between verify and mark")
AFTER_MARK = ("between mark and event", "between mark and delete", "in the middle of delete", "at the end of delete")
RESTORING = ("before copying back", "in the middle of copying back", "when it is back", "while cleaning up")


@pytest.fixture
async def stage(mongodb_uri: str, kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with opened(mongodb_uri, kafka_bootstrap, ArchiveStore(str(tmp_path / "archive"))) as made:
        yield made


def test_every_point_is_tried() -> None:
    assert {*BEFORE_MARK, *AFTER_MARK, *RESTORING} == set(POINTS)


@pytest.mark.parametrize("point", BEFORE_MARK)
async def test_killed_before_the_mark_the_thread_is_as_it_was(stage: Stage, tmp_path: Path, point: str) -> None:
    thread_id = await stage.thread()
    before, document = await stage.snapshot(thread_id), await stage.document(thread_id)
    await kill(stage, tmp_path, thread_id, point)
    assert await stage.snapshot(thread_id) == before
    assert await stage.finish(thread_id) == document
    assert await stage.snapshot(thread_id) == before
    assert (await stage.slot(thread_id), await stage.told(thread_id), objects(tmp_path)) == (None, [], [])
    await stage.archiver.archive(document)
    assert await stage.snapshot(thread_id) == {}


@pytest.mark.parametrize("point", AFTER_MARK)
async def test_killed_after_the_mark_another_finishes_it(stage: Stage, tmp_path: Path, point: str) -> None:
    thread_id = await stage.thread()
    before = await stage.snapshot(thread_id)
    await kill(stage, tmp_path, thread_id, point)
    archived = await stage.finish(thread_id)
    assert archived["archive"]["state"] == "archived"
    assert await stage.snapshot(thread_id) == {}
    assert await stage.told(thread_id) == ["archived"]
    assert len(objects(tmp_path)) == 1
    await stage.restorer.restore(archived, "ann")
    assert await stage.snapshot(thread_id) == before


@pytest.mark.parametrize("point", RESTORING)
async def test_killed_while_it_comes_back_another_brings_it(stage: Stage, tmp_path: Path, point: str) -> None:
    thread_id = await stage.thread()
    before, document = await stage.snapshot(thread_id), await stage.document(thread_id)
    await stage.archiver.archive(document)
    await kill(stage, tmp_path, thread_id, point)
    back = await stage.finish(thread_id)
    assert {k: v for k, v in back.items() if k != "restored_at"} == document
    assert await stage.snapshot(thread_id) == before
    assert await stage.told(thread_id) == ["archived", "restored"]
    assert (await stage.slot(thread_id), objects(tmp_path)) == (None, [])


async def test_a_process_that_was_frozen_in_the_middle_of_delete_changes_nothing_when_it_wakes(
    stage: Stage, tmp_path: Path
) -> None:
    thread_id = await stage.thread()
    before = await stage.snapshot(thread_id)
    frozen = run_victim(stage, tmp_path, thread_id, "in the middle of delete", "SIGSTOP")
    try:
        await asyncio.to_thread(os.waitpid, frozen.pid, os.WUNTRACED)
        archived = await stage.finish(thread_id)
        await stage.restorer.restore(archived, "ann")
        os.kill(frozen.pid, signal.SIGCONT)
        _, err = await asyncio.to_thread(frozen.communicate, timeout=60)
    finally:
        frozen.kill()
        frozen.wait()
    assert WorkLostError.__name__ in err
    assert await stage.snapshot(thread_id) == before
    assert "archive" not in await stage.document(thread_id)


async def test_what_is_damaged_between_writing_and_reading_back_is_not_deleted(stage: Stage, tmp_path: Path) -> None:
    gate = stage.store = Gate(str(tmp_path / "archive"))

    async def damage() -> None:
        (path,) = objects(tmp_path)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    gate.after = damage
    thread_id = await stage.thread()
    before, document = await stage.snapshot(thread_id), await stage.document(thread_id)
    with pytest.raises(ArchiveDamagedError):
        await stage.archiver.archive(document)
    assert await stage.snapshot(thread_id) == before
    assert await stage.document(thread_id) == document


async def test_what_was_damaged_before_anything_was_deleted_is_given_up(stage: Stage, tmp_path: Path) -> None:
    thread_id = await stage.thread()
    before, document = await stage.snapshot(thread_id), await stage.document(thread_id)
    await kill(stage, tmp_path, thread_id, "between mark and event")
    (path,) = objects(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    assert await stage.finish(thread_id) == document
    assert await stage.snapshot(thread_id) == before
    assert (await stage.slot(thread_id), objects(tmp_path)) == (None, [])


async def test_a_damaged_object_is_not_restored_in_part(stage: Stage, tmp_path: Path) -> None:
    thread_id = await stage.thread()
    await stage.archiver.archive(await stage.document(thread_id))
    (path,) = objects(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ArchiveDamagedError, match="it was cut off"):
        await stage.restorer.restore(await stage.document(thread_id), "ann")
    assert await stage.snapshot(thread_id) == {}
    path.write_bytes(whole)
    assert "archive" not in await stage.finish(thread_id)


async def test_a_store_that_does_not_answer_costs_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RETRIES", {"max_retries": 1})
    options = {"endpoint": f"http://127.0.0.1:{free_port()}", "allow_http": "true", "access_key_id": "a"}
    stage.store = ArchiveStore("s3://archive/x", options | {"secret_access_key": "b", "region": "us-east-1"})
    thread_id = await stage.thread()
    before = await stage.snapshot(thread_id)
    with pytest.raises(ArchiveUnavailableError, match="PERDURE_ARCHIVE_URL"):
        await stage.archiver.archive(await stage.document(thread_id))
    assert await stage.snapshot(thread_id) == before
    assert await stage.slot(thread_id) is None, "its runs can be claimed"
