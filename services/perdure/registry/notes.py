"""Notes: events of a thread that are outside its owner's history (ADR 10).

Contract: a note is stored in the notebook first, then published, then marked as published; :meth:`Notes.sweep` publishes what a
dead process left unpublished. A note is written once for each cause, however often it is asked for. It takes no sequence number, so
it can never meet the owner's writes.

Outside: what the notes say (``perdure.schemas.events``), and who decides that one is due. A lost database or broker is the
caller's to wait for: every method can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pymongo.errors import DuplicateKeyError, PyMongoError

from perdure.chassis.at_rest import sealed
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.checkpoint import keys
from perdure.registry.run_events import publish_event
from perdure.schemas.documents import NOTEBOOK, RUNS
from perdure.schemas.events import NOTES_PER_SEQ
from perdure.schemas.moments import in_milliseconds
from perdure.schemas.outbox import event_of

log = logger(__name__)

RUN_FIELDS: Final = dict.fromkeys(
    ("tenant", "thread_id", "graph_id", "assistant_id", "graph_version", "metadata", "traceparent", "epoch"), 1
)
"""What an event needs of its run's document."""


class Notes:
    """The notes of all threads."""

    def __init__(self, db: Database, producer: Producer, source: str) -> None:
        self._notebook = db[NOTEBOOK]
        self._runs = db[RUNS]
        self._producer = producer
        self._source = source

    async def write(
        self, run: Mapping[str, Any], *, after: int, event: str, ev: Mapping[str, Any], cause: str, at: datetime
    ) -> dict[str, Any]:
        """Store and publish a note; the note.

        Args:
            run: The document of the run that it is about, with ``RUN_FIELDS``.
            after: The newest sequence number of the thread that is known.
            event: Which (``perdure.schemas.outbox.NOTES``).
            ev: The fields of its own.
            cause: What tells it from other notes of the thread after the same number.
            at: When it happened.

        Raises:
            ValueError: there are ``NOTES_PER_SEQ`` notes after this number already.

        """
        note = await self._store(run, after=after, event=event, ev=ev, cause=cause, at=at)
        if not note["published"]:
            await self._publish(run, note)
        return note

    async def sweep(self, before: datetime, limit: int = 1_000) -> int:
        """Publish the notes that were stored before ``before`` and never published; how many."""
        query = {"published": False, "at": {"$lt": before}}
        found = await self._notebook.find(query).limit(limit).to_list(None)
        if not found:
            return 0
        ids = list({note["run"] for note in found})
        runs = {run["_id"]: run async for run in self._runs.find({"_id": {"$in": ids}}, RUN_FIELDS)}
        for note in found:
            if note["run"] in runs:
                try:
                    await self._publish(runs[note["run"]], note)
                except PyMongoError:
                    raise
                except Exception:  # one note that cannot be published stops no other; it is tried again
                    log.exception("note.not_published", note=note["_id"], thread_id=note.get("thread"))
        log.info("notes.swept", count=len(found))
        return len(found)

    async def _store(
        self, run: Mapping[str, Any], *, after: int, event: str, ev: Mapping[str, Any], cause: str, at: datetime
    ) -> dict[str, Any]:
        thread = run["thread_id"]
        while True:
            there = await self._notebook.find(keys.query(keys.notes_after(thread, after))).to_list(None)
            for found in there:
                if found["cause"] == cause:
                    return dict(found)
            number = 1 + max((found["note"] for found in there), default=0)
            if number >= NOTES_PER_SEQ:
                raise ValueError(
                    f"thread {thread}: {number - 1} notes after number {after} are the most that there can be"
                )
            note = {
                "_id": keys.note(thread, after, number),
                "kind": keys.NOTE,
                "thread": thread,
                "run": run["_id"],
                "epoch": run["epoch"],
                "after": after,
                "note": number,
                "event": event,
                "cause": cause,
                "at": in_milliseconds(at),
                "ev": dict(ev),
                "published": False,
            }
            try:
                await self._notebook.insert_one(sealed(NOTEBOOK, note))
            except DuplicateKeyError:
                continue  # another instance noted something at the same moment: look again
            return note

    async def _publish(self, run: Mapping[str, Any], note: Mapping[str, Any]) -> None:
        event = event_of(run, note)
        if event is not None:
            await publish_event(self._producer, run, event, self._source)
        await self._notebook.update_one({"_id": note["_id"]}, {"$set": {"published": True}})
