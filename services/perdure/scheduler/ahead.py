"""Looking ahead: whether something falls due in a moment, asked with one small question while nothing does.

Contract: a loop rests until what falls due next, and for ``rest_s`` at most: what is stored meanwhile and falls due at once is late
by no more than that. While something was due a moment ago the loop does not rest.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from perdure.chassis.mongo import Database
from perdure.scheduler.clock import DatabaseClock

BUSY_S: Final = 1.0
"""How long a loop goes on without looking ahead after something was due."""


class Ahead:
    """What falls due in one field of a collection.

    Args:
        db: The database.
        collection: Its name.
        field: When a document falls due; there is an index for it.
        clock: The database's.
        rest_s: The longest rest, in seconds.
        where: Which documents; all that have the field, if not given.

    """

    def __init__(
        self,
        db: Database,
        collection: str,
        field: str,
        clock: DatabaseClock,
        rest_s: float,
        where: Mapping[str, Any] | None = None,
    ) -> None:
        self._collection = db[collection]
        self._field = field
        self._clock = clock
        self._rest_s = rest_s
        self._where = where or {}
        self._busy_until = 0.0

    async def rest_s(self) -> float:
        """For how many seconds nothing falls due; 0 when something is due now.

        Raises:
            PyMongoError: the database does not answer.

        """
        if time.monotonic() < self._busy_until:
            return 0.0
        now = await self._clock.now()
        soon = {**self._where, self._field: {"$lte": now + timedelta(seconds=self._rest_s)}}
        found = await self._collection.find(soon, {self._field: 1}).sort(self._field, 1).limit(1).to_list(1)
        if not found:
            return self._rest_s
        rest_s: float = (found[0][self._field] - now).total_seconds()
        if rest_s <= 0:
            self._busy_until = time.monotonic() + BUSY_S
        return max(rest_s, 0.0)
