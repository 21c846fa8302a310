"""Deleting, copying and pruning threads.

Contract: every operation can be repeated after a crash and then finishes its work: what names others goes first when
deleting and last when copying, so nothing ever names a segment that is not there. A run may save checkpoints of the
thread while it is pruned (not a run of the services: its checkpoints hold events that are not published yet); none of
the others may run on a thread that is being executed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from perdure.chassis.group_commit import WriteRefused
from perdure.checkpoint import documents, keys, sweep
from perdure.checkpoint.codec import Codec
from perdure.checkpoint.documents import Document, Place
from perdure.checkpoint.errors import StoreRefused
from perdure.checkpoint.notebook import Notebook

CHUNK: Final = 200
_OF_OWNER: Final = ("seq", "epoch", "ev")
_HEAD_FIELDS: Final = {
    "checkpoint_id": 1,
    "thread": 1,
    "ns": 1,
    "parent": 1,
    "meta.parents": 1,
    "meta_x": 1,
    "undone": 1,
    "seq": 1,
}
BeforePruning: TypeAlias = Callable[[str, Sequence[int]], Awaitable[None]]
"""``before(thread_id, numbers)``: the checkpoints with these sequence numbers are about to be deleted."""


async def delete_thread(notebook: Notebook, thread_id: str) -> None:
    """Delete everything of a thread."""
    thread = keys.checked("thread id", thread_id)
    notebook.pages.drop(thread)
    await notebook.store.delete(keys.query(keys.of_kind(thread, keys.CHECKPOINT)))
    await notebook.store.delete(keys.query(keys.everything(thread)))


async def delete_for_runs(
    notebook: Notebook, codec: Codec, run_ids: Sequence[str], thread_ids: Sequence[str] | None = None
) -> None:
    """Delete the checkpoints and writes of runs. Without ``thread_ids`` the whole collection is searched.

    Raises:
        TypeError: ``run_ids`` or ``thread_ids`` is one string.

    """
    wanted = _listed("run_ids", run_ids)
    threads = None if thread_ids is None else _listed("thread_ids", thread_ids)
    if not wanted:
        return
    query: dict[str, Any] = {
        "kind": keys.CHECKPOINT,
        "$or": [{"run": {"$in": wanted}}, {"meta.run_id": {"$in": wanted}}],
    }
    scopes: list[dict[str, Any]] = [{}]
    if threads is not None:
        scopes = [keys.query(keys.of_kind(keys.checked("thread id", one), keys.CHECKPOINT)) for one in threads]
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


async def prune(
    notebook: Notebook,
    codec: Codec,
    thread_ids: Sequence[str],
    strategy: str,
    before: BeforePruning | None = None,
) -> None:
    """Prune threads.

    ``before`` is called for each thread of which ``keep_latest`` deletes checkpoints with sequence numbers, before it does.

    ``keep_latest`` keeps the newest checkpoint of each namespace and what its DeltaChannels need, except of subgraph
    calls that are over; ``delete`` keeps nothing.

    Raises:
        TypeError: ``thread_ids`` is one string.
        ValueError: Unknown strategy.

    """
    wanted = _listed("thread_ids", thread_ids)
    if strategy not in {"keep_latest", "delete"}:
        raise ValueError(f"unknown prune strategy {strategy!r}: use 'keep_latest' or 'delete'")
    for thread_id in wanted:
        if strategy == "delete":
            await delete_thread(notebook, thread_id)
        else:
            await _keep_latest(notebook, codec, keys.checked("thread id", thread_id), before)


async def _keep_latest(notebook: Notebook, codec: Codec, thread: str, before: BeforePruning | None) -> None:
    heads = await notebook.store.find(keys.query(keys.of_kind(thread, keys.CHECKPOINT)), _HEAD_FIELDS)
    by_namespace: dict[str, dict[str, Document]] = {}
    for head in heads:
        if head.get("undone"):
            continue
        by_namespace.setdefault(head["ns"], {})[head["checkpoint_id"]] = head
    doomed: list[Document] = [head for head in heads if head.get("undone")]
    orphaned: list[str] = []
    for ns, known in by_namespace.items():
        newest = max(known)
        if _is_over(codec, known[newest], by_namespace.get("", {})):
            doomed.extend(known.values())
            continue
        kept = await _needed(notebook, codec, Place(thread, ns, newest), known)
        doomed.extend(head for checkpoint_id, head in known.items() if checkpoint_id not in kept)
        orphaned.extend(known[one]["_id"] for one in kept if known[one].get("parent") in known.keys() - kept)
    numbered = sorted(head["seq"] for head in doomed if "seq" in head)
    if before is not None and numbered:
        await before(thread, numbered)
    if orphaned:
        await notebook.store.change({"_id": {"$in": orphaned}}, {"$unset": {"parent": ""}})
    if doomed:
        await _drop(notebook, codec, thread, doomed)


def _is_over(codec: Codec, head: Document, roots: Mapping[str, Document]) -> bool:
    """Whether ``head`` is of a subgraph call that started from a root checkpoint which is not the newest.

    A call's namespace has its task's id behind a colon; that of a ``checkpointer=True`` subgraph has none and outlives
    the calls. A call whose root checkpoint is not stored yet is running.
    """
    if ":" not in head["ns"]:
        return False
    root = (documents.metadata_of(codec, head).get("parents") or {}).get("")
    return root in roots and root != max(roots)


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
    freed: set[bytes] = set()
    for part in _chunks(heads):
        checkpoints = {"_id": {"$in": [head["_id"] for head in part]}}
        writes = {"$or": [keys.query(keys.writes_of(thread, head["ns"], head["checkpoint_id"])) for head in part]}
        freed |= await sweep.named(notebook, codec, checkpoints, writes)
        await notebook.store.delete(checkpoints)
        await notebook.store.delete(writes)
    hints = [keys.head(thread, ns) for ns in {head["ns"] for head in heads}]
    await notebook.store.delete({"_id": {"$in": hints}})
    await sweep.sweep_segments(notebook, codec, thread, freed)
    notebook.pages.drop(thread)


def _listed(name: str, ids: Sequence[str]) -> list[str]:
    """``ids`` as a list.

    Raises:
        TypeError: They are one string, which is a sequence of its characters.

    """
    if isinstance(ids, str | bytes):
        raise TypeError(f"{name} must be a list of ids: pass [{ids!r}] for one, not {ids!r}")
    return list(ids)


def _copied(document: Document, target: str) -> Document:
    source, _, rest = document["_id"].partition(keys.SEPARATOR)
    copy = {name: value for name, value in document.items() if name not in _OF_OWNER}
    copy["_id"] = f"{target}{keys.SEPARATOR}{rest}"
    if copy.get("thread") == source:
        copy["thread"] = target
    return copy


def _chunks(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
