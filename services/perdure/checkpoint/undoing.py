"""Undoing what a run wrote: the thread stands where it stood before (ADR 32).

Contract: the history keeps every entry and its number. A checkpoint of the run is marked ``undone``, and no reader of states finds
it any more; the pending writes of the run, also those at checkpoints before it, are deleted. Idempotent. The caller holds the fence
(ADR 1): nobody writes for the run any more.
"""

from __future__ import annotations

from typing import Any, Final

from perdure.checkpoint import documents, keys
from perdure.checkpoint.notebook import Notebook

DELETED_AT_ONCE: Final = 500


async def undo(notebook: Notebook, thread_id: str, run_id: str, first_seq: int, last_seq: int) -> None:
    """Undo what a run wrote.

    Args:
        notebook: Where it is stored.
        thread_id: Its thread.
        run_id: The run.
        first_seq: Its first own sequence number.
        last_seq: Its last one.

    """
    thread = keys.checked("thread id", thread_id)
    bounds = {"$gte": first_seq, "$lte": last_seq}
    written: dict[str, Any] = {"thread": thread, "seq": bounds, "run": run_id, "kind": keys.CHECKPOINT}
    await notebook.store.change(written, {"$set": {"undone": True}})
    stored = await notebook.store.find(keys.query(keys.of_kind(thread, keys.WRITES)), {"_id": 1})
    doomed = [one["_id"] for one in stored if documents.written_after(one["_id"]) >= first_seq]
    for start in range(0, len(doomed), DELETED_AT_ONCE):
        await notebook.store.delete({"_id": {"$in": doomed[start : start + DELETED_AT_ONCE]}})
    notebook.pages.drop(thread)
