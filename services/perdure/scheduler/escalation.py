"""A question that expires without an answer goes to the next person (ADR 7).

Contract: who is asked changes by one compare-and-set, so that an answer at the same moment, or another instance, cannot be passed
over. The event is stored afterwards and not waited for: a crash between the two loses it, not the change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.registry.notes import RUN_FIELDS, Notes
from perdure.scheduler.domain import Escalation, escalation_of
from perdure.schemas.documents import RUNS, WAITS, WaitStatus

log = logger(__name__)

NEEDED = (
    "run_id", "nodes", "escalations", "assigned_to", "question.escalate_to", "question.expires_s", "question.question",
)  # fmt: skip
"""What an escalation needs of a wait's document, beside what waking it needs."""


class Escalations:
    """Asks the next person. Belongs to one event loop."""

    def __init__(self, db: Database, notes: Notes) -> None:
        self._waits = db[WAITS]
        self._runs = db[RUNS]
        self._notes = notes
        self._noting: set[asyncio.Task[None]] = set()

    async def escalate(self, wait: Mapping[str, Any], now: datetime) -> bool:
        """Ask the next person about a question whose time is over; false when there is nobody left, or it is no question."""
        step = escalation_of(wait, now)
        if step is None:
            return False
        query = {
            "_id": wait["_id"],
            "status": WaitStatus.OPEN.value,
            "due_at": wait["due_at"],
            "escalations": wait["escalations"],
        }
        change = {"assigned_to": step.assigned_to, "escalations": step.escalations, "due_at": step.due_at}
        result = await self._waits.update_one(query, {"$set": change})
        if result.modified_count:
            log.info(
                "approval.escalated",
                wait_id=wait["_id"],
                thread_id=wait["thread_id"],
                asked=wait.get("assigned_to"),
                assigned_to=step.assigned_to,
                due_at=step.due_at.isoformat(),
            )
            task = asyncio.create_task(self._note(wait, step, now))
            self._noting.add(task)
            task.add_done_callback(self._noting.discard)
        return True

    async def aclose(self, timeout_s: float) -> None:
        """Wait for the events, at most so many seconds: those that are stored are published by a sweep."""
        if self._noting:
            _, left = await asyncio.wait(self._noting, timeout=timeout_s)
            for task in left:
                task.cancel()

    async def _note(self, wait: Mapping[str, Any], step: Escalation, now: datetime) -> None:
        """Store and publish the event. What fails here concerns nothing else."""
        try:
            run = await self._runs.find_one({"_id": wait["run_id"]}, {**RUN_FIELDS, "ended_seq": 1})
            if run is None or "ended_seq" not in run:
                log.warning("approval.escalation_not_noted", wait_id=wait["_id"], run_id=wait["run_id"])
                return
            told = {
                "wait_id": wait["_id"],
                "question": wait["question"]["question"],
                "asked": wait.get("assigned_to"),
                "assigned_to": step.assigned_to,
                "escalations": step.escalations,
                "next": list(wait.get("nodes") or ()),
                "expected_by": step.due_at,
            }
            cause = f"escalated:{wait['_id']}:{step.escalations}"
            await self._notes.write(run, after=run["ended_seq"], event="escalated", ev=told, cause=cause, at=now)
        except Exception:
            log.exception("approval.escalation_not_noted", wait_id=wait["_id"], run_id=wait["run_id"])
