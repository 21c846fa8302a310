"""Archived threads as documents, for a rebuild: read from their objects, one thread at a time (ADR 15).

Contract: an object's runs come before its history, so memory holds the runs of one thread and a portion of its documents. What is
told of a thread after it was packed (that it was archived) is still in the notebook and is read from there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING

from perdure.archive.packing import unpack
from perdure.archive.sources import has_event
from perdure.archive.store import ArchiveStore
from perdure.chassis.at_rest import REGISTRY
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.checkpoint import keys
from perdure.indexer.settings import IndexerSettings
from perdure.schemas.documents import NOTEBOOK, RUNS, THREADS, ArchiveState
from perdure.schemas.index import IndexDocument

PORTION: Final = 500
THREADS_A_PAGE: Final = 200
AWAY: Final = [
    state.value
    for state in ArchiveState
    if not state.lives and state not in (ArchiveState.PURGING, ArchiveState.REMOVING)
]

Document = dict[str, Any]
Make = Callable[[Document, Document], IndexDocument | None]
"""The document of a run and one of its history entries."""


@dataclass(frozen=True, slots=True)
class ArchivedThread:
    """A thread that is not in MongoDB, or on its way.

    Attributes:
        id: Its id.
        mark: Where its object is.

    """

    id: str
    mark: Mapping[str, Any]

    @property
    def at(self) -> datetime | None:
        """Since when it is archived; ``None`` on its way there, or back."""
        moment: datetime | None = self.mark.get("at") if self.mark["state"] == ArchiveState.ARCHIVED.value else None
        return moment

    @property
    def states(self) -> int | None:
        """How many states its object holds, if that was counted."""
        return self.mark.get("states")


class ArchivedThreads:
    """Reads archived threads. Belongs to one event loop."""

    def __init__(self, db: Database, settings: IndexerSettings, make: Make, fields: tuple[str, ...]) -> None:
        self._db = db
        self._make = make
        self._fields = set(fields)
        self._availability = Availability()
        self._store = (
            ArchiveStore(settings.archive_url, settings.archive_store_options, settings.archive_ca_file)
            if settings.archive_url
            else None
        )

    async def require_store(self) -> None:
        """Refuse to begin what could not be ended.

        Raises:
            ConfigurationError: threads are archived, and no archive store is set.

        """
        query: Document = {"archive.at": {"$exists": True}, "archive.state": {"$in": AWAY}}
        found = await outlast(lambda: self._db[THREADS].find_one(query, {"_id": 1}), self._availability)
        if found is not None and self._store is None:
            raise ConfigurationError(
                f"thread {found['_id']} is archived and PERDURE_ARCHIVE_URL is not set: set it to where the scheduler archives"
            )

    async def documents(self, since: datetime | None = None) -> AsyncIterator[tuple[int, list[IndexDocument]]]:
        """Runs and documents of the threads that are archived (since ``since``).

        Raises:
            ConfigurationError: see :meth:`require_store`.
            ArchiveDamagedError: an object is missing or not what was written.

        """
        query: Document = {"archive.at": {"$gt": since} if since else {"$exists": True}}
        async for threads in self.pages(query):
            for thread in threads:
                async for one in self.of(thread):
                    yield one

    async def pages(self, condition: Document | None = None) -> AsyncIterator[list[ArchivedThread]]:
        """The threads that are archived, or on their way there or back."""
        after = ""
        while True:
            query = {"$and": [{"_id": {"$gt": after}, "archive.state": {"$in": AWAY}}, condition or {}]}
            found = await self._read(THREADS, query, first=THREADS_A_PAGE)
            if found:
                yield [ArchivedThread(thread["_id"], thread["archive"]) for thread in found]
            if len(found) < THREADS_A_PAGE:
                return
            after = found[-1]["_id"]

    async def away(self, thread_ids: Collection[str]) -> set[str]:
        """Which of these threads are archived, or on their way there or back."""
        query: Document = {"_id": {"$in": [*thread_ids]}, "archive.state": {"$in": AWAY}}
        return {thread["_id"] for thread in await self._read(THREADS, query)} if thread_ids else set()

    async def told(self, thread_ids: Sequence[str], before: datetime) -> dict[str, int]:
        """How many states of each of these threads are told by notes that are not in its object."""
        notes = {"$or": [keys.query(keys.of_kind(one, keys.NOTE)) for one in thread_ids], "at": {"$lt": before}}
        found = dict.fromkeys(thread_ids, 0)
        query: Document = {**notes, "ev": {"$exists": True}}
        for note in await outlast(lambda: self._db[NOTEBOOK].find(query, {"_id": 1}).to_list(None), self._availability):
            found[keys.parts(note["_id"])[0]] += 1
        return found

    async def restored_since(self, moment: datetime) -> list[str]:
        """The threads that came back."""
        query = {"restored_at": {"$gte": moment}}
        found = await outlast(lambda: self._db[THREADS].find(query, {"_id": 1}).to_list(None), self._availability)
        return [thread["_id"] for thread in found]

    async def of(self, thread: ArchivedThread) -> AsyncIterator[tuple[int, list[IndexDocument]]]:
        """Runs and documents of one thread.

        Raises:
            ConfigurationError: see :meth:`require_store`.
            ArchiveDamagedError: its object is missing or not what was written.

        """
        if self._store is None:
            await self.require_store()
            return
        mark, runs, made = thread.mark, {}, []
        async for source, data in unpack(mark["object"], self._store.read(mark["object"]), mark["sha256"]):
            if source == RUNS:
                run = bson.decode(data, _OPTIONS)
                runs[run["_id"]] = {name: value for name, value in run.items() if name != "payload"}
            elif source == NOTEBOOK and (entry := self._entry(data)) is not None:
                made.append(entry)
            if len(made) == PORTION:
                yield 0, self._made(runs, made)
                made = []
        made += await outlast(lambda: self._later(thread.id), self._availability)
        yield len(runs), self._made(runs, made)

    async def _read(self, collection: str, query: Document, *, first: int = 0) -> list[Document]:
        async def fetch() -> list[Document]:
            cursor = self._db[collection].find(query, {"archive": 1})
            if first:
                cursor = cursor.sort("_id", ASCENDING).limit(first)
            return await cursor.to_list(None)

        return await outlast(fetch, self._availability)

    async def _later(self, thread_id: str) -> list[Document]:
        notes = keys.query(keys.of_kind(thread_id, keys.NOTE))
        found: list[Document] = await self._db[NOTEBOOK].find(notes).to_list(None)
        return found

    def _entry(self, data: bytes) -> Document | None:
        """A history entry or a note; nothing else of the notebook, whose bodies are large, is decoded."""
        raw = RawBSONDocument(data)
        if not has_event(raw):
            return None
        return {name: value for name, value in bson.decode(data, _OPTIONS).items() if name in self._fields}

    def _made(self, runs: Mapping[str, Document], entries: list[Document]) -> list[IndexDocument]:
        made = (self._make(runs[entry["run"]], entry) for entry in entries if entry.get("run") in runs)
        return [document for document in made if document is not None]


_OPTIONS: Final[bson.codec_options.CodecOptions[Document]] = bson.codec_options.CodecOptions(
    tz_aware=True, type_registry=REGISTRY
)
