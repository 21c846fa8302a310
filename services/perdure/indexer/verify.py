"""Index = store: what is missing, surplus or wrong in the index (ADR 16).

Contract: :func:`verify` compares what is older than :data:`SETTLED`, so that events on their way are no differences. It goes
through the runs in pages. For the span of ids of each it asks the index for the count and the sum of digests; only where they
differ from the store's it asks run by run, and only of runs that differ it reads documents. Threads are compared by their
digests. Of archived threads, whose objects would be dear to read every day, only how many states there are is compared, and
objects are read where it differs. ``full`` trusts no digest and no count, and reads every document and every object: one that was
altered by hand, and its digest not, is found only then.

Outside: where the documents come from (``perdure.indexer.source``), and mending (``perdure.indexer.repair``).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from perdure.chassis.clock import now
from perdure.chassis.mongo import connect, database
from perdure.chassis.opensearch import OpenSearch
from perdure.chassis.service import run_service
from perdure.indexer import indices
from perdure.indexer.archived import ArchivedThread
from perdure.indexer.bulk import digest_of, source_of
from perdure.indexer.domain import event_id, newest, version
from perdure.indexer.rules import load
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.source import RUNS_AT_ONCE, Page, Source
from perdure.schemas.index import STATES, THREADS, IndexDocument

SETTLED: Final = timedelta(minutes=1)
PAGE: Final = 5_000

SORT_THREADS: Final = ({"thread_id": "asc"}, {"seq": "asc"})

Totals = tuple[int, int]
"""How many documents, and the sum of their digests."""


@dataclass(frozen=True, slots=True)
class _Newest:
    """What is kept of each thread of the store while all are read."""

    version: int
    digest: int
    run: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One document that is not as the store says.

    Attributes:
        kind: ``missing``, ``surplus`` or ``wrong``.
        of: ``states`` or ``threads``.
        id: The document's id: ``<thread>:<seq>``, or the thread.
        index: Where it is, unless it is missing.
        document: What should be there, unless it is surplus.
        revision: Which write of it was seen (sequence number and primary term of OpenSearch), unless it is missing.

    """

    kind: str
    of: str
    id: str
    index: str | None = None
    document: IndexDocument | None = None
    revision: tuple[int, int] | None = None


@dataclass(slots=True)
class Report:
    """What was compared and found.

    Attributes:
        states: States in the store that were compared.
        threads: Threads likewise.
        archived: Archived threads likewise.
        ranges: Spans of run ids whose totals differed.
        runs: Runs whose documents were read.
        objects: Archive objects that were read.
        differences: What is not as the store says.

    """

    states: int = 0
    threads: int = 0
    archived: int = 0
    ranges: int = 0
    runs: int = 0
    objects: int = 0
    differences: list[Difference] = field(default_factory=list)


async def verify(client: OpenSearch, source: Source, settled: timedelta = SETTLED, *, full: bool = False) -> Report:
    """Compare the index with the store.

    Args:
        client: OpenSearch.
        source: The store.
        settled: What is younger is left out.
        full: Read every document instead of trusting the digests in the index.

    Raises:
        UnavailableError: OpenSearch does not answer; start again.

    """
    return await _Comparison(client, source, now() - settled, full=full).run()


