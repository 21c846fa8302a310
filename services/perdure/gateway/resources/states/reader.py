"""Threads' states, read from the notebook and shown in the Agent Server's shape.

Contract: reads only, as plain data (``perdure.checkpoint.plain``); internal channels are hidden. ``next`` is what the
executor recorded with the checkpoint (in the newest state less the tasks whose writes are there already); for a
checkpoint that was stored by another LangGraph program it is worked out from the channel versions. ``values`` are those
of LangGraph's ``get_state`` at the checkpoint, with what a command updated there and with the values of DeltaChannels, as the
worker stored them (ADR 22): the writes of tasks that ended before the others of their superstep show with the next checkpoint.

Outside: what only a reducer could tell of threads that another LangGraph program wrote. The gateway imports no user code, so
their DeltaChannels without a value in the checkpoint are left out of ``values``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Final

from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability
from perdure.checkpoint import documents, keys
from perdure.checkpoint.documents import Place
from perdure.checkpoint.plain import plain_serializer, visible_values
from perdure.checkpoint.saver import PerdureSaver
from perdure.checkpoint.store import Found
from perdure.gateway.http.responses import as_json
from perdure.gateway.stores.tasks import Task, task_view, tasks_of
from perdure.gateway.stores.waits import wait_views

Document = dict[str, Any]

PAGE: Final = 32
LARGE_TOGETHER: Final = 4
"""Large states that are in memory at once."""
LARGE_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 8
"""Subgraphs within subgraphs that are shown at most."""


class States:
    """Reads states. Belongs to the event loop that uses it first."""

    def __init__(self, database: Database, availability: Availability) -> None:
        self._saver = PerdureSaver(database, serde=plain_serializer(), availability=availability)
        self._notebook = self._saver.notebook
        self._notebook.store.share_segment_reads()

    async def newest(
        self, thread_id: str, ns: str = "", *, floor: str | None = None, subgraphs: bool = False
    ) -> Document | None:
        """The newest state of a namespace; ``floor`` is a checkpoint id that it is not below, if known."""
        found = await self._notebook.store.newest(thread_id, ns, floor)
        return None if found is None else await self._view(found, MAX_DEPTH if subgraphs else 0, newest=True)

    async def newest_of(self, floors: Mapping[str, str | None]) -> dict[str, Document]:
        """The newest root state of each thread that has one, in shared queries; ``floors`` by thread, as for :meth:`newest`."""
        newest = await self._notebook.store.newest_ids("", floors)
        views = await asyncio.gather(*(self._newest_at(thread, newest[thread]) for thread in newest))
        return {thread: view for thread, view in zip(newest, views, strict=True) if view is not None}

    async def at(self, thread_id: str, checkpoint_id: str, ns: str = "", *, subgraphs: bool = False) -> Document | None:
        """The state at one checkpoint."""
        found = await self._notebook.store.exact(Place(thread_id, ns, checkpoint_id))
        return None if found is None else await self._view(found, MAX_DEPTH if subgraphs else 0)

    async def copy(self, source: str, target: str) -> None:
        """Copy all checkpoints of a thread that no run is active on; what is left of a copy that fails is deleted."""
        try:
            await self._saver.acopy_thread(source, target)
        except BaseException:
            await asyncio.shield(self._saver.adelete_thread(target))
            raise

    async def exists(self, thread_id: str, checkpoint_id: str, ns: str = "") -> bool:
        """Whether the thread has this checkpoint."""
        return await self._notebook.store.exact(Place(thread_id, ns, checkpoint_id)) is not None

    async def history(
        self,
        thread_id: str,
        ns: str = "",
        *,
        limit: int,
        before: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[bytes]:
        """At most ``limit`` states as JSON, newest first, older than the checkpoint ``before``, with this metadata.

        States are read a few at a time, large ones fewer: what is in memory does not grow with the limit.
        """
        size = PAGE if metadata else min(limit, PAGE)
        together, left = LARGE_TOGETHER, limit
        portion: list[Found] = []
        async for found in self._pages(thread_id, ns, before, size):
            stored = documents.metadata_of(self._saver.codec, found.document) if metadata else {}
            if metadata and any(stored.get(name) != wanted for name, wanted in metadata.items()):
                continue
            portion.append(found)
            if len(portion) < min(together, left):
                continue
            largest = 0
            async for shown in self._shown(portion):
                largest = max(largest, len(shown))
                yield shown
            left -= len(portion)
            portion, together = [], LARGE_TOGETHER if largest > LARGE_BYTES else PAGE
            if not left:
                return
        async for shown in self._shown(portion):
            yield shown

    async def _shown(self, portion: Sequence[Found]) -> AsyncIterator[bytes]:
        """States as JSON; their segments are fetched together."""
        for view in await asyncio.gather(*(self._view(found, 0) for found in portion)):
            yield as_json(view)

    async def _newest_at(self, thread_id: str, checkpoint_id: str) -> Document | None:
        found = await self._notebook.store.exact(Place(thread_id, "", checkpoint_id))
        return None if found is None else await self._view(found, 0, newest=True)

    async def _pages(self, thread_id: str, ns: str, before: str | None, size: int) -> AsyncIterator[Found]:
        store = self._notebook.store
        pages = store.pages(lambda start: keys.checkpoints(thread_id, ns, before=start or before), {}, size)
        async for page in pages:
            ids = [document["checkpoint_id"] for document in page]
            by_id = {document["checkpoint_id"]: Found(document) for document in page}
            bounds = keys.writes_between(thread_id, ns, min(ids), max(ids))
            for document in await store.find(keys.query(bounds)):
                if (owner := by_id.get(keys.parts(document["_id"])[3])) is not None:
                    owner.writes.append(document)
            for found in by_id.values():
                yield found

    async def _view(self, found: Found, depth: int, *, newest: bool = False) -> Document:
        codec = self._saver.codec
        stored = await self._notebook.assemble(codec, found, None, remember=False, shown=True)
        paths = documents.task_paths(codec, found.writes)
        tasks = tasks_of(found.document, stored, paths)
        thread_id, ns = found.document["thread"], found.document["ns"]
        shown = [task_view(task) for task in tasks]
        if depth:
            for task, view in zip(tasks, shown, strict=True):
                await self._add_substate(thread_id, ns, task, view, depth - 1)
        return {
            "values": visible_values(stored.checkpoint["channel_values"]),
            "next": [task.name for task in tasks if not (newest and task.done)],
            "tasks": shown,
            "checkpoint": _checkpoint(thread_id, ns, found.document["checkpoint_id"]),
            "metadata": stored.metadata,
            "created_at": stored.checkpoint["ts"],
            "parent_checkpoint": _checkpoint(thread_id, ns, parent)
            if (parent := found.document.get("parent"))
            else None,
            "interrupts": [one for view in shown for one in view["interrupts"]],
            "waits": [one for task in tasks for one in wait_views(thread_id, task.name, task.interrupts or ())],
        }

    async def _add_substate(self, thread_id: str, ns: str, task: Task, view: Document, depth: int) -> None:
        inner = f"{ns}|{task.name}:{task.id}" if ns else f"{task.name}:{task.id}"
        found = await self._notebook.store.newest(thread_id, inner)
        if found is not None:
            view["checkpoint"] = _checkpoint(thread_id, inner, found.document["checkpoint_id"])
            view["state"] = await self._view(found, depth, newest=True)


def _checkpoint(thread_id: str, ns: str, checkpoint_id: str) -> Document:
    return {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
