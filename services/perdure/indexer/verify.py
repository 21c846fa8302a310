"""Index = store: what is missing, surplus or wrong in the index (ADR 16).

Contract: :func:`verify` compares what is older than :data:`SETTLED`, so that events on their way are no differences. Of each
range of run ids it asks for the count and the sum of digests; only where they differ from the store's it asks run by run, and only
of runs that differ it reads documents. Threads are compared by their digests. Digests in the index are trusted unless ``full`` is
asked for, which reads every document: a document that was altered by hand, and its digest not, is found only then.

Outside: where the documents come from (``perdure.indexer.source``), and mending (``perdure.indexer.repair``).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from perdure.chassis.mongo import connect, database
from perdure.chassis.opensearch import OpenSearch
from perdure.chassis.service import run_service
from perdure.indexer.bulk import digest_of, source_of
from perdure.indexer.domain import event_id, newest, version
from perdure.indexer.rules import load
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.source import ID_RANGES, RUNS_AT_ONCE, Source
from perdure.schemas.index import STATES, THREADS, IndexDocument

SETTLED: Final = timedelta(minutes=1)
PAGE: Final = 5_000

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
        ranges: Ranges of run ids whose totals differed.
        runs: Runs whose documents were read.
        differences: What is not as the store says.

    """

    states: int = 0
    threads: int = 0
    ranges: int = 0
    runs: int = 0
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
    return await _Comparison(client, source, datetime.now(UTC) - settled, full=full).run()


class _Comparison:
    def __init__(self, client: OpenSearch, source: Source, before: datetime, *, full: bool) -> None:
        self._client = client
        self._source = source
        self._before = before
        self._full = full
        self._report = Report()
        self._newest: dict[str, _Newest] = {}

    async def run(self) -> Report:
        await self._client.request("POST", f"/{STATES},{THREADS}/_refresh")
        for low, high in ID_RANGES:
            await self._range(low, high)
        await self._threads()
        return self._report

    async def _range(self, low: str, high: str | None) -> None:
        stored: dict[str, Totals] = {}
        async for found in self._stored(low, high, {}):
            for document in found:
                count, total = stored.get(document["run_id"], (0, 0))
                stored[document["run_id"]] = count + 1, total + digest_of(document)
            for thread, latest in newest(found).items():
                if thread not in self._newest or self._newest[thread].version < version(latest):
                    self._newest[thread] = _Newest(version(latest), digest_of(latest), latest["run_id"])
        here = sum(count for count, _ in stored.values()), sum(total for _, total in stored.values())
        self._report.states += here[0]
        span = {"range": {"run_id": {"gte": low} if high is None else {"gte": low, "lt": high}}}
        if not self._full and await self._totals(span) == here:
            return
        self._report.ranges += 1
        indexed = {run: totals async for run, totals in self._totals_by_run(span)}
        runs = sorted(stored.keys() | indexed.keys())
        differing = [run for run in runs if self._full or stored.get(run) != indexed.get(run)]
        self._report.runs += len(differing)
        for start in range(0, len(differing), RUNS_AT_ONCE):
            await self._documents(low, high, differing[start : start + RUNS_AT_ONCE])

    async def _documents(self, low: str, high: str | None, runs: Sequence[str]) -> None:
        expected: dict[str, IndexDocument] = {}
        async for found in self._stored(low, high, {"_id": {"$in": list(runs)}}):
            expected |= {event_id(document): document for document in found}
        sort: list[dict[str, Any]] = [
            {"run_id": "asc"},
            {"seq": "asc"},
            {"note": {"order": "asc", "missing": 0}},
            {"_index": "asc"},
        ]
        seen: set[str] = set()
        async for hit in self._scan(STATES, {"terms": {"run_id": list(runs)}}, sort):
            document = None if hit["_id"] in seen else expected.get(hit["_id"])
            seen.add(hit["_id"])
            self._compare("states", hit, document)
        self._missing("states", {id_: document for id_, document in expected.items() if id_ not in seen})

    async def _threads(self) -> None:
        self._report.threads = len(self._newest)
        seen: set[str] = set()
        suspects: set[str] = set()
        read = {"_source": True if self._full else ["digest"]}
        sort = [{"thread_id": "asc"}, {"seq": "asc"}]
        async for hit in self._scan(THREADS, {"match_all": {}}, sort, read):
            thread = hit["_id"]
            seen.add(thread)
            if thread not in self._newest or self._newest[thread].digest != self._digest(hit["_source"]):
                suspects.add(thread)
        for start in range(0, len(ids := sorted(suspects)), RUNS_AT_ONCE):
            portion = ids[start : start + RUNS_AT_ONCE]
            expected = await self._newest_of(portion)
            async for hit in self._scan(THREADS, {"terms": {"_id": portion}}, sort):
                self._compare("threads", hit, expected.get(hit["_id"]))
        absent = sorted(self._newest.keys() - seen)
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
        for start in range(0, len(runs), RUNS_AT_ONCE):
            async for documents in self._stored("", None, {"_id": {"$in": runs[start : start + RUNS_AT_ONCE]}}):
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

    async def _stored(
        self, low: str, high: str | None, condition: dict[str, Any]
    ) -> AsyncIterator[list[IndexDocument]]:
        async for _, found in self._source.documents(low, high, condition):
            yield [document for document in found if document["occurred_at"] < self._before]

    def _settled(self, query: dict[str, Any]) -> dict[str, Any]:
        return {"bool": {"filter": [query, {"range": {"occurred_at": {"lt": self._before.isoformat()}}}]}}

    async def _totals(self, query: dict[str, Any]) -> Totals:
        aggs = {"digest": {"sum": {"field": "digest"}}}
        body = {"query": self._settled(query), "size": 0, "track_total_hits": True, "aggs": aggs}
        answer = await self._client.request("POST", f"/{STATES}/_search", body)
        return answer["hits"]["total"]["value"], round(answer["aggregations"]["digest"]["value"])

    async def _totals_by_run(self, query: dict[str, Any]) -> AsyncIterator[tuple[str, Totals]]:
        runs: dict[str, Any] = {"size": PAGE, "sources": [{"run": {"terms": {"field": "run_id"}}}]}
        aggs = {"runs": {"composite": runs, "aggs": {"digest": {"sum": {"field": "digest"}}}}}
        while True:
            body = {"query": self._settled(query), "size": 0, "aggs": aggs}
            found = (await self._client.request("POST", f"/{STATES}/_search", body))["aggregations"]["runs"]
            for bucket in found["buckets"]:
                yield bucket["key"]["run"], (bucket["doc_count"], round(bucket["digest"]["value"]))
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
    client = OpenSearch(settings.opensearch_url, ca_file=settings.opensearch_ca_file, timeout_s=60.0)
    mongo = connect(settings.mongodb_uri)
    try:
        redaction = load(settings.redaction_file, settings.redaction_key)
        yield client, Source(database(mongo, settings.mongodb_uri), redaction, settings)
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
