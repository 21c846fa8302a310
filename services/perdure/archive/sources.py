"""Everything that belongs to a thread, besides its own document: which collections, in which order.

Contract: the order is that of an archive object. What is read first is deleted first. A new collection with documents of threads is
added here, and nowhere else; the names are stored in every object.

Outside: dead letters and reply addresses, which remove themselves; schedules and batches, which are of the tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from perdure.archive.errors import ArchiveDamagedError
from perdure.chassis.mongo import Database
from perdure.checkpoint import keys
from perdure.registry.subscriptions import scope_key
from perdure.schemas.documents import EFFECTS, NOTEBOOK, PAYLOADS, RUNS, SIGNALS, WAITS
from perdure.schemas.notices import DELIVERIES, SUBSCRIPTIONS, Scope

RAW: Final[CodecOptions[Any]] = CodecOptions(document_class=RawBSONDocument)
"""Documents as their bytes: what comes back is what was there, bit for bit."""

SOURCES: Final = (RUNS, PAYLOADS, WAITS, SIGNALS, EFFECTS, DELIVERIES, SUBSCRIPTIONS, NOTEBOOK)
"""Runs first: whoever reads an object knows a history entry's run when it meets it."""

BATCH: Final = 100
BATCH_BYTES: Final = 4 * 1024 * 1024
"""Documents, and their bytes about, that are handled at once."""
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "checkpoints": (keys.CHECKPOINT,),
    "segments": (keys.SEGMENT,),
    "writes": (keys.WRITES,),
    "history": (keys.ENTRY, keys.FENCE, keys.NOTE, keys.HEAD),
}
"""What the notebook holds, by the kinds of its keys."""


def slot_id(thread_id: str) -> str:
    """The document in ``runs`` that holds the thread's one running slot while the archive has it. Stored; never change it."""
    return f"archive:{thread_id}"


def has_event(entry: Mapping[str, Any]) -> bool:
    """Whether a document of the notebook is told of, and so has a document in the search index."""
    return entry.get("kind") in (keys.CHECKPOINT, keys.ENTRY, keys.NOTE) and "ev" in entry


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose documents."""

    tenant: str
    thread_id: str


async def documents(db: Database, name: str, owner: Owner) -> AsyncIterator[Sequence[RawBSONDocument]]:
    """The documents of one collection, some at a time, by ``_id``."""
    for query in await _queries(db, name, owner):
        cursor = db[name].with_options(codec_options=RAW).find(query).sort("_id", 1).batch_size(BATCH)
        portion: list[Any] = []
        size = 0
        async for document in cursor:
            portion.append(document)
            size += len(document.raw)
            if len(portion) == BATCH or size >= BATCH_BYTES:
                yield portion
                portion, size = [], 0
        if portion:
            yield portion


async def portions(
    key: str, documents: AsyncIterator[tuple[str, bytes]]
) -> AsyncIterator[tuple[str, Sequence[RawBSONDocument]]]:
    """The documents of an object, some of one collection at a time.

    Raises:
        ArchiveDamagedError: one has no id.

    """
    portion: list[RawBSONDocument] = []
    before, size = "", 0
    async for source, document in documents:
        if portion and (source != before or len(portion) == BATCH or size + len(document) > BATCH_BYTES):
            yield before, portion
            portion, size = [], 0
        before, size = source, size + len(document)
        portion.append(_with_id(key, document))
    if portion:
        yield before, portion


def _with_id(key: str, data: bytes) -> RawBSONDocument:
    try:
        document = RawBSONDocument(data)
        document["_id"]
    except (BSONError, KeyError) as error:
        raise ArchiveDamagedError(key, f"it has a document without an id ({error})") from error
    return document


async def sizes(db: Database, owner: Owner) -> dict[str, dict[str, int]]:
    """``documents`` and ``bytes`` (as BSON) of a thread, by what they are: the notebook's parts, and the other collections."""
    wanted: dict[str, tuple[str, Sequence[Mapping[str, Any]]]] = {}
    for part, kinds in PARTS.items():
        wanted[part] = (NOTEBOOK, [keys.query(keys.of_kind(owner.thread_id, kind)) for kind in kinds])
    for name in SOURCES:
        if name != NOTEBOOK:
            wanted[name] = (name, await _queries(db, name, owner))
    found = await asyncio.gather(*(_size(db, name, queries) for name, queries in wanted.values()))
    return dict(zip(wanted, found, strict=True))


async def _size(db: Database, name: str, queries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    size = {"documents": 0, "bytes": 0}
    for query in queries:
        pipeline: list[dict[str, Any]] = [
            {"$match": query},
            {"$group": {"_id": None, "documents": {"$sum": 1}, "bytes": {"$sum": {"$bsonSize": "$$ROOT"}}}},
        ]
        async for found in db[name].aggregate(pipeline):
            size = {part: size[part] + found[part] for part in size}
    return size


async def _queries(db: Database, name: str, owner: Owner) -> list[Mapping[str, Any]]:
    thread = owner.thread_id
    if name == NOTEBOOK:
        return [keys.query(keys.everything(thread))]
    if name == SUBSCRIPTIONS:
        return [{"scope_key": scope_key(owner.tenant, Scope.THREAD, thread)}]
    if name == PAYLOADS:
        # They have no index but their ids, which begin with that of their run.
        runs = db[RUNS].find({"thread_id": thread, "payload_chunks": {"$gt": 0}}, {"payload_chunks": 1})
        return [{"_id": {"$in": [f"{run['_id']}:{n}" for n in range(run["payload_chunks"])]}} async for run in runs]
    if name == RUNS:
        return [{"thread_id": thread, "_id": {"$ne": slot_id(thread)}}]
    return [{"thread_id": thread}]
