"""Archived threads and the search index, on servers of their own: a rebuild finds them, a purge removes them, and its shards."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tests.integration.archive_stage import Stage

from perdure.archive.store import ArchiveStore
from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.opensearch import OpenSearch
from perdure.indexer.bulk import newest_item, state_item
from perdure.indexer.domain import document_of, event_id, newest
from perdure.indexer.forgetting import forget, newest_of
from perdure.indexer.indices import read_layout
from perdure.indexer.rebuild import rebuild
from perdure.indexer.redaction import Redaction
from perdure.indexer.repair import repair
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.source import Source
from perdure.indexer.verify import Report, verify
from perdure.indexer.writer import Writer
from perdure.local.errors import LocalError
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack
from perdure.schemas import topics
from perdure.schemas.events import CheckpointSaved, Event
from perdure.schemas.index import STATES, THREADS, IndexDocument

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    local = {"kafka_bootstrap_servers": None, "mongodb_uri": None, "opensearch_url": None}
    stack = Stack(LocalSettings().model_copy(update=local), ephemeral=True)
    try:
        try:
            stack.start()
        except LocalError as error:
            pytest.skip(f"the local stack could not be started: {error}")
        yield stack
    finally:
        stack.stop()


class Search:
    """The index, written and read as the services do."""

    def __init__(self, client: OpenSearch, settings: IndexerSettings) -> None:
        self.client = client
        self.settings = settings

    async def write(self, *events: Event) -> None:
        found = [document_of(event, Redaction(), 1_000) for event in events]
        items = [*map(state_item, found), *map(newest_item, newest(found).values())]
        writer = Writer(self.client, self.settings)
        await writer.open()
        assert await writer.write(items) == []

    async def documents(self, alias: str, thread_id: str) -> list[IndexDocument]:
        await self.client.request("POST", f"/{alias}/_refresh")
        body = {"query": {"term": {"thread_id": thread_id}}, "size": 1_000, "sort": [{"seq": "asc"}]}
        answer = await self.client.request("POST", f"/{alias}/_search", body)
        return [hit["_source"] for hit in answer["hits"]["hits"]]

    async def settings_of(self, index: str) -> dict[str, Any]:
        answer = await self.client.request("GET", f"/{index}/_settings")
        return dict(answer[index]["settings"]["index"])


@pytest.fixture
async def search(servers: Stack) -> AsyncIterator[Search]:
    url = servers.environment()["PERDURE_OPENSEARCH_URL"]
    client = OpenSearch(url)
    found = await client.request("GET", f"/{STATES}-*,{THREADS}-*/_alias")
    if found:
        await client.request("DELETE", "/" + ",".join(found))
    yield Search(client, IndexerSettings(opensearch_url=url, index_rollover_check_s=0.1))
    await client.close()


@pytest.fixture
async def stage(servers: Stack, tmp_path: Path) -> AsyncIterator[Stage]:
    environment = servers.environment()
    client = mongo.connect(environment["PERDURE_MONGODB_URI"])
    db = client[f"archived_{uuid.uuid4().hex[:8]}"]
    await mongo.ensure_indexes(db)
    await TopicAdmin(environment["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]).apply(topics.ALL)
    producer = Producer(environment["PERDURE_KAFKA_BOOTSTRAP_SERVERS"], "test")
    made = Stage(db, producer, ArchiveStore(str(tmp_path / "archive")))
    yield made
    await made.saver.aclose()
    await producer.close()
    client.close()


def saved(thread_id: str, seq: int) -> CheckpointSaved:
    return CheckpointSaved(
        tenant="default",
        thread_id=thread_id,
        run_id="r",
        graph_id="g",
        assistant_id="a",
        seq=seq,
        epoch=1,
        occurred_at=now(),
        checkpoint_id=f"c{seq}",
        step=seq,
        source="loop",
        text="words",
    )


async def test_a_rebuild_reads_archived_threads_from_their_objects(
    stage: Stage, search: Search, servers: Stack, tmp_path: Path
) -> None:
    here, away, back = [await stage.thread() for _ in range(3)]
    for thread_id in (away, back):
        await stage.archiver.archive(await stage.document(thread_id))
    await stage.restorer.restore(await stage.document(back), "ann")
    uri = servers.environment()["PERDURE_MONGODB_URI"].rpartition("/")[0] + f"/{stage.db.name}"
    settings = search.settings.model_copy(
        update={"mongodb_uri": SecretStr(uri), "archive_url": str(tmp_path / "archive")}
    )

    with pytest.raises(ConfigurationError, match=f"thread {away} is archived and PERDURE_ARCHIVE_URL is not set"):
        await rebuild(settings.model_copy(update={"archive_url": None}))

    report = await rebuild(settings)
    assert (report.phase, report.refused) == ("done", 0)
    events = {one: [found["event"] for found in await search.documents(STATES, one)] for one in (here, away, back)}
    ended, archived, restored = "perdure.run.succeeded", "perdure.thread.archived", "perdure.thread.restored"
    assert events[here] == [ended]
    assert sorted(events[away]) == sorted([ended, archived])
    assert sorted(events[back]) == sorted([ended, archived, restored])
    (newest_of_away,) = await search.documents(THREADS, away)
    assert newest_of_away["archived"]["object"] == (await stage.document(away))["archive"]["object"]
    assert newest_of_away["status"] == "success"
    assert await newest_of(search.client, "default", away) == {"archived": newest_of_away["archived"]}
    assert await newest_of(search.client, "default", here) == {}
    assert await newest_of(search.client, "another tenant", away) is None
    (newest_of_back,) = await search.documents(THREADS, back)
    assert ("archived" in newest_of_back, newest_of_back["status"]) == (False, "success")


async def test_verify_and_repair_know_archived_threads(
    stage: Stage, search: Search, servers: Stack, tmp_path: Path
) -> None:
    here, *away = [await stage.thread() for _ in range(5)]
    for thread_id in away:
        await stage.archiver.archive(await stage.document(thread_id))
    uri = servers.environment()["PERDURE_MONGODB_URI"].rpartition("/")[0] + f"/{stage.db.name}"
    settings = search.settings.model_copy(
        update={"mongodb_uri": SecretStr(uri), "archive_url": str(tmp_path / "archive")}
    )
    await rebuild(settings)
    source = Source(stage.db, Redaction(), settings)
    soon = timedelta(seconds=-5)

    async def found(*, full: bool = False) -> Report:
        return await verify(search.client, source, soon, full=full)

    clean = await found()
    assert (clean.differences, clean.archived, clean.objects, clean.states) == ([], 4, 0, 9), "no object was read"
    assert (await found(full=True)).differences == []
    assert (await found(full=True)).objects == 4

    states = {one: await search.documents(STATES, one) for one in away}
    layout = await read_layout(search.client)
    await search.client.request("DELETE", f"/{layout.states}/_doc/{event_id(states[away[0]][0])}")
    await search.client.request("DELETE", f"/{layout.threads}/_doc/{away[1]}")
    altered = {**states[away[2]][0], "graph": "another"}
    await search.client.request("PUT", f"/{layout.states}/_doc/{event_id(states[away[2]][0])}", altered)
    planted = [("missing", "states", event_id(states[away[0]][0])), ("missing", "threads", away[1])]
    report = await found()
    assert report.objects == 2, "only objects of threads that differ are read"
    assert sorted((one.kind, one.of, one.id) for one in report.differences) == sorted(planted)
    writer = Writer(search.client, settings)
    await writer.open()
    await search.client.request("PUT", f"/{layout.threads}/_settings", {"index.gc_deletes": "0s"})
    await repair(search.client, writer, report)
    assert (await found()).differences == []
    (secret,) = (await found(full=True)).differences
    assert (secret.kind, secret.id) == ("wrong", event_id(altered))
    await repair(search.client, writer, await found(full=True))
    assert (await found(full=True)).differences == []
    for one in away:
        assert sorted(await search.documents(STATES, one), key=event_id) == sorted(states[one], key=event_id)
    assert await search.documents(STATES, here)


async def test_a_thread_is_forgotten_also_by_older_indices(search: Search) -> None:
    doomed, kept = f"doomed-{uuid.uuid4().hex}", f"kept-{uuid.uuid4().hex}"
    full = Search(search.client, search.settings.model_copy(update={"index_rollover_docs": 1}))
    for seq in range(1, 4):
        await full.write(saved(doomed, seq), saved(kept, seq))
        await search.client.request("POST", f"/{STATES}/_refresh")
        await roll_over(full)
    layout = await read_layout(search.client)
    assert len(layout.older) == 3
    assert await forget(search.client, "another tenant", doomed) == 0
    assert await forget(search.client, "default", doomed) == 4
    assert await forget(search.client, "default", doomed) == 0
    for alias, count in ((STATES, 3), (THREADS, 1)):
        assert await search.documents(alias, doomed) == []
        assert len(await search.documents(alias, kept)) == count
    for older in layout.older:
        assert (await search.settings_of(older.name))["blocks"]["write"] == "true", (
            "an older index takes no writes again"
        )


async def roll_over(search: Search) -> None:
    """Let a writer look at the present index: it begins a new one if this one is full."""
    writer = Writer(search.client, search.settings)
    await writer.open()
    writer._looked_at = 0.0
    await writer.write([])


async def test_an_index_that_is_not_full_goes_on_and_a_new_one_has_the_shards_that_are_set(search: Search) -> None:
    settings = search.settings.model_copy(update={"index_shards": 3, "index_rollover_docs": 5})
    sized = Search(search.client, settings)
    thread_id = f"t-{uuid.uuid4().hex}"
    await sized.write(*(saved(thread_id, seq) for seq in range(1, 5)))
    await search.client.request("POST", f"/{STATES}/_refresh")
    first = (await read_layout(search.client)).states
    for _ in range(3):
        await roll_over(sized)
    assert (await read_layout(search.client)).states == first, "time alone makes no further shards"
    await sized.write(saved(thread_id, 5))
    await search.client.request("POST", f"/{STATES}/_refresh")
    await roll_over(sized)
    second = (await read_layout(search.client)).states
    assert second != first
    assert (await search.settings_of(second))["number_of_shards"] == "3"
    threads = (await read_layout(search.client)).threads
    assert (await search.settings_of(threads))["number_of_shards"] == "1"
    assert len(await search.documents(STATES, thread_id)) == 5
