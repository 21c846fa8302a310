"""Archiving on a real database: whole, verified, identical when it comes back, whoever dies, and never what lives."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tracemalloc
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.agent_step.claims import Claims
from perdure.archive.archiving import LivesError
from perdure.archive.candidates import LOOK, Candidates
from perdure.archive.errors import ArchiveDamagedError, ArchiveUnavailableError, WorkLostError
from perdure.archive.policy import RetentionPolicy, RetentionRule
from perdure.archive.store import ArchiveStore
from perdure.chassis import mongo
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.outage import Availability
from perdure.local.resources import free_port
from perdure.registry.runs import new_id, now
from perdure.schemas import topics

sys.path.insert(0, str(Path(__file__).parent))
from archive_stage import LONG_AGO, Stage, s3_server
from archive_victim import POINTS

BEFORE_MARK = ("before writing", "between write and verify", "between verify and mark")
AFTER_MARK = ("between mark and event", "between mark and delete", "in the middle of delete", "at the end of delete")
RESTORING = ("before copying back", "in the middle of copying back", "when it is back", "while cleaning up")


@asynccontextmanager
async def opened(uri: str, kafka_bootstrap: str, store: ArchiveStore) -> AsyncIterator[Stage]:
    client = mongo.connect(uri)
    name = f"archive_{uuid.uuid4().hex[:8]}"
    await mongo.ensure_indexes(client[name])
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    producer = Producer(kafka_bootstrap, "test")
    stage = Stage(client[name], producer, store, uri=uri, kafka=kafka_bootstrap)
    await stage.saver.ensure_indexes()
    yield stage
    await stage.saver.aclose()
    await producer.close()
    await client.drop_database(name)
    client.close()


@pytest.fixture
async def stage(mongodb_uri: str, kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with opened(mongodb_uri, kafka_bootstrap, ArchiveStore(str(tmp_path / "archive"))) as made:
        yield made


def objects(folder: Path) -> list[Path]:
    return [path for path in (folder / "archive").rglob("*") if path.is_file()]


async def require_goes_and_comes_back(stage: Stage) -> None:
    other = await stage.thread()
    others = await stage.snapshot(other)
    thread_id = await stage.thread()
    before, document = await stage.snapshot(thread_id), await stage.document(thread_id)
    assert set(before) == {
        "runs", "payloads", "waits", "signals", "effects", "deliveries", "subscriptions", "notebook",
    }  # fmt: skip

    await stage.archiver.archive(document)
    archived = await stage.document(thread_id)
    assert await stage.snapshot(thread_id) == {}
    assert await stage.db.payloads.count_documents({}) == len(others["payloads"])
    assert await stage.told(thread_id) == ["archived"]
    assert archived["archive"]["documents"] == {source: len(found) for source, found in before.items()}
    assert archived["archive"]["state"] == "archived"
    assert "expires_at" not in archived["archive"]
    assert {k: v for k, v in archived.items() if k != "archive"} | {
        "ended_run_id": document["ended_run_id"]
    } == document

    assert await stage.restorer.restore(archived, "ann")
    assert await stage.snapshot(thread_id) == before
    back = await stage.document(thread_id)
    assert {k: v for k, v in back.items() if k != "restored_at"} == document
    assert back["restored_at"] > archived["archive"]["at"]
    assert await stage.told(thread_id) == ["archived", "restored"]
    assert await stage.slot(thread_id) is None
    assert await stage.snapshot(other) == others
    values = await stage.go_on(thread_id)
    assert (values["count"], len(values["log"])) == (20, 20)


async def test_a_thread_goes_and_comes_back_identical_and_goes_on(stage: Stage, tmp_path: Path) -> None:
    await require_goes_and_comes_back(stage)
    assert objects(tmp_path) == [], "the object of a thread that is back is not needed"


async def test_the_same_with_s3(mongodb_uri: str, kafka_bootstrap: str) -> None:
    with s3_server() as (url, options):
        async with opened(mongodb_uri, kafka_bootstrap, ArchiveStore(url, options)) as stage:
            await require_goes_and_comes_back(stage)


def run_victim(
    stage: Stage, folder: Path, thread_id: str, point: str, number: str = "SIGKILL"
) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("archive_victim.py")
    arguments = [stage.uri, stage.db.name, stage.kafka, str(folder / "archive"), thread_id, point, number]
    return subprocess.Popen(
        [sys.executable, str(script), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


async def kill(stage: Stage, folder: Path, thread_id: str, point: str) -> None:
    """Let a process work on the thread until it is killed right before that point."""
    process = run_victim(stage, folder, thread_id, point)
    out, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == -signal.SIGKILL, f"{out}\n{err}"


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


def place(thread_id: str) -> dict[str, Any]:
    return {"_id": new_id(), "thread_id": thread_id, "tenant": "default"}


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


class Gate(ArchiveStore):
    """A store that lets something happen right before an object is stored, or right after."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.before: Any = None
        self.after: Any = None

    async def put(self, key: str, pieces: AsyncIterator[bytes]) -> None:
        if self.before:
            await self.before()
        await super().put(key, pieces)
        if self.after:
            await self.after()


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_run_that_comes_while_its_thread_is_packed_wins(stage: Stage, tmp_path: Path, moment: str) -> None:
    gate = stage.store = Gate(str(tmp_path / "archive"))
    thread_id = await stage.thread()
    document = await stage.document(thread_id)
    claims = Claims(stage.db, GroupCommit(stage.db.runs, availability=Availability()), Availability(), lambda: "worker")

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
    claims = Claims(stage.db, GroupCommit(stage.db.runs, availability=Availability()), Availability(), lambda: "worker")
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


