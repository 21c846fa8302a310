"""The database's clock, read once a second and carried on by this process's monotonic clock.

Contract: never ahead of the database, behind it by the round trip of one question. A wall clock that jumps changes nothing here; a
database's clock that jumps is followed within ``ASK_EVERY_S``.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from perdure.chassis.mongo import Database, server_time
from perdure.schemas.moments import in_milliseconds

ASK_EVERY_S = 1.0


class DatabaseClock:
    """What time the database has."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._at: datetime | None = None
        self._asked = 0.0

    async def now(self) -> datetime:
        """The database's time, to the millisecond.

        Raises:
            PyMongoError: it does not answer.

        """
        if self._at is None or time.monotonic() - self._asked >= ASK_EVERY_S:
            self._at = await server_time(self._db)
            self._asked = time.monotonic()
        return in_milliseconds(self._at + timedelta(seconds=time.monotonic() - self._asked))
