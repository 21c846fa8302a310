"""Pure decisions about batches: who starts how many items now (ADR 14)."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from math import floor
from typing import Any


def places(workers: Iterable[Mapping[str, Any]], share: float, limit: int) -> int:
    """How many items of all batches may run at once.

    The rest of the workers' slots stays free for runs that somebody starts: those are never queued behind a batch.

    Args:
        workers: The documents of those that are alive.
        share: Of their slots that batches may take, above 0 and at most 1.
        limit: At most.

    """
    slots = sum(int(worker.get("slots", 0)) for worker in workers)
    return min(limit, max(1, floor(slots * share))) if slots else 0


def deal(running: Mapping[str, int], room: Mapping[str, int], free: int) -> dict[str, int]:
    """How many items each batch starts, so that those with the fewest running come first: all get the same in the end.

    Args:
        running: Items that run, by batch.
        room: Items that each could start now.
        free: Places that are free for all together.

    """
    dealt = dict.fromkeys(room, 0)
    queue = [(running.get(batch, 0), batch) for batch, most in room.items() if most > 0]
    heapq.heapify(queue)
    while queue and free > 0:
        busy, batch = heapq.heappop(queue)
        dealt[batch] += 1
        free -= 1
        if dealt[batch] < room[batch]:
            heapq.heappush(queue, (busy + 1, batch))
    return dealt
