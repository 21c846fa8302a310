"""Pure decisions: what of an event is indexed, and which of a batch is the newest of its thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

from perdure.indexer.redaction import Redaction
from perdure.schemas.events import (
    NOTES_PER_SEQ,
    ApprovalEscalated,
    CheckpointSaved,
    ErrorInfo,
    Event,
    InterruptInfo,
    Note,
    NoticeDead,
    NoticeNote,
    RunCancelled,
    RunFailed,
    RunInterrupted,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    ThreadArchived,
    ThreadPruned,
    ThreadRecovered,
    ThreadRestored,
    ThreadStuck,
)
from perdure.schemas.index import (
    MAX_METADATA_LEAF,
    IndexDocument,
    IndexedError,
    IndexedNotice,
    IndexedStuck,
    IndexedWait,
)
from perdure.schemas.moments import in_milliseconds

STATUS: Final[dict[type[Event], str]] = {
    RunStarted: "running",
    CheckpointSaved: "running",
    RunInterrupted: "interrupted",
    RunSucceeded: "success",
    RunFailed: "error",
    RunTimedOut: "timeout",
    RunCancelled: "cancelled",
    ThreadStuck: "stuck",
    ApprovalEscalated: "interrupted",
}
"""The status that an event leaves its thread in; ``TELLING`` say it themselves, ``SILENT`` change none."""
TELLING: Final = (ThreadRecovered, ThreadArchived, ThreadRestored)
SILENT: Final = (NoticeNote, ThreadPruned)

WAIT_LIMIT: Final = 4_000
METADATA_LEAVES: Final = 200
MAX_DEPTH: Final = 16


def document_of(event: Event, redaction: Redaction, text_limit: int) -> IndexDocument:
    """The document of one event, redacted; fields that the event does not have are absent.

    Times are cut to the milliseconds that the store keeps: an event of an older worker may have microseconds.
    """
    document: IndexDocument = {
        "thread_id": event.thread_id,
        "run_id": event.run_id,
        "tenant": event.tenant,
        "graph": event.graph_id,
        "assistant": event.assistant_id,
        "seq": event.seq,
        "epoch": event.epoch,
        "event": event.TYPE,
        "occurred_at": in_milliseconds(event.occurred_at),
    }
    if not isinstance(event, SILENT):
        document["status"] = event.status if isinstance(event, TELLING) else STATUS[type(event)]
    if isinstance(event, Note):
        document["note"] = event.note
    if event.graph_version is not None:
        document["graph_version"] = event.graph_version
    if event.metadata:
        metadata = bounded(redaction.value(event.metadata, event.graph_id))
        if metadata:
            document["metadata"] = metadata
    checkpoint_id: str | None = getattr(event, "checkpoint_id", None)
    if checkpoint_id is not None:
        document["checkpoint_id"] = checkpoint_id
    following: tuple[str, ...] = getattr(event, "next", ())
    if following:
        document["next"] = list(following)
    expected_by: datetime | None = getattr(event, "expected_by", None)
    if expected_by is not None:
        document["expected_by"] = in_milliseconds(expected_by)
    _add_particulars(document, event, redaction, text_limit)
    return document


def newest(documents: Iterable[IndexDocument]) -> dict[str, IndexDocument]:
    """Of each thread its newest document, without the state's text (that is in the states index).

    An event without a status says nothing about where its thread stands.
    """
    found: dict[str, IndexDocument] = {}
    for document in documents:
        if "status" not in document:
            continue
        thread = document["thread_id"]
        if thread not in found or version(found[thread]) < version(document):
            found[thread] = document
    for thread, document in found.items():
        if "text" in document:
            short = document.copy()
            del short["text"]
            found[thread] = short
    return found


def event_id(document: IndexDocument) -> str:
    """The ``_id`` of a state's document: the event's id."""
    note = f"n{document['note']}" if "note" in document else ""
    return f"{document['thread_id']}:{document['seq']}{note}"


def version(document: IndexDocument) -> int:
    """The place of a document among those of its thread: a note comes after its ``seq`` and before the next."""
    return document["seq"] * NOTES_PER_SEQ + document.get("note", 0)


def leaves(value: Any) -> Iterator[str]:
    """The leaves of a JSON value as text."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif value is not None:
        yield str(value)


