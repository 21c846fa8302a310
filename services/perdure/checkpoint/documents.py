"""The notebook's documents: building and reading them (ADR 3).

A checkpoint's document has the fields that others read (``kind``, ``thread``, ``run``, ``epoch``, ``seq``, ``ns``,
``step``, ``checkpoint_id``, ``parent``, ``at``, ``ev``, ``meta``) and a ``body``: versions, entries and manifests as
MessagePack, compressed above 1 KiB (``z``), sealed when the serializer encrypts (``enc`` names type and cipher). The
metadata is plain BSON, so that ``list(filter=...)`` finds it; what BSON cannot hold is kept beside it in ``meta_x``.

Contract: pure functions. ``FORMAT`` is stored in each document; a higher one is refused, never guessed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from operator import itemgetter
from typing import Any, Final, TypeAlias

from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, writes_sort_key

from perdure.chassis.clock import now
from perdure.checkpoint import keys
from perdure.checkpoint.codec import Codec, decompress, pack_body, unpack_body
from perdure.checkpoint.errors import UnknownFormat
from perdure.checkpoint.scope import RunScope
from perdure.checkpoint.values import Entry
from perdure.schemas.moments import in_milliseconds

Document: TypeAlias = dict[str, Any]

FORMAT: Final = 1
NULL_TASK: Final = "00000000-0000-0000-0000-000000000000"
"""LangGraph's task id of writes that no task made: those of a command."""
_KNOWN = frozenset({"v", "id", "ts", "channel_values", "channel_versions", "versions_seen", "updated_channels"})
_INT64 = range(-(2**63), 2**63)
_slots = count()


@dataclass(slots=True, frozen=True)
class Place:
    """Where a checkpoint stands."""

    thread: str
    ns: str
    checkpoint_id: str


@dataclass(slots=True)
class StoredCheckpoint:
    """A checkpoint's document, read."""

    place: Place
    parent: str | None
    checkpoint: Checkpoint
    """Without channel values."""
    metadata: CheckpointMetadata
    entries: dict[str, Entry]
    base: dict[str, str]
    """For each DeltaChannel without a value here: no ancestor before this checkpoint id is needed to rebuild it."""
    shown: dict[str, Entry]
    """For DeltaChannels without a value here: the value, for readers that have no graph (ADR 22)."""


@dataclass(slots=True)
class StoredWrite:
    """One pending write, not yet decoded."""

    task_id: str
    channel: str
    entry: Entry


def checkpoint_document(
    codec: Codec,
    place: Place,
    parent: str | None,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    *,
    entries: Mapping[str, Entry],
    base: Mapping[str, str],
    shown: Mapping[str, Entry] | None = None,
) -> Document:
    """The document of one checkpoint, without the fields of an owner."""
    body: Document = {
        "v": checkpoint["v"],
        "ts": checkpoint["ts"],
        "cv": checkpoint["channel_versions"],
        "vs": checkpoint["versions_seen"],
        "e": entries,
    }
    if (updated := checkpoint.get("updated_channels")) is not None:
        body["uc"] = updated
    if base:
        body["b"] = base
    if shown:
        body["s"] = shown
    if len(checkpoint) > len(_KNOWN) or not checkpoint.keys() <= _KNOWN:
        body["x"] = codec.encode({name: value for name, value in checkpoint.items() if name not in _KNOWN})
    document: Document = {
        "_id": keys.checkpoint(place.thread, place.ns, place.checkpoint_id),
        "kind": keys.CHECKPOINT,
        "f": FORMAT,
        "thread": place.thread,
        "ns": place.ns,
        "checkpoint_id": place.checkpoint_id,
        "step": metadata.get("step"),
        "at": _instant(checkpoint["ts"]),
    }
    if parent:
        document["parent"] = parent
    run = metadata.get("run_id")
    if isinstance(run, str):
        document["run"] = run
    _put_metadata(codec, document, metadata)
    _put_body(codec, document, body)
    return document


def own(document: Document, scope: RunScope, seq: int, event: Document | None) -> None:
    """Add the fields of an owner (ADR 1 and 2)."""
    document["run"] = scope.run_id
    document["epoch"] = scope.epoch
    document["seq"] = seq
    if event is not None:
        document["ev"] = event


