"""Index = store: what is missing, surplus or wrong in the index, and mending exactly that (ADR 16).

Contract: :func:`verify` compares what is older than :data:`SETTLED`, so that events on their way are no differences. Of each
range of run ids it asks for the count and the sum of digests; only where they differ from the store's it asks run by run, and only
of runs that differ it reads documents. :func:`repair` writes what :func:`verify` found, and nothing else; what changed since is
left alone. Digests in the index are trusted: a state that was altered by hand, and its digest not, is found only when something
else of its run differs.

Outside: where the documents come from (``perdure.indexer.source``).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from perdure.chassis.mongo import connect, database
from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.chassis.service import run_service
from perdure.indexer.bulk import digest_of, newest_item, source_of, state_item
from perdure.indexer.domain import event_id, newest, version
from perdure.indexer.rules import load
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.source import ID_RANGES, RUNS_AT_ONCE, Source
from perdure.indexer.writer import Writer
from perdure.schemas.index import STATES, THREADS, IndexDocument

SETTLED: Final = timedelta(minutes=1)
PAGE: Final = 5_000
FORGOTTEN_S: Final = 90.0

Totals = tuple[int, int]
"""How many documents, and the sum of their digests."""


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


async def verify(client: OpenSearch, source: Source, settled: timedelta = SETTLED) -> Report:
    """Compare the index with the store.

    Raises:
        UnavailableError: OpenSearch does not answer; start again.

    """
    return await _Comparison(client, source, datetime.now(UTC) - settled).run()


class _Comparison:
    def __init__(self, client: OpenSearch, source: Source, before: datetime) -> None:
        self._client = client
        self._source = source
        self._before = before
        self._report = Report()
        self._newest: dict[str, IndexDocument] = {}

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
                if thread not in self._newest or version(self._newest[thread]) < version(latest):
                    self._newest[thread] = latest
        here = sum(count for count, _ in stored.values()), sum(total for _, total in stored.values())
        self._report.states += here[0]
        span = {"range": {"run_id": {"gte": low} if high is None else {"gte": low, "lt": high}}}
        if await self._totals(span) == here:
            return
        self._report.ranges += 1
        indexed = {run: totals async for run, totals in self._totals_by_run(span)}
        differing = sorted(run for run in stored.keys() | indexed.keys() if stored.get(run) != indexed.get(run))
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
        async for hit in self._scan(THREADS, {"match_all": {}}, [{"thread_id": "asc"}, {"seq": "asc"}]):
            seen.add(hit["_id"])
            self._compare("threads", hit, self._newest.get(hit["_id"]))
        absent = [thread for thread in self._newest if thread not in seen]
        for start in range(0, len(absent), PAGE):
            # Some are there and newer than what is compared.
            portion = absent[start : start + PAGE]
            body = {"query": {"terms": {"thread_id": portion}}, "size": PAGE, "_source": False}
            answer = await self._client.request("POST", f"/{THREADS}/_search", body)
            there = {hit["_id"] for hit in answer["hits"]["hits"]}
            self._missing("threads", {thread: self._newest[thread] for thread in portion if thread not in there})

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
        self, alias: str, query: dict[str, Any], sort: list[dict[str, Any]]
    ) -> AsyncIterator[dict[str, Any]]:
        body: dict[str, Any] = {"query": self._settled(query), "sort": sort, "size": PAGE, "seq_no_primary_term": True}
        while True:
            hits = (await self._client.request("POST", f"/{alias}/_search", body))["hits"]["hits"]
            for hit in hits:
                yield hit
            if len(hits) < PAGE:
                return
            body["search_after"] = hits[-1]["sort"]


async def repair(client: OpenSearch, writer: Writer, report: Report) -> None:
    """Mend what :func:`verify` found. A document in an index that takes no writes any more is mended there."""
    lost = [one for one in report.differences if one.document is not None and one.index is None]
    make = {"states": state_item, "threads": newest_item}
    await writer.write([make[one.of](one.document) for one in lost if one.document is not None])
    there = [one for one in report.differences if one.index is not None]
    for index in sorted({one.index for one in there if one.index}):
        found = await client.request("GET", f"/{index}/_settings", params={"flat_settings": "true"})
        blocked = found[index]["settings"].get("index.blocks.write")
        try:
            if blocked:
                await client.request("PUT", f"/{index}/_settings", {"index.blocks.write": None})
            for one in there:
                if one.index == index:
                    await _mend(client, one)
        finally:
            if blocked:
                await client.request("PUT", f"/{index}/_settings", {"index.blocks.write": True})


async def _mend(client: OpenSearch, one: Difference) -> None:
    seen = {"if_seq_no": one.revision[0], "if_primary_term": one.revision[1]} if one.revision else {}
    place = {"_index": one.index, "_id": one.id}
    if one.document is None:
        await _bulk(client, orjson.dumps({"delete": {**place, **seen}}))
        return
    source = source_of(one.document)
    if one.of == "states":
        await _bulk(client, orjson.dumps({"index": {**place, **seen}}), source)
        return
    write = orjson.dumps({"index": {**place, "version": version(one.document), "version_type": "external_gte"}})
    if await _bulk(client, write, source) or not await _bulk(client, orjson.dumps({"delete": {**place, **seen}})):
        return
    # It had a newer version than the right one. OpenSearch remembers that of a deleted document for a minute.
    deadline = time.monotonic() + FORGOTTEN_S
    while time.monotonic() < deadline:
        if await _bulk(client, write, source):
            return
        await asyncio.sleep(1.0)


async def _bulk(client: OpenSearch, *lines: bytes) -> bool:
    """Whether it was done; not if the document is another by now."""
    answer = await client.bulk(b"\n".join(lines) + b"\n")
    ((result,),) = (item.values() for item in answer["items"])
    if result["status"] not in {200, 201, 404, 409}:
        raise OpenSearchRefusedError(result["status"], "repair", str(result.get("error")), "POST /_bulk")
    return bool(result["status"] < 400)


async def main(settings: IndexerSettings, stopping: asyncio.Event) -> None:
    """``python -m perdure.indexer.verify [repair]``: the report as JSON on stdout; the report is of before the repair."""
    del stopping  # nothing is half done: what is mended is mended
    client = OpenSearch(settings.opensearch_url, ca_file=settings.opensearch_ca_file, timeout_s=60.0)
    mongo = connect(settings.mongodb_uri)
    try:
        redaction = load(settings.redaction_file, settings.redaction_key)
        source = Source(database(mongo, settings.mongodb_uri), redaction, settings)
        report = await verify(client, source)
        if "repair" in sys.argv[1:] and report.differences:
            writer = Writer(client, settings)
            await writer.open()
            await repair(client, writer, report)
        shown = asdict(report) | {
            "differences": [{"kind": d.kind, "of": d.of, "id": d.id, "index": d.index} for d in report.differences]
        }
        sys.stdout.write(orjson.dumps(shown).decode() + "\n")
    finally:
        mongo.close()
        await client.close()


if __name__ == "__main__":
    run_service("index-verify", IndexerSettings, main)
