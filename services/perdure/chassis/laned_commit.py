"""Several group commits to one collection side by side.

Contract: as that of ``perdure.chassis.group_commit``, for each key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from perdure.chassis.group_commit import CommitStatistics, Document, GroupCommit, Update
from perdure.chassis.mongo import Collection
from perdure.chassis.outage import Availability

LANES = 2
"""Commits of a :class:`LanedCommit` in flight at once. Paired runs of 1,000 agents: two gave 13 % more steps/s than one."""


class LanedCommit:
    """Group commits side by side, so that a task's next write is prepared while another's is on its way.

    Everything of one key goes through the same lane, in the order of submission: what a document names, and was submitted
    before it under the same key, is never missing when the document is there.
    """

    def __init__(self, collection: Collection, *, availability: Availability | None = None, lanes: int = LANES) -> None:
        self.statistics = CommitStatistics()
        self._lanes = [
            GroupCommit(collection, availability=availability, statistics=self.statistics) for _ in range(lanes)
        ]

    async def write(
        self,
        key: str,
        *,
        content: Sequence[Document] = (),
        inserts: Sequence[Document] = (),
        updates: Sequence[Update] = (),
        nbytes: int | None = None,
    ) -> None:
        """See :meth:`GroupCommit.write`; ``key`` chooses the lane."""
        lane = self._lanes[hash(key) % len(self._lanes)]
        await lane.write(content=content, inserts=inserts, updates=updates, nbytes=nbytes)

    async def submit(
        self,
        key: str,
        *,
        content: Sequence[Document] = (),
        inserts: Sequence[Document] = (),
        updates: Sequence[Update] = (),
        nbytes: int | None = None,
    ) -> asyncio.Future[None]:
        """See :meth:`GroupCommit.submit`; ``key`` chooses the lane."""
        lane = self._lanes[hash(key) % len(self._lanes)]
        return await lane.submit(content=content, inserts=inserts, updates=updates, nbytes=nbytes)

    async def close(self) -> None:
        """Refuse new writes and wait for those that were submitted."""
        await asyncio.gather(*(lane.close() for lane in self._lanes))
