"""The writes that a DeltaChannel is rebuilt from.

Contract: as ``BaseCheckpointSaver.get_delta_channel_history`` says, with two range reads instead of one read for each
ancestor. Each checkpoint stores, for each DeltaChannel without a value, the id below which no ancestor is needed; it
bounds the ranges.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import DeltaChannelHistory

from perdure.checkpoint import documents, keys, values
from perdure.checkpoint.codec import Codec
from perdure.checkpoint.documents import Document, StoredCheckpoint, StoredWrite
from perdure.checkpoint.notebook import Notebook
from perdure.checkpoint.pages import Page
from perdure.checkpoint.scope import scope_of
from perdure.checkpoint.store import Found

PAGE: Final = 128
"""Ancestors read at once where the bound is not known."""


class _Walk:
    """Collects, from the newest ancestor to the oldest, what each channel needs."""

    def __init__(self, channels: Sequence[str]) -> None:
        self.remaining = set(channels)
        self.writes: dict[str, list[StoredWrite]] = {name: [] for name in channels}
        self.seeds: dict[str, values.Entry] = {}

    def visit(self, stored: StoredCheckpoint, writes: list[StoredWrite]) -> None:
        for write in reversed(writes):
            if write.channel in self.remaining:
                self.writes[write.channel].append(write)
        for name in [name for name in self.remaining if name in stored.entries]:
            self.seeds[name] = stored.entries[name]
            self.remaining.discard(name)

    def entries(self) -> list[values.Entry]:
        return [write.entry for found in self.writes.values() for write in found] + list(self.seeds.values())


async def delta_history(
    notebook: Notebook, codec: Codec, config: RunnableConfig, channels: Sequence[str]
) -> Mapping[str, DeltaChannelHistory]:
    """Writes, oldest first, and seed of each channel, along the parents of the checkpoint that ``config`` names."""
    if not channels:
        return {}
    walk = _Walk(channels)
    found = await notebook.locate(config)
    if found is not None:
        target = documents.read_checkpoint(codec, found.document)
        await _climb(notebook, codec, target, walk)
    thread = str(config["configurable"]["thread_id"])
    digests = [one for entry in walk.entries() for one in values.digests_of(entry)]
    segments = await notebook.store.segments(codec, thread, digests) if digests else {}

    def value(entry: values.Entry) -> Any:
        return values.decode(codec, entry, segments)[0]

    page = _loaded_page(notebook, config, found)
    result: dict[str, DeltaChannelHistory] = {}
    for name in channels:
        rows = [(write.task_id, name, value(write.entry)) for write in reversed(walk.writes[name])]
        result[name] = {"writes": rows}
        if name in walk.seeds:
            result[name]["seed"], encoded = values.decode(codec, walk.seeds[name], segments, shallow=True)
            if page is not None:
                page.seeds[name] = encoded
    return result


def _loaded_page(notebook: Notebook, config: RunnableConfig, found: Found | None) -> Page | None:
    """What is remembered of the checkpoint that a run loaded, if this is about it."""
    scope = scope_of(config)
    if scope is None or found is None:
        return None
    page = notebook.pages.of(scope.thread_id, scope).namespaces.get(found.document["ns"])
    return page if page is not None and page.checkpoint_id == found.document["checkpoint_id"] else None


async def _climb(notebook: Notebook, codec: Codec, target: StoredCheckpoint, walk: _Walk) -> None:
    cursor = target.parent
    known = [target.base.get(name) for name in walk.remaining]
    bases = [base for base in known if base is not None]
    floor = min(bases) if len(bases) == len(known) else None
    async for ancestors, writes in _generations(notebook, target, floor):
        while cursor is not None and walk.remaining and cursor in ancestors:
            stored = documents.read_checkpoint(codec, ancestors[cursor])
            walk.visit(stored, documents.merge_writes(codec, writes.get(cursor, ())))
            cursor = stored.parent
        if cursor is None or not walk.remaining:
            return


async def _generations(
    notebook: Notebook, target: StoredCheckpoint, floor: str | None
) -> AsyncIterator[tuple[dict[str, Document], dict[str, list[Document]]]]:
    """Ancestors (and others of their namespace) by id with their writes: all down to ``floor``, or page by page."""
    place = target.place
    before = place.checkpoint_id
    while True:
        bounds = keys.checkpoints(place.thread, place.ns, first=floor or "", before=before)
        page = await notebook.store.find(keys.query(bounds), newest=0 if floor is not None else PAGE)
        if not page:
            return
        ids = [document["checkpoint_id"] for document in page]
        first, last = min(ids), max(ids)
        writes: dict[str, list[Document]] = {}
        for document in await notebook.store.find(keys.query(keys.writes_between(place.thread, place.ns, first, last))):
            writes.setdefault(keys.parts(document["_id"])[3], []).append(document)
        yield dict(zip(ids, page, strict=True)), writes
        if floor is not None or len(page) < PAGE:
            return
        before = first
