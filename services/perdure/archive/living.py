"""Which threads live: they are never archived."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perdure.chassis.mongo import Database
from perdure.checkpoint import keys
from perdure.schemas.batch_documents import BATCHES
from perdure.schemas.documents import NOTEBOOK, RUNS, SCHEDULES, SIGNALS, WAITS, ThreadStatus, WaitStatus
from perdure.schemas.notices import DELIVERIES

ENDED: Final = (ThreadStatus.IDLE.value, ThreadStatus.ERROR.value)


async def why_it_lives(db: Database, thread: Mapping[str, Any]) -> str | None:
    """Why a thread is not to be archived, for people; ``None`` when nothing speaks against it."""
    thread_id = thread["_id"]
    if (said := _said_by(thread)) is not None:
        return said
    if await has_new_run(db, thread_id):
        return "a run of it is not finished"
    for collection, query, why in _questions(thread_id):
        if await db[collection].find_one(query, {"_id": 1}) is not None:
            return why
    batch = thread.get("batch")
    if batch and await db[BATCHES].find_one({"_id": batch["id"], "open": True}, {"_id": 1}) is not None:
        return "its batch is not finished"
    return None


def _said_by(thread: Mapping[str, Any]) -> str | None:
    """What the thread's own document says."""
    if (hold := thread.get("hold")) is not None:
        return f"it is under legal hold: {hold['reason']} ({hold['by']})"
    if thread.get("status") not in ENDED or "ended_run_id" not in thread:
        return f"its status is {thread.get('status')}"
    return "it is stuck" if "stuck" in thread else None


async def has_new_run(db: Database, thread_id: str) -> bool:
    """Whether a run of the thread waits, runs, or has not told everything yet."""
    query = {"thread_id": thread_id, "settled": False}
    return await db[RUNS].find_one(query, {"_id": 1}) is not None


def _questions(thread_id: str) -> list[tuple[str, dict[str, Any], str]]:
    """What would make it live, as (collection, query, why)."""
    marks = [{"parked_noted": False}, {"batch_noted": False}]
    firing = [{"next_at": {"$exists": True}}, {"paused": True}, {"firing": {"$exists": True}}]
    untold = [{"due_at": {"$exists": True}}, {"told": False}, {"state": "gathered"}]
    note = keys.query(keys.of_kind(thread_id, keys.NOTE)) | {"published": False}
    return [
        (RUNS, {"thread_id": thread_id, "$or": marks}, "the end of a run of it is still to be noted"),
        (WAITS, {"thread_id": thread_id, "status": WaitStatus.OPEN.value}, "it waits"),
        (SIGNALS, {"thread_id": thread_id, "offered": False}, "a signal to it is still to be offered"),
        (SCHEDULES, {"thread_id": thread_id, "$or": firing}, "a schedule starts runs on it"),
        (DELIVERIES, {"thread_id": thread_id, "$or": untold}, "a notice about it is still to be delivered"),
        (NOTEBOOK, note, "an event of it is still to be published"),
    ]
