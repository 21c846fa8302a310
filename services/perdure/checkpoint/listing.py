"""Listing checkpoints, newest first.

Contract: as ``BaseCheckpointSaver.alist`` says: ``filter`` compares the values of metadata keys for equality (nested
values whole), ``before`` is exclusive, order is by checkpoint id from the newest. Pages are read as they are
consumed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from perdure.chassis import at_rest
from perdure.checkpoint import documents, keys
from perdure.checkpoint.codec import Codec
from perdure.checkpoint.documents import Document
from perdure.checkpoint.notebook import Notebook
from perdure.checkpoint.places import place_of
from perdure.checkpoint.store import Found

PAGE: Final = 32


async def list_tuples(
    notebook: Notebook,
    codec: Codec,
    config: RunnableConfig | None,
    *,
    filter: Mapping[str, Any] | None = None,
    before: RunnableConfig | None = None,
    limit: int | None = None,
) -> AsyncIterator[CheckpointTuple]:
    """Matching checkpoints with their pending writes, newest first."""
    below = before["configurable"].get("checkpoint_id") if before else None
    left = limit
    if left is not None and left <= 0:
        return
    async for found in _candidates(notebook, config, filter or {}, below, left):
        metadata = documents.metadata_of(codec, found.document)
        if filter and any(metadata.get(name) != wanted for name, wanted in filter.items()):
            continue
        yield await notebook.assemble(codec, found, None, remember=False)
        if left is not None:
            left -= 1
            if left <= 0:
                return


async def _candidates(
    notebook: Notebook, config: RunnableConfig | None, filter: Mapping[str, Any], below: str | None, limit: int | None
) -> AsyncIterator[Found]:
    conf = config["configurable"] if config else {}
    if config and (checkpoint_id := conf.get("checkpoint_id")) and "checkpoint_ns" in conf:
        found = await notebook.store.exact(place_of(config, checkpoint_id))
        if found is not None and (below is None or checkpoint_id < below):
            yield found
        return
    match = _pushed_down(filter)
    if config and "checkpoint_ns" in conf:
        thread = keys.checked("thread id", conf["thread_id"])
        ns = keys.checked("checkpoint namespace", conf["checkpoint_ns"], empty=True)
        size = PAGE if limit is None or filter else min(limit, PAGE)
        pages = notebook.store.pages(lambda start: keys.checkpoints(thread, ns, before=start or below), match, size)
        async for page in pages:
            for found in await _with_writes(notebook, thread, ns, page):
                yield found
        return
    async for found in _everywhere(notebook, conf, match, below):
        yield found


async def _everywhere(
    notebook: Notebook, conf: Mapping[str, Any], match: Mapping[str, Any], below: str | None
) -> AsyncIterator[Found]:
    """All namespaces of a thread, or all threads: the ids first, then each checkpoint as it is asked for."""
    query: dict[str, Any] = {"kind": keys.CHECKPOINT, **match}
    if "thread_id" in conf:
        query |= keys.query(keys.of_kind(keys.checked("thread id", conf["thread_id"]), keys.CHECKPOINT))
    heads = await notebook.store.find(query, {"checkpoint_id": 1, "thread": 1, "ns": 1})
    heads.sort(key=lambda head: head["checkpoint_id"], reverse=True)
    for head in heads:
        if below is not None and head["checkpoint_id"] >= below:
            continue
        if conf.get("checkpoint_id") and head["checkpoint_id"] != conf["checkpoint_id"]:
            continue
        found = await notebook.store.exact(documents.Place(head["thread"], head["ns"], head["checkpoint_id"]))
        if found is not None:
            yield found


async def _with_writes(notebook: Notebook, thread: str, ns: str, page: list[Document]) -> list[Found]:
    found = {document["checkpoint_id"]: Found(document) for document in page}
    bounds = keys.writes_between(thread, ns, min(found), max(found))
    for document in await notebook.store.find(keys.query(bounds)):
        checkpoint_id = keys.parts(document["_id"])[3]
        if checkpoint_id in found:
            found[checkpoint_id].writes.append(document)
    return list(found.values())


def _pushed_down(filter: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a filter that the database can apply exactly; all of it is checked again here."""
    encrypted = at_rest.keys() is not None
    return {
        f"meta.{name}": wanted
        for name, wanted in filter.items()
        if type(wanted) in {str, int}
        and (not encrypted or name in at_rest.PUBLIC_METADATA)
        and name
        and not name.startswith("$")
        and "." not in name
        and "\0" not in name
    }