def read_checkpoint(codec: Codec, document: Mapping[str, Any]) -> StoredCheckpoint:
    """Take a checkpoint's document apart.

    Raises:
        UnknownFormat: It was written by a newer version.

    """
    thread, ns, checkpoint_id = document["thread"], document["ns"], document["checkpoint_id"]
    if document.get("f") != FORMAT:
        raise UnknownFormat(thread, checkpoint_id, document.get("f"))
    body = _get_body(codec, document)
    checkpoint: dict[str, Any] = {
        "v": body["v"],
        "id": checkpoint_id,
        "ts": body["ts"],
        "channel_values": {},
        "channel_versions": body["cv"],
        "versions_seen": body["vs"],
        "updated_channels": body.get("uc"),
    }
    if extra := body.get("x"):
        checkpoint.update(codec.decode(*extra))
    return StoredCheckpoint(
        Place(thread, ns, checkpoint_id),
        document.get("parent"),
        checkpoint,  # type: ignore[arg-type]
        metadata_of(codec, document),
        body["e"],
        body.get("b") or {},
        body.get("s") or {},
    )


def writes_document(
    codec: Codec,
    place: Place,
    task_id: str,
    task_path: str,
    *,
    rows: Sequence[tuple[int, str, Entry]],
    scope: RunScope | None,
    shown: Mapping[str, Entry] | None = None,
) -> Document:
    """The document of one ``put_writes`` call. The slot orders a task's calls: by sequence number, then by time.

    ``shown`` is what the writes of a command made of their channels (ADR 22).
    """
    slot = f"{scope.next_seq if scope else 0:010x}{time.time_ns():016x}{next(_slots) & 0xFFFF:04x}"
    body: Document = {"w": rows, "p": task_path}
    if scope:
        body["o"] = f"{scope.run_id}:{scope.epoch}"
    if shown:
        body["s"] = shown
    document: Document = {"_id": keys.writes(place.thread, place.ns, place.checkpoint_id, task_id, slot)}
    _put_body(codec, document, body)
    return document


def written_after(key: str) -> int:
    """The sequence number that was the next one when these pending writes were stored; 0 where no run owned the thread."""
    return int(keys.parts(key)[5][:10], 16)


def is_commanded_by(codec: Codec, documents: Iterable[Mapping[str, Any]], run_ids: Iterable[str]) -> bool:
    """Whether pending writes hold what a command of one of these runs wrote, its answers to interrupts aside."""
    runs = set(run_ids)
    for document in documents:
        if keys.parts(document["_id"])[4] == NULL_TASK:
            body = _get_body(codec, document)
            if str(body.get("o", "")).rpartition(":")[0] in runs and any(row[0] >= 0 for row in body["w"]):
                return True
    return False


def merge_writes(codec: Codec, documents: Iterable[Mapping[str, Any]]) -> list[StoredWrite]:
    """The pending writes of one checkpoint, in ``writes_sort_key`` order.

    A regular write is kept once for each task and index, the first one wins; a special one (error, interrupt, resume)
    is replaced by the last. When several owners wrote for a task, the regular writes are those of the last owner: a
    late write of an owner that had lost the run changes nothing.
    """
    calls: dict[str, list[tuple[str, Document]]] = {}
    for document in documents:
        task_id, slot = keys.parts(document["_id"])[4:6]
        calls.setdefault(task_id, []).append((slot, _get_body(codec, document)))
    rows: list[tuple[tuple[str, str, int], StoredWrite]] = []
    for task_id, bodies in calls.items():
        if len(bodies) > 1:
            bodies.sort(key=itemgetter(0))
        for index, (path, channel, entry) in _winners([body for _, body in bodies]).items():
            rows.append((writes_sort_key(path, task_id, index), StoredWrite(task_id, channel, entry)))
    rows.sort(key=itemgetter(0))
    return [write for _, write in rows]


def _winners(bodies: list[Document]) -> dict[int, tuple[str, str, Entry]]:
    owner = next((body.get("o") for body in reversed(bodies) if any(row[0] >= 0 for row in body["w"])), None)
    found: dict[int, tuple[str, str, Entry]] = {}
    for body in bodies:
        for index, channel, entry in body["w"]:
            if index < 0:
                found[index] = (body["p"], channel, entry)
            elif body.get("o") == owner:
                found.setdefault(index, (body["p"], channel, entry))
    return found


def write_entries(codec: Codec, document: Mapping[str, Any]) -> list[Entry]:
    """All entries that a writes document holds, whether they count or not."""
    body = _get_body(codec, document)
    return [*(row[2] for row in body["w"]), *(body.get("s") or {}).values()]


def shown_after_writes(codec: Codec, documents: Iterable[Mapping[str, Any]]) -> dict[str, Entry]:
    """What pending writes that no task made (``command.update``) made of their channels; the last call counts."""
    calls: dict[str, Mapping[str, Any]] = {}
    for document in documents:
        task_id, slot = keys.parts(document["_id"])[4:6]
        if task_id == NULL_TASK:
            calls[slot] = document
    shown: dict[str, Entry] = {}
    for slot in sorted(calls):
        shown |= _get_body(codec, calls[slot]).get("s") or {}
    return shown


