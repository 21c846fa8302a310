"""What the index must hold, from the store: rebuild, verify and repair read it here.

Contract: documents are pure functions of stored entries and their runs, as the indexer makes them of events.
Threads that were moved out of MongoDB are in :attr:`Source.archived`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final

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
_HEX: Final = [f"{n:02x}" for n in range(256)]
ID_RANGES: Final = list(zip(["", *_HEX], [*_HEX, None], strict=True))
"""Ids by their first two characters: each query stays small, and every string is in exactly one range."""


class Source:
    """Documents from the store."""

    def __init__(self, db: Database, redaction: Redaction, settings: IndexerSettings) -> None:
        self._db = db
        self._redaction = redaction
        self._settings = settings
        self._availability = Availability()
        self.archived = ArchivedThreads(db, settings, self._document, ENTRY_FIELDS)

    async def documents(
        self, low: str, high: str | None, condition: dict[str, Any]
    ) -> AsyncIterator[tuple[int, list[IndexDocument]]]:
        """Runs and their documents, of the runs with ``low <= _id < high`` that match, a few runs at a time."""
        span: dict[str, Any] = {"$gte": low} if high is None else {"$gte": low, "$lt": high}
        # What only holds an archived thread's place has no graph.
        query = {"_id": span, "graph_id": {"$exists": True}, **condition}
        runs = await self._find(documents.RUNS, query, RUN_FIELDS)
        for start in range(0, len(runs), RUNS_AT_ONCE):
            portion = {run["_id"]: run for run in runs[start : start + RUNS_AT_ONCE]}
            histories = [_history(run) for run in portion.values()]
            entries = await self._find(documents.NOTEBOOK, {"$or": histories}, ENTRY_FIELDS)
            notes = {"kind": "n", "run": {"$in": list(portion)}}
            entries += await self._find(documents.NOTEBOOK, notes, ENTRY_FIELDS)
            made = (self._document(portion[entry["run"]], entry) for entry in entries)
            yield len(portion), [document for document in made if document is not None]

    async def noted_since(self, moment: datetime) -> list[str]:
        """The runs that a note since ``moment`` is about."""
        query = {"kind": "n", "run": {"$gte": ""}, "at": {"$gte": moment}}
        return list({note["run"] for note in await self._find(documents.NOTEBOOK, query, ("run",))})

    def _document(self, run: dict[str, Any], entry: dict[str, Any]) -> IndexDocument | None:
        if entry["kind"] != "f" and "ev" not in entry:
            return None  # written without an executor: it has no event
        event = event_of(run, entry)
        return None if event is None else document_of(event, self._redaction, self._settings.index_text_limit)

    async def _find(self, collection: str, query: dict[str, Any], fields: Sequence[str]) -> list[dict[str, Any]]:
        projection = dict.fromkeys(fields, 1)
        return await outlast(lambda: self._db[collection].find(query, projection).to_list(None), self._availability)


def _history(run: dict[str, Any]) -> dict[str, Any]:
    """The entries of one run; of an ended one its numbers are known, so that a long thread is not read for each run."""
    span = {"$gte": run.get("first_seq", 0)}
    if "ended_seq" in run:
        span["$lte"] = run["ended_seq"]
    return {"thread": run["thread_id"], "seq": span, "run": run["_id"]}
