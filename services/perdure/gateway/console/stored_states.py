"""The newest states of a thread from the database, for a page while the search index is away.

Contract: :func:`newest` gives what ``perdure.gateway.search.query`` gives of one thread, newest first: checkpoints and the
beginnings and ends of runs. It has no texts: what may be shown of them (redaction) is the indexer's business; ``state as JSON``
has the values. Events outside a run's history (stuck, escalated, notices) are in the index only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pymongo import DESCENDING

from perdure.chassis.mongo import Database
from perdure.gateway.stores.store import Store
from perdure.schemas.documents import NOTEBOOK
from perdure.schemas.events import CheckpointSaved
from perdure.schemas.outbox import TRANSITIONS

FIELDS: Final = dict.fromkeys(("run", "kind", "seq", "at", "ev.nodes", "ev.next", "event", "checkpoint_id", "ns"), 1)
FENCE: Final = "f"
CHECKPOINT: Final = "c"
STARTED: Final = "started"
RUNNING: Final = "running"

Document = dict[str, Any]


class StoredStates:
    """Reads the histories of threads."""

    def __init__(self, database: Database, store: Store) -> None:
        self._notebook = database[NOTEBOOK]
        self._store = store

    async def newest(self, thread: Mapping[str, Any], limit: int, before: int | None = None) -> Document:
        """At most ``limit`` states of a thread, newest first.

        Args:
            thread: Its document; the caller knows that it is the tenant's.
            limit: How many at most.
            before: Only those with a lower sequence number.

        Returns:
            ``items``, each as search shows it but without texts, and ``before``: of the next page, or ``None``.

        Raises:
            RequestProblem: ``store-unavailable``.

        """
        query: Document = {
            "thread": thread["_id"],
            "seq": {"$gte": 0} if before is None else {"$gte": 0, "$lt": before},
        }
        find = self._notebook.find
        entries = await self._store.read(
            lambda: find(query, FIELDS).sort("seq", DESCENDING).limit(limit + 1).to_list(None)
        )
        page = entries[:limit]
        return {
            "items": [_item(thread, entry) for entry in page if entry["kind"] != FENCE],
            "before": page[-1]["seq"] if len(entries) > limit else None,
        }


def _item(thread: Mapping[str, Any], entry: Mapping[str, Any]) -> Document:
    ev = entry.get("ev") or {}
    if entry["kind"] == CHECKPOINT:
        event, status = CheckpointSaved.TYPE, RUNNING
    else:
        event = TRANSITIONS[entry["event"]].TYPE
        status = RUNNING if entry["event"] == STARTED else entry["event"]
    return {
        "thread_id": thread["_id"],
        "run_id": entry.get("run"),
        "graph": thread.get("graph_id"),
        "seq": entry["seq"],
        "event": event,
        "status": status,
        "occurred_at": entry["at"].isoformat(),
        "nodes": ev.get("nodes") or [],
        "next": ev.get("next") or [],
        "checkpoint_id": entry.get("checkpoint_id"),
        "checkpoint_ns": entry.get("ns") or None,
        "archived": None,
        "texts": [],
    }
