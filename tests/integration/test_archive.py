"""Archiving on a real database: what the policy says goes, whole, and comes back identical."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.archive_stage import LONG_AGO, Stage, objects, opened, s3_server
from tests.support.certificates import Authority

from perdure.archive.candidates import LOOK, Candidates
from perdure.archive.errors import ArchiveUnavailableError
from perdure.archive.policy import RetentionPolicy, RetentionRule
from perdure.archive.store import ArchiveStore
from perdure.chassis.clock import now


@pytest.fixture
async def stage(mongodb_uri: str, kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with opened(mongodb_uri, kafka_bootstrap, ArchiveStore(str(tmp_path / "archive"))) as made:
        yield made


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


@pytest.mark.timeout(960)  # the first time on a machine the S3 server is compiled
@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
async def test_the_same_with_s3(mongodb_uri: str, kafka_bootstrap: str, tmp_path: Path, *, encrypted: bool) -> None:
    authority = Authority(tmp_path / "certificates") if encrypted else None
    with s3_server(authority) as (url, options):
        store = ArchiveStore(url, options, authority.ca_file if authority else None)
        async with opened(mongodb_uri, kafka_bootstrap, store) as stage:
            await require_goes_and_comes_back(stage)


async def test_an_s3_server_of_an_unknown_authority_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.archive.store.RETRIES", {"max_retries": 1, "retry_timeout": timedelta(seconds=1)})
    another = Authority(tmp_path / "another").ca_file

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a state"

    with s3_server(Authority(tmp_path / "certificates")) as (url, options):
        for ca_file in (None, another):
            with pytest.raises(ArchiveUnavailableError, match=r"certificate is not trusted.*PERDURE_ARCHIVE_CA_FILE"):
                await ArchiveStore(url, options, ca_file).put("of/a/thread", pieces())


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
    segments = [{"_id": f"{thread_id}\x1fs\x1f{n:05d}", "d": os.urandom(40_000)} for n in range(1_200)]
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
    assert size == 48_000_000
    assert peak < 40_000_000
    assert await stage.db.notebook.count_documents({"_id": {"$regex": f"^{thread_id}\x1fs"}}) >= 1_200