async def test_a_store_that_does_not_answer_costs_nothing(stage: Stage) -> None:
    options = {"endpoint": f"http://127.0.0.1:{free_port()}", "allow_http": "true", "access_key_id": "a"}
    stage.store = ArchiveStore("s3://archive/x", options | {"secret_access_key": "b", "region": "us-east-1"})
    thread_id = await stage.thread()
    before = await stage.snapshot(thread_id)
    with pytest.raises(ArchiveUnavailableError, match="PERDURE_ARCHIVE_URL"):
        await stage.archiver.archive(await stage.document(thread_id))
    assert await stage.snapshot(thread_id) == before
    assert await stage.slot(thread_id) is None, "its runs can be claimed"


async def test_an_idempotency_key_that_was_used_again_stays_with_the_newer_run(stage: Stage) -> None:
    thread_id = await stage.thread()
    (run,) = await stage.db.runs.find({"thread_id": thread_id}).to_list(None)
    await stage.archiver.archive(await stage.document(thread_id))
    newer = await stage.run("thread-1", idempotency_key=run["idempotency_key"], settled=True, status="success")
    await stage.restorer.restore(await stage.document(thread_id), "ann")
    found = {one["_id"]: one.get("idempotency_key") async for one in stage.db.runs.find()}
    assert found == {run["_id"]: None, newer["_id"]: run["idempotency_key"]}


async def test_the_scheduler_archives_what_the_policy_says(stage: Stage) -> None:
    policy = RetentionPolicy(
        keep_days=90.0,
        rules=(
            RetentionRule(metadata={"of": "ever"}, keep_days="forever"),
            RetentionRule(assistant="g", tenant="default", metadata={"of": "test"}, keep_days=30.0),
        ),
    )
    due = await stage.thread()
    young = await stage.thread(updated_at=now() - timedelta(days=29))
    back = await stage.thread(restored_at=now())
    others = [await stage.thread(metadata={"of": what}) for what in ("ever", "none")]
    await stage.scheduler(policy).turn()
    assert (await stage.document(due))["archive"]["state"] == "archived"
    for kept in (young, back, *others):
        assert "archive" not in await stage.document(kept)


async def test_the_walk_sees_every_thread_also_those_that_ended_at_one_instant(stage: Stage) -> None:
    threads = [
        {
            "_id": f"t{n:04d}",
            "tenant": "default",
            "status": "idle",
            "ended_run_id": "r",
            "updated_at": LONG_AGO,
            "seq": 1,
        }
        for n in range(2 * LOOK + 50)
    ]
    threads += [
        {**threads[0], "_id": f"later{n}", "updated_at": LONG_AGO + timedelta(hours=n + 1)} for n in range(LOOK)
    ]
    await stage.db.threads.insert_many(threads)
    walk, seen = Candidates(stage.db, RetentionPolicy()), []
    for _ in range(10):
        found, more = await walk.portion(now())
        assert len(found) <= LOOK
        seen += [one.thread["_id"] for one in found]
        if not more:
            break
    assert sorted(seen) == sorted(thread["_id"] for thread in threads)
    again, _ = await walk.portion(now())
    assert again[0].thread["_id"] in {thread["_id"] for thread in threads}, "it begins anew"


async def test_memory_holds_a_portion_of_a_large_thread(stage: Stage) -> None:
    thread_id = await stage.thread()
    segments = [{"_id": f"{thread_id}\x1fs\x1f{n:05d}", "d": os.urandom(40_000)} for n in range(1_500)]
    for start in range(0, len(segments), 100):
        await stage.db.notebook.insert_many(segments[start : start + 100])
    size = sum(len(one["d"]) for one in segments)
    del segments
    tracemalloc.start()
    try:
        await stage.archiver.archive(await stage.document(thread_id))
        await stage.restorer.restore(await stage.document(thread_id), "ann")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 60_000_000
    assert peak < 40_000_000
    assert await stage.db.notebook.count_documents({"_id": {"$regex": f"^{thread_id}\x1fs"}}) >= 1_500