class _Comparison:
    def __init__(self, client: OpenSearch, source: Source, before: datetime, *, full: bool) -> None:
        self._client = client
        self._source = source
        self._before = before
        self._full = full
        self._report = Report()
        self._newest: dict[str, _Newest] = {}
        self._away: set[str] = set()

    async def run(self) -> Report:
        await self._client.request("POST", f"/{STATES},{THREADS}/_refresh")
        async for page in self._source.pages():
            await self._page(page)
        async for threads in self._source.archived.pages():
            await self._archived(threads)
        await self._threads()
        return self._report

    async def _page(self, page: Page) -> None:
        stored: dict[str, Totals] = {}
        async for found in self._stored(page.runs):
            for document in found:
                count, total = stored.get(document["run_id"], (0, 0))
                stored[document["run_id"]] = count + 1, total + digest_of(document)
            self._remember(found)
        here = sum(count for count, _ in stored.values()), sum(total for _, total in stored.values())
        self._report.states += here[0]
        span = {"range": {"run_id": {"gt": page.after} | ({} if page.upto is None else {"lte": page.upto})}}
        if not self._full and await self._totals(span) == here:
            return
        self._report.ranges += 1
        indexed: dict[str, Totals] = {}
        strange: dict[str, str] = {}
        async for run, thread, totals in self._totals_by_run(span):
            indexed[run] = totals
            if run not in stored:
                strange[run] = thread
        away = await self._source.archived.away(set(strange.values()))
        gone = {run for run, thread in strange.items() if thread in away}
        runs = sorted((stored.keys() | indexed.keys()) - gone)
        differing = [run for run in runs if self._full or stored.get(run) != indexed.get(run)]
        self._report.runs += len(differing)
        there = {run["_id"]: run for run in page.runs}
        for start in range(0, len(differing), RUNS_AT_ONCE):
            portion = differing[start : start + RUNS_AT_ONCE]
            expected: dict[str, IndexDocument] = {}
            async for found in self._stored([there[run] for run in portion if run in there]):
                expected |= {event_id(document): document for document in found}
            await self._states({"terms": {"run_id": portion}}, expected)

    async def _states(self, query: dict[str, Any], expected: Mapping[str, IndexDocument]) -> None:
        """Compare the states that match with those that there should be."""
        sort: list[dict[str, Any]] = [
            {"run_id": "asc"},
            {"seq": "asc"},
            {"note": {"order": "asc", "missing": 0}},
            {"_index": "asc"},
        ]
        seen: set[str] = set()
        async for hit in self._scan(STATES, query, sort):
            document = None if hit["_id"] in seen else expected.get(hit["_id"])
            seen.add(hit["_id"])
            self._compare("states", hit, document)
        self._missing("states", {id_: document for id_, document in expected.items() if id_ not in seen})

    async def _archived(self, threads: Sequence[ArchivedThread]) -> None:
        self._away |= {one.id for one in threads}
        settled = [one for one in threads if one.at is not None and one.at < self._before]
        ids = [one.id for one in settled]
        if not ids:
            return
        counted = {"threads": {"terms": {"field": "thread_id", "size": len(ids)}}}
        body = {"query": self._settled({"terms": {"thread_id": ids}}), "size": 0, "aggs": counted}
        answer = await self._client.request("POST", f"/{STATES}/_search", body)
        states = {bucket["key"]: bucket["doc_count"] for bucket in answer["aggregations"]["threads"]["buckets"]}
        there = await indices.present(self._client, {THREADS: ids})
        told = await self._source.archived.told(ids, self._before)
        self._report.archived += len(settled)
        for one in settled:
            if (
                self._full
                or one.id not in there
                or one.states is None
                or states.get(one.id, 0) != one.states + told[one.id]
            ):
                await self._object(one)
            else:
                self._report.states += states[one.id]

    async def _object(self, thread: ArchivedThread) -> None:
        """Compare an archived thread with its object."""
        expected: dict[str, IndexDocument] = {}
        async for _, found in self._source.archived.of(thread):
            expected |= {event_id(document): document for document in self._settle(found)}
        self._report.objects += 1
        self._report.states += len(expected)
        await self._states({"term": {"thread_id": thread.id}}, expected)
        latest = newest(expected.values())
        absent = set(latest)
        async for hit in self._scan(THREADS, {"term": {"thread_id": thread.id}}, SORT_THREADS):
            absent.discard(hit["_id"])
            self._compare("threads", hit, latest.get(hit["_id"]))
        self._missing("threads", {one: latest[one] for one in absent})

    async def _threads(self) -> None:
        self._report.threads = len(self._newest)
        seen: set[str] = set()
        suspects: set[str] = set()
        read = {"_source": True if self._full else ["digest"]}
        async for hit in self._scan(THREADS, {"match_all": {}}, SORT_THREADS, read):
            thread = hit["_id"]
            seen.add(thread)
            if thread in self._away:
                continue
            if thread not in self._newest or self._newest[thread].digest != self._digest(hit["_source"]):
                suspects.add(thread)
        for start in range(0, len(ids := sorted(suspects)), RUNS_AT_ONCE):
            portion = ids[start : start + RUNS_AT_ONCE]
            expected = await self._newest_of(portion)
            async for hit in self._scan(THREADS, {"terms": {"_id": portion}}, SORT_THREADS):
                self._compare("threads", hit, expected.get(hit["_id"]))
        absent = sorted(self._newest.keys() - seen - self._away)
        for start in range(0, len(absent), PAGE):
            # Some are there and newer than what is compared.
            portion = absent[start : start + PAGE]
            body = {"query": {"terms": {"_id": portion}}, "size": PAGE, "_source": False}
            answer = await self._client.request("POST", f"/{THREADS}/_search", body)
            there = {hit["_id"] for hit in answer["hits"]["hits"]}
            self._missing("threads", await self._newest_of([one for one in portion if one not in there]))

    def _digest(self, source: dict[str, Any]) -> int | None:
        """The digest of a thread in the index; ``None`` if ``full`` shows that it is not that of its document."""
        said: int | None = source.pop("digest", None)
        return None if self._full and digest_of(source) != said else said

    async def _newest_of(self, threads: Collection[str]) -> dict[str, IndexDocument]:
        """The documents of threads, as far as the store has them."""
        found: dict[str, IndexDocument] = {}
        runs = [self._newest[thread].run for thread in threads if thread in self._newest]
        async for documents in self._stored(await self._source.runs(runs)):
            found |= newest(documents)
        return found

    def _compare(self, of: str, hit: dict[str, Any], document: IndexDocument | None) -> None:
        revision = hit["_seq_no"], hit["_primary_term"]
        if document is None:
            self._report.differences.append(Difference("surplus", of, hit["_id"], hit["_index"], None, revision))
        elif hit["_source"] != orjson.loads(source_of(document)):
            self._report.differences.append(Difference("wrong", of, hit["_id"], hit["_index"], document, revision))

    def _missing(self, of: str, documents: dict[str, IndexDocument]) -> None:
        self._report.differences += [Difference("missing", of, id_, None, one) for id_, one in documents.items()]

    async def _stored(self, runs: Sequence[dict[str, Any]]) -> AsyncIterator[list[IndexDocument]]:
        async for found in self._source.documents(runs):
            yield self._settle(found)

    def _settle(self, found: Sequence[IndexDocument]) -> list[IndexDocument]:
        return [document for document in found if document["occurred_at"] < self._before]

    def _remember(self, found: Sequence[IndexDocument]) -> None:
        for thread, latest in newest(found).items():
            if thread not in self._newest or self._newest[thread].version < version(latest):
                self._newest[thread] = _Newest(version(latest), digest_of(latest), latest["run_id"])

    def _settled(self, query: dict[str, Any]) -> dict[str, Any]:
        return {"bool": {"filter": [query, {"range": {"occurred_at": {"lt": self._before.isoformat()}}}]}}

    async def _totals(self, query: dict[str, Any]) -> Totals:
        aggs = {"digest": {"sum": {"field": "digest"}}}
        body = {"query": self._settled(query), "size": 0, "track_total_hits": True, "aggs": aggs}
        answer = await self._client.request("POST", f"/{STATES}/_search", body)
        return answer["hits"]["total"]["value"], round(answer["aggregations"]["digest"]["value"])

    async def _totals_by_run(self, query: dict[str, Any]) -> AsyncIterator[tuple[str, str, Totals]]:
        """Of each run: its id, its thread, its totals."""
        sources = [{"run": {"terms": {"field": "run_id"}}}, {"thread": {"terms": {"field": "thread_id"}}}]
        runs: dict[str, Any] = {"size": PAGE, "sources": sources}
        aggs = {"runs": {"composite": runs, "aggs": {"digest": {"sum": {"field": "digest"}}}}}
        while True:
            body = {"query": self._settled(query), "size": 0, "aggs": aggs}
            found = (await self._client.request("POST", f"/{STATES}/_search", body))["aggregations"]["runs"]
            for bucket in found["buckets"]:
                key = bucket["key"]
                yield key["run"], key["thread"], (bucket["doc_count"], round(bucket["digest"]["value"]))
            if "after_key" not in found:
                return
            runs["after"] = found["after_key"]

    async def _scan(
        self, alias: str, query: dict[str, Any], sort: Sequence[dict[str, Any]], more: dict[str, Any] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        body: dict[str, Any] = {"query": self._settled(query), "sort": sort, "size": PAGE, "seq_no_primary_term": True}
        body |= more or {}
        while True:
            hits = (await self._client.request("POST", f"/{alias}/_search", body))["hits"]["hits"]
            for hit in hits:
                yield hit
            if len(hits) < PAGE:
                return
            body["search_after"] = hits[-1]["sort"]


@asynccontextmanager
async def both_sides(settings: IndexerSettings) -> AsyncIterator[tuple[OpenSearch, Source]]:
    """OpenSearch and the store."""
    client = OpenSearch(settings.opensearch, timeout_s=60.0)
    mongo = connect(settings.mongodb)
    try:
        redaction = load(settings.redaction_file, settings.redaction_key)
        yield client, Source(database(mongo, settings.mongodb), redaction, settings)
    finally:
        mongo.close()
        await client.close()


async def verify_as_asked(client: OpenSearch, source: Source) -> Report:
    """:func:`verify` by the arguments of the process; the report goes to stdout as JSON."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--full", action="store_true", help="read every document")
    arguments.add_argument("--settled-s", type=float, default=SETTLED.total_seconds(), help="leave out what is younger")
    given = arguments.parse_args()
    report = await verify(client, source, timedelta(seconds=given.settled_s), full=given.full)
    shown = [{"kind": one.kind, "of": one.of, "id": one.id, "index": one.index} for one in report.differences]
    sys.stdout.write(orjson.dumps(asdict(report) | {"differences": shown}).decode() + "\n")
    return report


async def main(settings: IndexerSettings, stopping: asyncio.Event) -> None:
    """``python -m perdure.indexer.verify``: the report as JSON on stdout."""
    del stopping  # it only reads
    async with both_sides(settings) as (client, source):
        await verify_as_asked(client, source)


if __name__ == "__main__":
    run_service("index-verify", IndexerSettings, main)
