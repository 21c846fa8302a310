"""Which ended threads are due to be archived.

Contract: :meth:`Candidates.portion` looks at a bounded number of threads, the longest ended first, and goes on from there the next
time; at the end it begins anew. An index over ended threads that are not archived serves it, so a look does not cost what is in the
archive already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from perdure.archive.living import why_it_lives
from perdure.archive.policy import RetentionPolicy
from perdure.chassis.mongo import Database
from perdure.schemas.documents import THREADS

LOOK: Final = 200
"""Threads that one portion looks at."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A thread that is old enough.

    Attributes:
        thread: Its document.
        due_at: Since when.
        rule: Which rule of the policy says so.
        kept: Why it is kept all the same; ``None``: it is to be archived.

    """

    thread: Mapping[str, Any]
    due_at: datetime
    rule: str
    kept: str | None


class Candidates:
    """Walks over the ended threads of a database."""

    def __init__(self, db: Database, policy: RetentionPolicy) -> None:
        self._db = db
        self._policy = policy
        self._after: datetime | None = None
        self._seen: list[str] = []
        """Those that ended at that very instant."""

    async def portion(self, now: datetime) -> tuple[list[Candidate], bool]:
        """What is due among the next threads, and whether there are more to look at before the walk begins anew."""
        shortest = self._policy.shortest_keep
        if shortest is None:
            return [], False
        span: Document = {"$lte": now - shortest}
        if self._after is not None:
            span["$gte"] = self._after
        query = {"ended_run_id": {"$exists": True}, "updated_at": span, "_id": {"$nin": self._seen}}
        found = await self._db[THREADS].find(query).sort("updated_at", 1).limit(LOOK).to_list(None)
        self._remember(found)
        return [one for thread in found if (one := await self._due(thread, now)) is not None], len(found) == LOOK

    def _remember(self, found: list[Document]) -> None:
        if len(found) < LOOK:
            self._after, self._seen = None, []
            return
        last = found[-1]["updated_at"]
        seen = [thread["_id"] for thread in found if thread["updated_at"] == last]
        self._seen = [*self._seen, *seen] if last == self._after else seen
        self._after = last

    async def _due(self, thread: Document, now: datetime) -> Candidate | None:
        if "archive" in thread:
            return None
        retention = self._policy.of(thread)
        due_at = retention.archive_due(thread)
        if due_at is None or due_at > now:
            return None
        return Candidate(thread, due_at, retention.rule, await why_it_lives(self._db, thread))