def task_paths(codec: Codec, documents: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The path of each task that left pending writes, as LangGraph's ``task_path_str`` writes it, by task id."""
    return {keys.parts(document["_id"])[4]: _get_body(codec, document)["p"] for document in documents}


def writers(codec: Codec, documents: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """By task id, the run for which the writes of the task count; ``None`` where no run owned the thread."""
    calls: dict[str, list[tuple[str, Document]]] = {}
    for document in documents:
        task_id, slot = keys.parts(document["_id"])[4:6]
        calls.setdefault(task_id, []).append((slot, _get_body(codec, document)))
    found: dict[str, str | None] = {}
    for task_id, bodies in calls.items():
        bodies.sort(key=itemgetter(0))
        wrote = [body for _, body in bodies if any(row[0] >= 0 for row in body["w"])] or [body for _, body in bodies]
        owner = wrote[-1].get("o")
        found[task_id] = owner.rpartition(":")[0] if isinstance(owner, str) else None
    return found


def named_entries(codec: Codec, document: Mapping[str, Any]) -> list[Entry]:
    """All entries that a checkpoint's document holds, shown ones too."""
    body = _get_body(codec, document)
    return [*body["e"].values(), *(body.get("s") or {}).values()]


def checkpoint_entries_by_name(codec: Codec, document: Mapping[str, Any]) -> dict[str, Entry]:
    """The entries of a checkpoint's document by channel."""
    entries: dict[str, Entry] = _get_body(codec, document)["e"]
    return entries


def segment_document(thread: str, digest: bytes, typ: str, sealed: bytes, *, compressed: bool) -> Document:
    """The document of one segment."""
    document: Document = {"_id": keys.segment(thread, digest), "d": sealed}
    if typ != "msgpack":
        document["k"] = typ
    if compressed:
        document["z"] = True
    return document


def fence_document(thread: str, run: str, epoch: int, seq: int) -> Document:
    """A fence (ADR 1)."""
    return {
        "_id": keys.fence(thread, seq),
        "kind": keys.FENCE,
        "thread": thread,
        "run": run,
        "epoch": epoch,
        "seq": seq,
        "at": now(),
    }


def metadata_of(codec: Codec, document: Mapping[str, Any]) -> CheckpointMetadata:
    """The metadata of a checkpoint's document."""
    if sealed := document.get("meta_x"):
        plain: CheckpointMetadata = codec.decode(*codec.open(*sealed))
        return plain
    found: CheckpointMetadata = document["meta"]
    return found


def _put_metadata(codec: Codec, document: Document, metadata: CheckpointMetadata) -> None:
    if _is_plain(metadata):
        document["meta"] = metadata
        return
    document["meta"] = {name: value for name, value in metadata.items() if _is_plain(value) and _is_plain_name(name)}
    document["meta_x"] = list(codec.seal(*codec.encode(dict(metadata))))


def _is_plain(value: Any) -> bool:
    """Whether BSON gives back the same value (a tuple comes back as a list, as it does from MessagePack)."""
    kind = type(value)
    if kind is int:
        return value in _INT64
    if kind is dict:
        return all(map(_is_plain_name, value)) and all(map(_is_plain, value.values()))
    if kind is list or kind is tuple:
        return all(map(_is_plain, value))
    return kind in {str, bool, float, type(None)}


def _is_plain_name(name: Any) -> bool:
    return type(name) is str and "\0" not in name and "." not in name and not name.startswith("$")


def _put_body(codec: Codec, document: Document, body: Document) -> None:
    packed = pack_body(body)
    if codec.encrypts:
        document["enc"], document["body"] = codec.seal("body", packed)
        return
    document["body"], compressed = codec.compress(packed)
    if compressed:
        document["z"] = True


def _get_body(codec: Codec, document: Mapping[str, Any]) -> Document:
    data: bytes = document["body"]
    if document.get("z"):
        data = decompress(data)
    if sealed_type := document.get("enc"):
        _, data = codec.open(sealed_type, data)
    body: Document = unpack_body(data)
    return body


def _instant(ts: str) -> datetime:
    """When a checkpoint was made, as the database gives it back; LangGraph's ``ts`` has microseconds."""
    try:
        found = datetime.fromisoformat(ts)
    except ValueError:
        return now()
    return in_milliseconds(found)
