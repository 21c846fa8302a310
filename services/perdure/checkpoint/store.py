"""Reads of the notebook collection, and its indexes.

Contract: every query is bounded by keys, so its cost does not grow with what is stored. Outages are waited out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from collections.abc import Collection as Sized
from dataclasses import dataclass, field
from typing import Any, Final

import zstandard
from pymongo import ASCENDING, DESCENDING, IndexModel, WriteConcern

from perdure.chassis.at_rest import Opened, require_own
from perdure.chassis.group_read import GroupRead
from perdure.chassis.mongo import Collection, Database
from perdure.chassis.outage import Availability, outlast
from perdure.checkpoint import keys
from perdure.checkpoint.codec import Codec, decompress, digest
from perdure.checkpoint.documents import Document, Place
from perdure.checkpoint.errors import SegmentCorrupt, SegmentMissing

COLLECTION: Final = "notebook"
DURABLE: Final = WriteConcern(w="majority", j=True)
SEQUENCE_INDEX: Final = "one_history"
ASIDE_BYTES: Final = 2 * 1024 * 1024
"""Segments of more bytes together are opened in a thread, so that the event loop keeps turning."""
EXACT_KEYS: Final = 32
"""Checkpoints of one query: each is a clause, and servers take more than twice as long for twice as many clauses."""
STANDING: Final[dict[str, Any]] = {"undone": None}
"""Filter: checkpoints that were not undone (ADR 32)."""
FETCH_SEGMENTS: Final = 64
"""Segments asked for at once; each is at most 4 MiB before compression."""

INDEXES: Final = [
    IndexModel(
        [("thread", ASCENDING), ("seq", ASCENDING)],
        name=SEQUENCE_INDEX,
        unique=True,
        partialFilterExpression={"seq": {"$exists": True}},
    ),
    IndexModel([("run", ASCENDING), ("at", ASCENDING)], name="notes", partialFilterExpression={"kind": "n"}),
    IndexModel([("at", ASCENDING)], name="unpublished_notes", partialFilterExpression={"published": False}),
]


@dataclass(slots=True)
class Found:
    """A checkpoint's document and the documents of its pending writes."""

    document: Document
    writes: list[Document] = field(default_factory=list)


