"""What the index must hold, from the store: rebuild, verify and repair read it here.

Contract: documents are pure functions of stored entries and their runs, as the indexer makes them of events.
Threads that were moved out of MongoDB are in :attr:`Source.archived`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pymongo import ASCENDING

from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.indexer.archived import ArchivedThreads
from perdure.indexer.domain import document_of
from perdure.indexer.redaction import Redaction
from perdure.indexer.settings import IndexerSettings
from perdure.schemas import documents
from perdure.schemas.index import IndexDocument
from perdure.schemas.outbox import event_of

RUNS_AT_ONCE: Final = 50

RUN_FIELDS: Final = (
    "_id",
    "tenant",
    "thread_id",
    "graph_id",
    "assistant_id",
    "graph_version",
    "metadata",
    "first_seq",
    "ended_seq",
)
ENTRY_FIELDS: Final = (
    "run", "kind", "seq", "after", "note", "epoch", "at", "ev", "event", "checkpoint_id", "ns", "parent", "step",
)  # fmt: skip
RUNS_A_PAGE: Final = 1_000

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Runs with ``after < _id <= upto``; the spans of all pages are all ids there can be.

    Attributes:
        after: The id before the first.
        upto: The last one's, or ``None`` on the last page.
        runs: Their documents, in order, without payloads.

    """

    after: str
    upto: str | None
    runs: Sequence[Document]


class Source:
    """Documents from the store."""

    def __init__(self, db: Database, redaction: Redaction, settings: IndexerSettings) -> None:
        self._db = db
        self._redaction = redaction
        self._settings = settings
        self._availability = Availability()
        self.archived = ArchivedThreads(db, settings, self._document, ENTRY_FIELDS)

    async def count(self) -> int:
        """About how many runs there are."""
        return await outlast(self._db[documents.RUNS].estimated_document_count, self._availability)

    async def pages(self, condition: Mapping[str, Any] | None = None) -> AsyncIterator[Page]:
        """The runs (that match), in the order of their ids: of those that come meanwhile at least what is older is there."""
        after = ""
        while True:
            # What only holds an archived thread's place has no graph.
            query = {"$and": [{"_id": {"$gt": after}, "graph_id": {"$exists": True}}, condition or {}]}
            runs = await self._find(documents.RUNS, query, RUN_FIELDS, first=RUNS_A_PAGE)
            if len(runs) < RUNS_A_PAGE:
                yield Page(after, None, runs)
                return
            yield Page(after, runs[-1]["_id"], runs)
            after = runs[-1]["_id"]

    async def runs(self, ids: Sequence[str]) -> list[Document]:
        """Runs by their ids, as :meth:`pages` has them."""
        return await self._find(documents.RUNS, {"_id": {"$in": list(ids)}}, RUN_FIELDS)

    async def documents(self, runs: Sequence[Document]) -> AsyncIterator[list[IndexDocument]]:
        """The documents of runs, a few runs at a time."""
        for start in range(0, len(runs), RUNS_AT_ONCE):
            portion = {run["_id"]: run for run in runs[start : start + RUNS_AT_ONCE]}
            histories = [_history(run) for run in portion.values()]
            entries = await self._find(documents.NOTEBOOK, {"$or": histories}, ENTRY_FIELDS)
            notes = {"kind": "n", "run": {"$in": list(portion)}}
            entries += await self._find(documents.NOTEBOOK, notes, ENTRY_FIELDS)
            made = (self._document(portion[entry["run"]], entry) for entry in entries if entry["run"] in portion)
            yield [document for document in made if document is not None]

    async def noted_since(self, moment: datetime) -> list[str]:
        """The runs that a note since ``moment`` is about."""
        query = {"kind": "n", "run": {"$gte": ""}, "at": {"$gte": moment}}
        return list({note["run"] for note in await self._find(documents.NOTEBOOK, query, ("run",))})

    def _document(self, run: Document, entry: Document) -> IndexDocument | None:
        if entry["kind"] != "f" and "ev" not in entry:
            return None  # written without an executor: it has no event
        event = event_of(run, entry)
        return None if event is None else document_of(event, self._redaction, self._settings.index_text_limit)

    async def _find(self, collection: str, query: Document, fields: Sequence[str], *, first: int = 0) -> list[Document]:
        """What matches; with ``first``, only so many with the lowest ids, in their order."""

        async def fetch() -> list[Document]:
            cursor = self._db[collection].find(query, dict.fromkeys(fields, 1))
            if first:
                cursor = cursor.sort("_id", ASCENDING).limit(first)
            return await cursor.to_list(None)

        return await outlast(fetch, self._availability)


def _history(run: Document) -> Document:
    """The entries in the numbers of one run, among which entries of other runs may be.

    The numbers of an ended run are known, so a long thread is not read for each of its runs.
    """
    # With "run" in the query SecantusDB reads the whole collection: 2.4 s for 50 runs of 6,500 instead of 0.02 s.
    span = {"$gte": run.get("first_seq", 0)}
    if "ended_seq" in run:
        span["$lte"] = run["ended_seq"]
    return {"thread": run["thread_id"], "seq": span}
