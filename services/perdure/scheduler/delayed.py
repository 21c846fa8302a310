"""The clock of delayed starts: ``after_seconds`` (ADR 32).

Contract: a run whose time has come by the database's clock is no longer delayed, and its start is published. A start that is lost
in between is published by the sweep, as any other is. Outside: which run of a thread goes first (``perdure.agent_step.claims``).
"""

from __future__ import annotations

from typing import Final

from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database
from perdure.registry.runs import publish_start
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.sweeps import RUN_FIELDS, SOURCE
from perdure.schemas.commands import StartReason
from perdure.schemas.documents import RUNS

EVERY_S: Final = 0.25
"""Between two looks."""
PORTION: Final = 500
"""Runs that one turn starts, the longest overdue first."""


class Delayed:
    """Starts the delayed runs whose time has come."""

    def __init__(self, db: Database, producer: Producer, clock: DatabaseClock) -> None:
        self._runs = db[RUNS]
        self._producer = producer
        self._clock = clock

    async def turn(self) -> None:
        """Start what is due now.

        Raises:
            PyMongoError: the database does not answer.

        """
        now = await self._clock.now()
        query = {"delayed": True, "start_at": {"$lte": now}}
        due = await self._runs.find(query, RUN_FIELDS).sort("start_at", 1).limit(PORTION).to_list(None)
        if not due:
            return
        ours = {"_id": {"$in": [run["_id"] for run in due]}, "delayed": True}
        await self._runs.update_many(ours, {"$unset": {"delayed": ""}, "$set": {"updated_at": now}})
        for run in due:
            if run["status"] == "pending":
                publish_start(self._producer, run, StartReason.REGISTERED, SOURCE)
