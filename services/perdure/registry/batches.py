"""Items of batches as threads and runs: their ids and documents, and what the end of a run means for its item (ADR 14).

Contract: pure. An id is derived from the item's document, so whoever registers an attempt again registers the same run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from perdure.chassis.payload import Packed, pack, unpack
from perdure.registry.runs import assistant_id_of, new_traceparent, retry_document, run_document
from perdure.registry.threads import thread_document
from perdure.schemas.batch_documents import ItemStatus
from perdure.schemas.documents import RunDocument, RunStatus, ThreadDocument
from perdure.schemas.thread_ids import stored_id

FAILED: Final = (RunStatus.ERROR, RunStatus.TIMEOUT)
ENDS: Final = {
    RunStatus.SUCCESS: ItemStatus.SUCCEEDED,
    RunStatus.INTERRUPTED: ItemStatus.INTERRUPTED,
    RunStatus.CANCELLED: ItemStatus.CANCELLED,
}
ERROR_CHARS: Final = 2_000
"""Of an error's message that an item keeps; the run's document has all of it."""


def thread_id_of(batch: Mapping[str, Any], number: int) -> str:
    """The thread of an item: the same for all its attempts. This derivation is stored; never change it."""
    return stored_id(batch["tenant"], _derived(batch["created_at"], f"{batch['_id']}:{number}"))


def run_id_of(item: Mapping[str, Any]) -> str:
    """The run that an item's last attempt began with: sorts by time, as all run ids. Stored; never change it."""
    return _derived(item["started_at"], f"{item['batch']}:{item['number']}:{item['attempt']}")


def newest_run_id(item: Mapping[str, Any]) -> str | None:
    """The run that tells how an item stands; ``None`` before the first attempt."""
    if found := item.get("run_id"):
        return str(found)
    return run_id_of(item) if item.get("attempt") else None


def item_thread(batch: Mapping[str, Any], item: Mapping[str, Any], moment: datetime) -> ThreadDocument:
    """The thread of an item, as it is registered with the first attempt."""
    thread = thread_document(thread_id_of(batch, item["number"]), batch["tenant"], _metadata(batch, item), moment)
    thread["graph_id"], thread["assistant_id"] = batch["graph_id"], assistant_id_of(batch["graph_id"])
    thread["last_run_id"] = run_id_of(item)
    thread["batch"] = {"id": batch["_id"], "number": item["number"]}
    return thread


def item_run(
    batch: Mapping[str, Any], item: Mapping[str, Any], moment: datetime
) -> tuple[RunDocument, list[dict[str, Any]]]:
    """The run of an item's first attempt, and the chunks of its payload, if any, which are to be stored before it.

    Args:
        batch: Its document.
        item: The item's, with this attempt begun.
        moment: Now.

    """
    packed = pack({**unpack(batch["defaults"]), **unpack(item["payload"])})
    run = run_document(
        tenant=batch["tenant"],
        thread_id=thread_id_of(batch, item["number"]),
        graph_id=batch["graph_id"],
        graph_version=batch.get("graph_version"),
        packed=packed,
        metadata=_metadata(batch, item),
        traceparent=new_traceparent(),
        moment=moment,
        run_id=run_id_of(item),
        new_thread=True,
        user=batch.get("user"),
    )
    run["batch"] = {"id": batch["_id"], "number": item["number"], "attempt": item["attempt"]}
    return run, packed.chunk_documents(run["_id"])


def item_retry(failed: Mapping[str, Any], item: Mapping[str, Any], moment: datetime, begins: datetime) -> RunDocument:
    """The run of a further attempt: it goes on from where the failed one stopped.

    Args:
        failed: The document of the run that it takes the place of; the chunks of its payload, if any, are the caller's to copy.
        item: The item's, with this attempt begun.
        moment: Now.
        begins: It is not claimed earlier.

    """
    run = retry_document(failed, Packed(failed["payload"]), moment)
    run["_id"] = run_id_of(item)
    run["payload_chunks"] = failed.get("payload_chunks", 0)
    run["batch"] = {"id": item["batch"], "number": item["number"], "attempt": item["attempt"]}
    if begins > moment:
        run["not_before"] = begins
    return run


def after_end(
    item: Mapping[str, Any], run: Mapping[str, Any], *, max_attempts: int, retry: bool
) -> dict[str, Any] | None:
    """What the end of a run changes in its item's document; ``None``: nothing.

    Args:
        item: As it is now.
        run: The run that ended.
        max_attempts: Of the batch.
        retry: Whether a failed item may be tried again: not while its batch is being cancelled.

    """
    if not _concerns(item, run):
        return None
    named: dict[str, Any] = {} if run["_id"] == run_id_of(item) else {"run_id": run["_id"]}
    ended = RunStatus(run["status"])
    if ended not in FAILED:
        kept = {"retry_of": run["_id"]} if ended is RunStatus.CANCELLED else {}
        return {"status": ENDS[ended].value, **kept, **named}
    again = retry and item["attempt"] - item.get("base", 0) < max_attempts
    status = ItemStatus.WAITING if again else ItemStatus.FAILED
    return {"status": status.value, "retry_of": run["_id"], "error": _error(run), **named}


def _concerns(item: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether the end of a run is the item's: of its last attempt, or of a client's answer to what it waits for."""
    status, attempt = ItemStatus(item["status"]), run["batch"].get("attempt")
    if status not in (ItemStatus.STARTED, ItemStatus.INTERRUPTED):
        return False
    if run["status"] == RunStatus.CANCELLED and run.get("wait_id") and not run.get("cancel_requested_at"):
        return False  # it came to wake a thread that had gone on already: nobody cancelled anything (ADR 6)
    return status is ItemStatus.INTERRUPTED if attempt is None else attempt == item["attempt"]


def _error(run: Mapping[str, Any]) -> dict[str, Any]:
    error = run.get("error") or {}
    message = str(error.get("message") or "")[:ERROR_CHARS]
    return {"type": error.get("type") or run["status"], "message": message, "node": error.get("node")}


def _metadata(batch: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, Any]:
    named = {"batch_ref": item["ref"]} if "ref" in item else {}
    return {
        **(batch.get("metadata") or {}),
        **named,
        **(item.get("metadata") or {}),
        "batch_id": batch["_id"],
        "batch_item": item["number"],
    }


def _derived(moment: datetime, cause: str) -> str:
    """A UUIDv7 of this moment whose random bits come from its cause."""
    bits = int.from_bytes(hashlib.blake2b(cause.encode(), digest_size=10).digest(), "big")
    milliseconds = round(moment.timestamp() * 1000)
    value = milliseconds << 80 | 0x7 << 76 | (bits >> 64 & 0xFFF) << 64 | 0b10 << 62 | bits & (1 << 62) - 1
    return str(UUID(int=value))