def bounded(metadata: Any) -> dict[str, Any]:
    """Metadata as it is indexed: at most so many leaves, each of bounded length, and no nulls."""
    left = METADATA_LEAVES

    def cut(value: Any, depth: int) -> Any:
        nonlocal left
        if isinstance(value, dict) and depth < MAX_DEPTH:
            items = ((key, cut(item, depth + 1)) for key, item in value.items() if key and left > 0)
            return {key: item for key, item in items if item not in (None, {}, [])}
        if isinstance(value, list) and depth < MAX_DEPTH:
            return [kept for item in value if left > 0 and (kept := cut(item, depth + 1)) not in (None, {}, [])]
        left -= 1
        return value if isinstance(value, int | float | None) else str(value)[:MAX_METADATA_LEAF]

    return cut(metadata, 0) if isinstance(metadata, dict) else {}


def _add_particulars(document: IndexDocument, event: Event, redaction: Redaction, text_limit: int) -> None:
    """What only one kind of event has."""
    if isinstance(event, CheckpointSaved):
        _add_checkpoint(document, event, redaction, text_limit)
    elif isinstance(event, RunInterrupted):
        document["wait"] = _wait(event.interrupts, redaction, event.graph_id)
    elif isinstance(event, RunFailed | RunTimedOut):
        document["error"] = _error(event.error)
    elif isinstance(event, ThreadArchived | ThreadRestored):
        _add_archive(document, event)
    elif isinstance(event, ThreadStuck):
        document["stuck"] = _stuck(event)
    elif isinstance(event, NoticeNote):
        document["notice"] = _notice(event)
    elif isinstance(event, ApprovalEscalated):
        document["wait"] = _escalated(event, redaction)


def _add_checkpoint(document: IndexDocument, event: CheckpointSaved, redaction: Redaction, text_limit: int) -> None:
    document["source"] = event.source
    document["step"] = event.step
    if event.checkpoint_ns:
        document["checkpoint_ns"] = event.checkpoint_ns
    if event.nodes:
        document["nodes"] = list(event.nodes)
    if event.channels:
        document["channels"] = list(event.channels)
    if event.duration_ms is not None:
        document["duration_ms"] = event.duration_ms
    if event.text:
        document["text"] = redaction.text(event.text, event.graph_id)[:text_limit]


def _wait(interrupts: tuple[InterruptInfo, ...], redaction: Redaction, graph: str) -> IndexedWait:
    words = (word for one in interrupts for word in leaves(redaction.value(one.value, graph)))
    return {"ids": [one.id for one in interrupts], "text": "\n".join(words)[:WAIT_LIMIT]}


def _error(info: ErrorInfo) -> IndexedError:
    error: IndexedError = {"type": info.type, "message": info.message}
    if info.node is not None:
        error["node"] = info.node
    return error


def _add_archive(document: IndexDocument, event: ThreadArchived | ThreadRestored) -> None:
    if isinstance(event, ThreadArchived):
        document["archived"] = {
            "object": event.object,
            "bytes": event.object_bytes,
            "at": in_milliseconds(event.occurred_at),
        }
    if event.error is not None:
        document["error"] = _error(event.error)


def _stuck(event: ThreadStuck) -> IndexedStuck:
    return {"code": event.code.value, "reason": event.reason, "since": in_milliseconds(event.since)}


def _notice(event: NoticeNote) -> IndexedNotice:
    result, reason = ("dead", event.reason) if isinstance(event, NoticeDead) else ("delivered", "")
    words = ("notice", result, event.kind, event.channel, event.target, reason)
    return {
        "id": event.delivery_id,
        "subscription": event.subscription_id,
        "kind": event.kind,
        "channel": event.channel,
        "result": result,
        "attempts": event.attempts,
        "text": " ".join(word for word in words if word)[:WAIT_LIMIT],
    }


def _escalated(event: ApprovalEscalated, redaction: Redaction) -> IndexedWait:
    words = [redaction.value(event.question, event.graph_id), event.assigned_to]
    text = "\n".join(str(word) for word in words if word is not None)
    return {"ids": [event.wait_id.rpartition(":")[2]], "text": text[:WAIT_LIMIT]}
