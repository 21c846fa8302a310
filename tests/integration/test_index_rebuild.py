"""The index from the store again, and proof that it is as the store says, while everything goes on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.indexer_stage import Bench, indexer_bench, indexer_servers, saved  # noqa: F401

from perdure.chassis import mongo
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.indexer.rebuild import rebuild
from perdure.indexer.repair import repair
from perdure.indexer.rules import load
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.source import Source
from perdure.indexer.status import status
from perdure.indexer.verify import verify
from perdure.indexer.writer import Writer
from perdure.schemas.events import (
    NOTES_PER_SEQ,
    Event,
)
from perdure.schemas.index import STATES, STATES_WRITE, THREADS
from perdure.schemas.outbox import event_of

pytestmark = pytest.mark.timeout(240)


async def test_rebuild_equals_and_misses_nothing(bench: Bench) -> None:
    uri = bench.env["PERDURE_MONGODB_URI"]
    client = mongo.connect(uri)
    db = mongo.database(client, uri)
    await mongo.ensure_indexes(db)

    async def store(n: int) -> list[Event]:
        """What agent-step does: the documents first, then the events."""
        run, entries = stored_run(n)
        await db.notebook.insert_many(entries)
        await db.runs.insert_one(run)
        events = [event for entry in entries if (event := event_of(run, entry)) is not None]
        await bench.publish(*events)
        return events

    for n in range(30):
        await store(n)
    before = await bench.until(30 * 4, tenant="rebuild")
    await bench.until_lag_is(0)
    threads = await bench.found(THREADS, tenant="rebuild")
    await bench.publish(saved("orphan", 1, "rebuild-orphan"))  # in no store: a rebuild does not keep it
    await bench.until(1, tenant="rebuild-orphan")
    old = set(await bench.opensearch.request("GET", f"/_alias/{STATES},{STATES_WRITE},{THREADS}"))

    ended = asyncio.Event()

    async def meanwhile() -> int:
        n = 30
        while not ended.is_set():
            await store(n)
            n += 1
            await asyncio.sleep(0.02)
        return n

    async def looking() -> int:
        """Search all the time: what was there is always there, once."""
        looks = 0
        body = {"query": {"terms": {"thread_id": [one["thread_id"] for one in threads]}}, "track_total_hits": True}
        while not ended.is_set():
            for alias, count in ((STATES, len(before)), (THREADS, len(threads))):
                answer = await bench.opensearch.request("POST", f"/{alias}/_search", body)
                assert answer["hits"]["total"]["value"] == count, f"{alias} after {looks} looks"
            looks += 1
        return looks

    busy, looks = asyncio.ensure_future(meanwhile()), asyncio.ensure_future(looking())
    settings = IndexerSettings(**{k.removeprefix("PERDURE_").lower(): v for k, v in bench.env.items()})  # type: ignore[arg-type]
    phases: list[str] = []
    report = await rebuild(settings, lambda state: phases.append(state.phase))
    ended.set()
    total = await busy
    assert await looks > 20
    assert total > 35
    after = await bench.until(total * 4, tenant="rebuild")
    assert len(after) == total * 4
    assert [d for d in after if int(d["thread_id"].split("-")[1]) < 30] == before
    await bench.until_lag_is(0)
    newest = await bench.found(THREADS, tenant="rebuild")
    assert [d for d in newest if int(d["thread_id"].split("-")[1]) < 30] == threads
    assert len(newest) == total
    assert await bench.found(STATES, tenant="rebuild-orphan") == []
    indices = set(await bench.opensearch.request("GET", "/perdure-*/_alias"))
    assert indices == {report.states_index, report.threads_index}
    assert set(report.removed) == old
    shown = await bench.opensearch.request("GET", "/perdure-*/_settings", params={"flat_settings": "true"})
    refreshed = {name: one["settings"]["index.refresh_interval"] for name, one in shown.items()}
    assert refreshed == {report.states_index: "500ms", report.threads_index: "1s"}
    assert list(dict.fromkeys(phases)) == ["first pass", "switching", "second pass", "removing", "done"]
    client.close()


def stored_run(n: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    thread, run_id, at = f"rebuild-{n:04d}", f"{n % 256:02x}-run-{n}", datetime.now(UTC).replace(microsecond=0)
    run = {
        "_id": run_id,
        "tenant": "rebuild",
        "thread_id": thread,
        "graph_id": "g",
        "assistant_id": "a",
        "graph_version": "v1",
        "metadata": {"n": n},
        "status": "success",
        "updated_at": at,
    }
    shared = {"thread": thread, "run": run_id, "epoch": 1, "at": at}
    entries: list[dict[str, Any]] = [
        {**shared, "_id": f"{thread}\x1fe\x1f1", "kind": "e", "seq": 1, "event": "started", "ev": {"worker_id": "w"}},
        {**shared, "_id": f"{thread}\x1ff\x1f5", "kind": "f", "seq": 5},
        {**shared, "_id": f"{thread}\x1fe\x1f4", "kind": "e", "seq": 4, "event": "success", "ev": {"steps": 2}},
    ]
    entries += [
        {
            **shared,
            "_id": f"{thread}\x1fc\x1f\x1f{seq}",
            "kind": "c",
            "seq": seq,
            "ns": "",
            "checkpoint_id": str(seq),
            "step": seq,
            "ev": {"source": "loop", "nodes": ["work"], "next": ["work"], "text": f"$.a\tvalue {seq}"},
        }
        for seq in (2, 3)
    ]
    return run, entries


async def test_verify_finds_each_difference_and_repair_mends_exactly_these(bench: Bench) -> None:
    uri = bench.env["PERDURE_MONGODB_URI"].rsplit("/", 1)[0] + "/verify"
    settings = IndexerSettings(**{k.removeprefix("PERDURE_").lower(): v for k, v in bench.env.items()})  # type: ignore[arg-type]
    mongo_client = mongo.connect(uri)
    db = mongo.database(mongo_client, uri)
    source = Source(db, load(settings.redaction_file, settings.redaction_key), settings)
    await bench.opensearch.request("DELETE", "/perdure-*")
    writer = Writer(bench.opensearch, settings)
    await writer.open()
    for n in range(20):
        run, entries = stored_run(n)
        await db.notebook.insert_many(entries)
        await db.runs.insert_one(run)
    soon = timedelta(seconds=-5)

    async def differences(*, full: bool = False) -> list[tuple[str, str, str]]:
        report = await verify(bench.opensearch, source, soon, full=full)
        assert report.states == 20 * 4
        return sorted((one.kind, one.of, one.id) for one in report.differences)

    everything = await verify(bench.opensearch, source, soon)
    assert len(everything.differences) == 20 * 5, "nothing is indexed yet"
    await repair(bench.opensearch, writer, everything)
    assert await differences() == []
    assert await differences(full=True) == []
    clean = await bench.found(STATES)
    threads = await bench.found(THREADS)

    await bench.roll_over()  # what is to be mended is in an index that takes no writes any more
    await writer.open()
    index = next(iter(await bench.opensearch.request("GET", f"/_alias/{THREADS}")))
    old = (await bench.opensearch.request("POST", f"/{STATES}/_search", {"size": 1}))["hits"]["hits"][0]["_index"]
    await bench.opensearch.request("PUT", f"/{old}/_settings", {"index.blocks.write": None})
    await bench.opensearch.request("DELETE", f"/{old}/_doc/rebuild-0003:2")
    altered = clean[4] | {"graph": "altered", "digest": 7}
    await bench.opensearch.request("PUT", f"/{old}/_doc/rebuild-0001:1", altered)
    surplus = clean[8] | {"thread_id": "ghost", "run_id": "no-run", "seq": 9}
    await bench.opensearch.request("PUT", f"/{old}/_doc/ghost:9", surplus)
    await bench.opensearch.request("PUT", f"/{index}/_doc/ghost", surplus)
    await bench.opensearch.request("DELETE", f"/{index}/_doc/rebuild-0005")
    same = {"version": 4 * NOTES_PER_SEQ, "version_type": "external_gte"}
    changed = threads[6] | {"status": "stuck", "digest": 7}
    await bench.opensearch.request("PUT", f"/{index}/_doc/rebuild-0006", changed, same)
    await bench.opensearch.request("PUT", f"/{old}/_doc/rebuild-0002:2", clean[9] | {"graph": "secretly"})
    await bench.opensearch.request("PUT", f"/{index}/_doc/rebuild-0007", threads[7] | {"status": "stuck"}, same)
    await bench.opensearch.request("PUT", f"/{old}/_settings", {"index.blocks.write": True})
    planted = [
        ("missing", "states", "rebuild-0003:2"),
        ("missing", "threads", "rebuild-0005"),
        ("surplus", "states", "ghost:9"),
        ("surplus", "threads", "ghost"),
        ("wrong", "states", "rebuild-0001:1"),
        ("wrong", "threads", "rebuild-0006"),
    ]
    assert await differences() == planted
    report = await verify(bench.opensearch, source, soon)
    assert report.runs == 3, "only runs that differ are read"
    await repair(bench.opensearch, writer, report)
    assert await differences() == []
    secretly = [("wrong", "states", "rebuild-0002:2"), ("wrong", "threads", "rebuild-0007")]
    assert await differences(full=True) == secretly, "altered without their digests"
    await repair(bench.opensearch, writer, await verify(bench.opensearch, source, soon, full=True))
    assert await differences(full=True) == []
    assert await bench.found(STATES) == clean
    assert await bench.found(THREADS) == threads
    blocked = await bench.opensearch.request("GET", f"/{old}/_settings", params={"flat_settings": "true"})
    assert blocked[old]["settings"]["index.blocks.write"] == "true"
    assert (await status(bench.opensearch, TopicAdmin(settings.kafka_bootstrap_servers)))["states"] == 80
    await mongo_client.drop_database("verify")
    mongo_client.close()