class Store:
    """The notebook collection, read side. Belongs to one event loop."""

    def __init__(self, database: Database, availability: Availability) -> None:
        self.collection: Collection = database[COLLECTION].with_options(write_concern=DURABLE)
        self.availability = availability
        self._exact: GroupRead[tuple[str, str, str], Found] = GroupRead(
            self._fetch_exact, availability=availability, max_keys=EXACT_KEYS
        )
        self._hints: GroupRead[str, str] = GroupRead(self._fetch_hints, availability=availability)
        self._segments: GroupRead[str, Document] | None = None
        """There when concurrent readers fetch their segments together."""

    async def ensure_indexes(self) -> None:
        """Create the indexes that are missing. Idempotent."""
        await outlast(lambda: self.collection.create_indexes(INDEXES), self.availability)

    async def find(
        self,
        query: Mapping[str, Any],
        projection: Mapping[str, Any] | None = None,
        *,
        newest: int = 0,
    ) -> list[Document]:
        """All documents that match; with ``newest``, only so many with the highest keys, highest first."""

        async def fetch() -> list[Document]:
            cursor = self.collection.find(query, projection)
            if newest:
                cursor = cursor.sort("_id", DESCENDING).limit(newest)
            documents = await cursor.to_list(None)
            require_own(COLLECTION, documents)
            return documents

        return await outlast(fetch, self.availability)

    async def exact(self, place: Place) -> Found | None:
        """A checkpoint by its id, with its pending writes: one query, shared with other readers."""
        return await self._exact.get((place.thread, place.ns, place.checkpoint_id))

    async def newest(self, thread: str, ns: str, floor: str | None = None) -> Found | None:
        """The checkpoint with the highest id of a namespace; ``floor`` is an id that it is not below, if known."""
        hint = floor or await self._hints.get(keys.head(thread, ns)) or ""
        found = await self.find(keys.query(keys.checkpoints(thread, ns, first=hint)) | STANDING, newest=1)
        if not found and hint:  # what the hint named was deleted or undone
            found = await self.find(keys.query(keys.checkpoints(thread, ns)) | STANDING, newest=1)
        if not found:
            return None
        checkpoint_id = found[0]["checkpoint_id"]
        return Found(found[0], await self.find(keys.query(keys.writes_of(thread, ns, checkpoint_id))))

    async def newest_ids(self, ns: str, floors: Mapping[str, str | None]) -> dict[str, str]:
        """The highest checkpoint id of a namespace for each thread that has one, many threads in one query.

        ``floors``: by thread, an id that its newest checkpoint is not below, if known.
        """
        hints = await asyncio.gather(
            *(self._hints.get(keys.head(thread, ns)) for thread, floor in floors.items() if not floor)
        )
        known = dict(zip((thread for thread, floor in floors.items() if not floor), hints, strict=True))
        newest = await self._highest(
            {keys.checkpoints(one, ns, first=floors[one] or known[one] or "") for one in floors}
        )
        lost = [
            one for one in floors if one not in newest and (floors[one] or known[one])
        ]  # what they name was deleted
        return newest | await self._highest({keys.checkpoints(one, ns) for one in lost})

    def share_segment_reads(self) -> None:
        """Fetch the segments of concurrent readers together: for those that read many threads at once."""
        self._segments = GroupRead(self._fetch_segments, availability=self.availability, max_keys=FETCH_SEGMENTS)

    async def pages(
        self, bounds: Callable[[str | None], keys.Range], match: Mapping[str, Any], size: int
    ) -> AsyncIterator[list[Document]]:
        """Checkpoints of one namespace, newest first, in pages. ``bounds(before)`` gives the range below an id."""
        before: str | None = None
        while True:
            page = await self.find({**keys.query(bounds(before)), **match, **STANDING}, newest=size)
            if page:
                yield page
            if len(page) < size:
                return
            before = page[-1]["checkpoint_id"]

    async def segments(self, codec: Codec, thread: str, wanted: Iterable[bytes]) -> dict[bytes, tuple[str, bytes]]:
        """Plain segments by digest.

        Raises:
            SegmentMissing: One is not there.
            SegmentCorrupt: One's bytes do not match its digest.

        """
        missing = list(dict.fromkeys(wanted))
        opened: dict[bytes, tuple[str, bytes]] = {}
        for start in range(0, len(missing), FETCH_SEGMENTS):
            part = missing[start : start + FETCH_SEGMENTS]
            names = {keys.segment(thread, one): one for one in part}
            found = [(names.pop(document["_id"]), document) for document in await self._segment_documents(names)]
            if names:
                raise SegmentMissing(thread, next(iter(names.values())).hex())
            if sum(len(document["d"]) for _, document in found) > ASIDE_BYTES:
                opened |= await asyncio.to_thread(_open_segments, codec, thread, found)
            else:
                opened |= _open_segments(codec, thread, found)
        return opened

    async def delete(self, query: Mapping[str, Any]) -> int:
        """Delete what matches; how many were deleted."""
        result = await outlast(lambda: self.collection.delete_many(query), self.availability)
        return result.deleted_count

    async def change(self, query: Mapping[str, Any], update: Mapping[str, Any]) -> None:
        """Update all that match; the update must be idempotent."""
        await outlast(lambda: self.collection.update_many(query, update), self.availability)

    async def _fetch_exact(self, wanted: Sequence[tuple[str, str, str]]) -> Mapping[tuple[str, str, str], Found]:
        clauses: list[dict[str, Any]] = [{"_id": {"$in": [keys.checkpoint(*one) for one in wanted]}}]
        clauses.extend(keys.query(keys.writes_of(*one)) for one in wanted)
        found: dict[tuple[str, str, str], Found] = {}
        writes: list[tuple[tuple[str, str, str], Document]] = []
        documents = await self.collection.find({"$or": clauses}).to_list(None)
        require_own(COLLECTION, documents)
        for document in documents:
            thread, kind, ns, checkpoint_id = keys.parts(document["_id"])[:4]
            place = (thread, ns, checkpoint_id)
            if kind == keys.CHECKPOINT:
                if not document.get("undone"):
                    found[place] = Found(document)
            else:
                writes.append((place, document))
        for place, document in writes:
            if place in found:
                found[place].writes.append(document)
        return found

    async def _highest(self, ranges: Sized[keys.Range]) -> dict[str, str]:
        highest: dict[str, str] = {}
        wanted = list(ranges)
        for start in range(0, len(wanted), EXACT_KEYS):
            query = {"$or": [keys.query(bounds) for bounds in wanted[start : start + EXACT_KEYS]]}
            for document in await self.find(query, {"_id": 1}):
                thread, _, _, checkpoint_id = keys.parts(document["_id"])
                highest[thread] = max(highest.get(thread, ""), checkpoint_id)
        return highest

    async def _segment_documents(self, ids: Iterable[str]) -> list[Document]:
        if self._segments is None:
            return await self.find({"_id": {"$in": list(ids)}})
        found = await asyncio.gather(*map(self._segments.get, ids))
        return [document for document in found if document is not None]

    async def _fetch_segments(self, wanted: Sequence[str]) -> Mapping[str, Document]:
        found = await self.collection.find({"_id": {"$in": list(wanted)}}).to_list(None)
        require_own(COLLECTION, found)
        return {document["_id"]: document for document in found}

    async def _fetch_hints(self, wanted: Sequence[str]) -> Mapping[str, str]:
        documents = await self.collection.find({"_id": {"$in": list(wanted)}}).to_list(None)
        return {document["_id"]: document["head"] for document in documents}


def _open_segments(codec: Codec, thread: str, found: list[tuple[bytes, Document]]) -> dict[bytes, tuple[str, bytes]]:
    return {one: _open_segment(codec, thread, one, document) for one, document in found}


def _open_segment(codec: Codec, thread: str, expected: bytes, document: Mapping[str, Any]) -> tuple[str, bytes]:
    typ = document.get("k", "msgpack")
    data: bytes = document["d"]
    if document.get("z"):
        try:
            data = decompress(data)
        except zstandard.ZstdError as error:
            raise SegmentCorrupt(thread, expected.hex(), str(error)) from error
    elif not isinstance(data, Opened) and digest(typ, data) != expected:
        raise SegmentCorrupt(thread, expected.hex(), "its bytes do not match its digest")
    return codec.open(typ, bytes(data))
