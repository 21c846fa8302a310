"""The removal of threads that clients deleted, a little at a time (ADR 31)."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from prometheus_client import Counter
from pymongo.errors import PyMongoError

from perdure.archive.errors import ArchiveError
from perdure.archive.removing import Remover
from perdure.archive.work import Work, take_over
from perdure.chassis.errors import PerdureError
from perdure.chassis.mongo import Database
from perdure.chassis.outage import is_outage
from perdure.chassis.telemetry import logger
from perdure.scheduler.settings import SchedulerSettings
from perdure.schemas.documents import ArchiveState

log = logger(__name__)

AT_ONCE: Final = 8
TURN_S: Final = 30.0

REMOVED = Counter("perdure_threads_removed", "Threads that were deleted by clients and of which nothing is left")


class Removals:
    """Takes over what is to be removed. Belongs to one event loop."""

    def __init__(self, db: Database, remover: Remover, settings: SchedulerSettings) -> None:
        self._db = db
        self._remover = remover
        self._lease_s = settings.archive_lease_s

    async def turn(self) -> None:
        """Go on with every deleted thread whose time has come, for some seconds at most."""
        states: dict[str, Any] = {"$eq": ArchiveState.REMOVING.value}
        end = time.monotonic() + TURN_S
        more = True
        while more and time.monotonic() < end:
            taken = await take_over(self._db, self._lease_s, AT_ONCE, states)
            await asyncio.gather(*map(self._go_on, taken))
            more = len(taken) == AT_ONCE

    async def _go_on(self, work: Work) -> None:
        """A failure concerns this thread only, and is tried again when the lease is over."""
        try:
            if await self._remover.go_on(work):
                REMOVED.inc()
        except (PerdureError, PyMongoError) as error:
            if not isinstance(error, ArchiveError) and is_outage(error):
                raise
            log.error("thread.not_removed", thread_id=work.owner.thread_id, error=str(error))
