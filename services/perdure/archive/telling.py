"""Telling that a thread was archived or came back: a note, so that the index learns it (ADR 10 and 15)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.registry.notes import RUN_FIELDS, Notes
from perdure.schemas.documents import RUNS

FIELDS: Final = {**RUN_FIELDS, "status": 1}


async def tell_archived(db: Database, notes: Notes, thread: Mapping[str, Any], mark: Mapping[str, Any]) -> None:
    """Say that the thread is in the archive. It must still have its runs."""
    said = {"object": mark["object"], "object_bytes": mark["bytes"]}
    await _tell(db, notes, thread, mark, event="archived", said=said)


async def tell_restored(db: Database, notes: Notes, thread: Mapping[str, Any], mark: Mapping[str, Any]) -> None:
    """Say that the thread is back, with its runs."""
    await _tell(db, notes, thread, mark, event="restored", said={"by": mark["restore_by"]})


async def _tell(
    db: Database,
    notes: Notes,
    thread: Mapping[str, Any],
    mark: Mapping[str, Any],
    *,
    event: str,
    said: Mapping[str, Any],
) -> None:
    run = await db[RUNS].find_one({"_id": mark["ended_run_id"]}, FIELDS)
    if run is None:
        return  # its runs are being deleted already: it was told before
    stood = {"status": run["status"], "checkpoint_id": thread.get("head"), "next": thread.get("next") or []}
    await notes.write(
        run,
        after=thread["seq"],
        event=event,
        ev={**said, **stood, "error": thread.get("error")},
        cause=f"{event}:{mark['object']}",
        at=now(),
    )
