"""Mending what :func:`~perdure.indexer.verify.verify` found, and nothing else (ADR 16).

Contract: what changed since it was seen is left alone: it is the indexer's, which is newer and right. A document in an index that
takes no writes any more is mended there.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import orjson

from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.chassis.service import run_service
from perdure.chassis.telemetry import logger
from perdure.indexer import indices
from perdure.indexer.bulk import newest_item, source_of, state_item
from perdure.indexer.domain import version
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.verify import Difference, Report, both_sides, verify_as_asked
from perdure.indexer.writer import Writer
from perdure.schemas.index import THREADS, IndexDocument

log = logger("perdure.indexer.repair")

FORGOTTEN_S: Final = 90.0
"""OpenSearch remembers the version of a deleted document for a minute (``index.gc_deletes``)."""


async def repair(client: OpenSearch, writer: Writer, report: Report) -> None:
    """Mend what a report says.

    Raises:
        UnavailableError: OpenSearch does not answer; start again.
        OpenSearchRefusedError: it refuses what was sent.

    """
    there = [one for one in report.differences if one.of == "states" and one.index is not None]
    for index in sorted({one.index for one in there if one.index}):
        found = await client.request("GET", f"/{index}/_settings", params={"flat_settings": "true"})
        blocked = found[index]["settings"].get("index.blocks.write")
        try:
            if blocked:
                await client.request("PUT", f"/{index}/_settings", {"index.blocks.write": None})
            for one in there:
                if one.index == index:
                    await _state(client, one)
        finally:
            if blocked:
                await indices.block(client, index)
    absent = [one for one in report.differences if one.index is None and one.document]
    make = {"states": state_item, "threads": newest_item}
    for item, why in await writer.write([make[one.of](one.document) for one in absent if one.document]):
        log.error("repair.refused", thread_id=item.document["thread_id"], seq=item.document["seq"], reason=why)
    ids = [one.id for one in absent if one.of == "threads"]
    written = await indices.present(client, {THREADS: ids}) if ids else set()
    for one in report.differences:
        if one.of != "threads":
            continue
        if one.document is None:
            await _delete(client, one)
        elif one.id not in written:
            await _thread(client, one, one.document)


async def _state(client: OpenSearch, one: Difference) -> None:
    if one.document is None:
        await _delete(client, one)
    else:
        await _bulk(client, {"index": _seen(one)}, source_of(one.document))


async def _thread(client: OpenSearch, one: Difference, document: IndexDocument) -> None:
    place = {"_index": one.index or THREADS, "_id": one.id}
    write = {"index": {**place, "version": version(document), "version_type": "external_gte"}}
    source = source_of(document)
    if await _bulk(client, write, source):
        return
    # A newer version is there: what was seen to be wrong, or the indexer's, or that of a deleted document.
    if one.index is not None and not await _delete(client, one):
        return
    deadline = time.monotonic() + FORGOTTEN_S
    while not await _bulk(client, write, source):
        if await indices.present(client, {place["_index"]: [one.id]}):
            return
        if time.monotonic() > deadline:
            detail = f"a newer version of thread {one.id!r} was deleted and is not forgotten: repair again later"
            raise OpenSearchRefusedError(409, "version_conflict_engine_exception", detail, "POST /_bulk")
        await asyncio.sleep(1.0)


async def _delete(client: OpenSearch, one: Difference) -> bool:
    return await _bulk(client, {"delete": _seen(one)})


def _seen(one: Difference) -> dict[str, Any]:
    """The document as it was seen."""
    number, term = one.revision or (0, 0)
    return {"_index": one.index, "_id": one.id, "if_seq_no": number, "if_primary_term": term}


async def _bulk(client: OpenSearch, action: dict[str, Any], source: bytes | None = None) -> bool:
    """Whether it was done; not if the document is another by now."""
    lines = [orjson.dumps(action)] if source is None else [orjson.dumps(action), source]
    answer = await client.bulk(b"\n".join(lines) + b"\n")
    ((result,),) = (item.values() for item in answer["items"])
    if result["status"] not in {200, 201, 404, 409}:
        raise OpenSearchRefusedError(result["status"], "repair", str(result.get("error")), "POST /_bulk")
    return bool(result["status"] < 400)


async def main(settings: IndexerSettings, stopping: asyncio.Event) -> None:
    """``python -m perdure.indexer.repair``: what was found, before it was mended, as JSON on stdout."""
    del stopping  # nothing is half done: what is mended is mended
    async with both_sides(settings) as (client, source):
        report = await verify_as_asked(client, source)
        writer = Writer(client, settings)
        await writer.open()
        await repair(client, writer, report)


if __name__ == "__main__":
    run_service("index-repair", IndexerSettings, main)
