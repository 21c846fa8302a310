"""Deleting, copying and pruning threads.

Contract: every operation can be repeated after a crash and then finishes its work: what names others goes first when
deleting and last when copying, so nothing ever names a segment that is not there. None of them may run on a thread
that is being executed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from perdure.chassis.group_commit import WriteRefused
from perdure.checkpoint import documents, keys, values
from perdure.checkpoint.codec import Codec
from perdure.checkpoint.documents import Document, Place
from perdure.checkpoint.errors import StoreRefused
from perdure.checkpoint.notebook import Notebook

CHUNK: Final = 200
_OF_OWNER: Final = ("seq", "epoch", "ev")
_HEAD_FIELDS: Final = {"checkpoint_id": 1, "thread": 1, "ns": 1, "parent": 1}


async def delete_thread(notebook: Notebook, thread_id: str) -> None:
    """Delete everything of a thread."""
    thread = keys.checked("thread id", thread_id)
    notebook.pages.drop(thread)
    await notebook.store.delete(keys.query(keys.of_kind(thread, keys.CHECKPOINT)))
    await notebook.store.delete(keys.query(keys.everything(thread)))


async def delete_for_runs(
    notebook: Notebook, codec: Codec, run_ids: Sequence[str], thread_ids: Sequence[str] | None = None
) -> None:
    """Delete the checkpoints and writes of runs. Without ``thread_ids`` the whole collection is searched."""
    wanted = list(run_ids)
    if not wanted:
        return
    query: dict[str, Any] = {
        "kind": keys.CHECKPOINT,
        "$or": [{"run": {"$in": wanted}}, {"meta.run_id": {"$in": wanted}}],
    }
    scopes: list[dict[str, Any]] = [{}]
    if thread_ids is not None:
        scopes = [keys.query(keys.of_kind(keys.checked("thread id", one), keys.CHECKPOINT)) for one in thread_ids]
    for scope in scopes:
        found = await notebook.store.find(query | scope, _HEAD_FIELDS)
        for thread in {document["thread"] for document in found}:
            await _drop(notebook, codec, thread, [document for document in found if document["thread"] == thread])


async def copy_thread(notebook: Notebook, source_id: str, target_id: str) -> None:
    """Copy checkpoints, writes and segments. The copies take no place in a sequence: they are no events.

    Raises:
        StoreRefused: The target holds another checkpoint of the same id.

    """
    source, target = keys.checked("thread id", source_id), keys.checked("thread id", target_id)
    notebook.pages.drop(target)
    for kind in (keys.SEGMENT, keys.WRITES, keys.CHECKPOINT, keys.HEAD):
        low, high = keys.of_kind(source, kind)
        while True:
            page = (
                await notebook.store.collection.find(keys.query((low, high))).sort("_id", 1).limit(CHUNK).to_list(None)
            )
            if not page:
                break
            low = page[-1]["_id"] + "\0"
            copies = [_copied(document, target) for document in page]
            nbytes = sum(len(copy.get("d", b"")) + len(copy.get("body", b"")) + 512 for copy in copies)
            try:
                await notebook.commit.write(target, inserts=copies, nbytes=nbytes)
            except WriteRefused as error:
                raise StoreRefused(target, str(error)) from error


async def prune(notebook: Notebook, codec: Codec, thread_ids: Sequence[str], strategy: str) -> None:
    """Prune threads.

    ``keep_latest`` keeps the newest checkpoint of each namespace and what its DeltaChannels need, ``delete`` nothing.

    Raises:
        ValueError: Unknown strategy.

    """
    if strategy not in {"keep_latest", "delete"}:
        raise ValueError(f"unknown prune strategy {strategy!r}: use 'keep_latest' or 'delete'")
    for thread_id in thread_ids:
        if strategy == "delete":
            await delete_thread(notebook, thread_id)
        else:
            await _keep_latest(notebook, codec, keys.checked("thread id", thread_id))


async def _keep_latest(notebook: Notebook, codec: Codec, thread: str) -> None:
    heads = await notebook.store.find(keys.query(keys.of_kind(thread, keys.CHECKPOINT)), _HEAD_FIELDS)
    by_namespace: dict[str, dict[str, Document]] = {}
    for head in heads:
        by_namespace.setdefault(head["ns"], {})[head["checkpoint_id"]] = head
    doomed: list[Document] = []
    for ns, known in by_namespace.items():
        kept = await _needed(notebook, codec, Place(thread, ns, max(known)), known)
        doomed.extend(head for checkpoint_id, head in known.items() if checkpoint_id not in kept)
    if doomed:
        await _drop(notebook, codec, thread, doomed)


async def _needed(notebook: Notebook, codec: Codec, newest: Place, known: Mapping[str, Document]) -> set[str]:
    """The newest checkpoint and the ancestors that its DeltaChannels are rebuilt from."""
    kept = {newest.checkpoint_id}
    found = await notebook.store.exact(newest)
    if found is None:
        return kept
    stored = documents.read_checkpoint(codec, found.document)
    wanted = {name for name in stored.metadata.get("counters_since_delta_snapshot") or {} if name not in stored.entries}
    cursor = stored.parent
    while wanted and cursor is not None and cursor in known:
        kept.add(cursor)
        ancestor = await notebook.store.exact(Place(newest.thread, newest.ns, cursor))
        if ancestor is None:
            break
        entries = documents.checkpoint_entries_by_name(codec, ancestor.document)
        wanted -= entries.keys()
        cursor = known[cursor].get("parent")
    return kept


async def _drop(notebook: Notebook, codec: Codec, thread: str, heads: Sequence[Document]) -> None:
    """Delete checkpoints with their writes, then the segments that nothing names any more."""
    notebook.pages.drop(thread)
    for part in _chunks(heads):
        await notebook.store.delete({"_id": {"$in": [head["_id"] for head in part]}})
        ranges = [keys.query(keys.writes_of(thread, head["ns"], head["checkpoint_id"])) for head in part]
        await notebook.store.delete({"$or": ranges})
    hints = [keys.head(thread, ns) for ns in {head["ns"] for head in heads}]
    await notebook.store.delete({"_id": {"$in": hints}})
    await _sweep_segments(notebook, codec, thread)


async def _sweep_segments(notebook: Notebook, codec: Codec, thread: str) -> None:
    named: set[bytes] = set()
    for document in await notebook.store.find(
        keys.query(keys.of_kind(thread, keys.CHECKPOINT)), {"body": 1, "z": 1, "enc": 1}
    ):
        named.update(_digests(documents.named_entries(codec, document)))
    for document in await notebook.store.find(keys.query(keys.of_kind(thread, keys.WRITES))):
        named.update(_digests(documents.write_entries(codec, document)))
    kept = {keys.segment(thread, one) for one in named}
    held = await notebook.store.find(keys.query(keys.of_kind(thread, keys.SEGMENT)), {"_id": 1})
    for part in _chunks([document["_id"] for document in held if document["_id"] not in kept]):
        await notebook.store.delete({"_id": {"$in": list(part)}})


def _digests(entries: Iterable[values.Entry]) -> Iterable[bytes]:
    return (one for entry in entries for one in values.digests_of(entry))


def _copied(document: Document, target: str) -> Document:
    source, _, rest = document["_id"].partition(keys.SEPARATOR)
    copy = {name: value for name, value in document.items() if name not in _OF_OWNER}
    copy["_id"] = f"{target}{keys.SEPARATOR}{rest}"
    if copy.get("thread") == source:
        copy["thread"] = target
    return copy


def _chunks(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
