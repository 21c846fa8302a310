"""Results of a batch as lines of JSON, also while it runs (ADR 14).

Contract: one line an item, in the order of the items, as they stand when their part is read. Memory holds a few states at once. A
state that cannot be read is a line that says so, not the end of the download.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import orjson

from perdure.chassis.mongo import Database
from perdure.checkpoint.errors import NotebookError
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.responses import as_json
from perdure.gateway.resources.batches.store import BatchStore
from perdure.gateway.resources.batches.views import result_view
from perdure.gateway.resources.named import require_here
from perdure.gateway.resources.states import States
from perdure.gateway.stores.store import Store
from perdure.registry.batches import thread_id_of
from perdure.schemas.batch_documents import ItemStatus
from perdure.schemas.documents import THREADS

AT_ONCE: Final = 32
"""States in memory."""
WINDOW: Final = 1_000
WITH_VALUES: Final = frozenset({ItemStatus.SUCCEEDED.value, ItemStatus.INTERRUPTED.value})

Document = dict[str, Any]


class Results:
    """Reads results. Belongs to one event loop."""

    def __init__(self, database: Database, store: Store, states: States, batches: BatchStore) -> None:
        self._threads = database[THREADS]
        self._store = store
        self._states = states
        self._batches = batches

    async def lines(
        self, batch: Mapping[str, Any], statuses: Sequence[str], after: int, *, values: bool
    ) -> AsyncIterator[bytes]:
        """Some lines at once, all in these statuses, from the item after number ``after`` on."""
        async for part in self._batches.windows(batch, statuses, after, WINDOW):
            for start in range(0, len(part), AT_ONCE):
                items = part[start : start + AT_ONCE]
                threads = await self._threads_of(batch, items) if values else {}
                found = await asyncio.gather(*(self._line(batch, item, threads) for item in items))
                yield b"".join(found)

    async def _threads_of(self, batch: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> dict[str, Document]:
        """The threads of those items that have values: their newest checkpoints, and whether they are archived."""
        ids = [thread_id_of(batch, item["number"]) for item in items if item["status"] in WITH_VALUES]
        query = {"_id": {"$in": ids}}
        fields = {"head": 1, "archive.state": 1, "archive.at": 1}
        found = await self._store.read(lambda: self._threads.find(query, fields).to_list(None))
        return {thread["_id"]: thread for thread in found if thread.get("head")}

    async def _line(self, batch: Mapping[str, Any], item: Mapping[str, Any], threads: Mapping[str, Document]) -> bytes:
        shown = result_view(batch, item)
        thread = threads.get(shown["thread_id"])
        if thread is not None:
            try:
                require_here(thread)
            except RequestProblem as problem:
                shown["unreadable"] = str(problem)
                return as_json(shown, orjson.OPT_APPEND_NEWLINE)
            try:
                state = await self._store.patiently(self._states.at(shown["thread_id"], thread["head"]))
                shown["values"] = state["values"] if state else None
            except NotebookError as error:
                shown["unreadable"] = str(error)
        return as_json(shown, orjson.OPT_APPEND_NEWLINE)
