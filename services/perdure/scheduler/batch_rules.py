"""Pure decisions about batches: who starts how many items now (ADR 14)."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Mapping
from math import floor
from typing import Any, Final

WINDOW_FIRST: Final = 20.0
WINDOW_LEAST: Final = 4.0
CUT: Final = 0.7
CUT_EVERY_S: Final = 1.0
GROWTH: Final = 1.1
USED: Final = 0.8


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


class Window:
    """How many items run at once as long as the workers keep up, as TCP finds its window.

    Slots say what a worker may hold, not what its machine can carry: a hundred agents that wait for a model cost nothing, a hundred
    that compute hold up whoever comes after them. How long a batch's own runs wait to be claimed is how long everybody's do. While
    that is short and the window is used, it grows by a tenth a turn; when it is long, the window shrinks.
    """

    def __init__(self, patience_s: float) -> None:
        self.size = WINDOW_FIRST
        self._patience_s = patience_s
        self._cut_at = float("-inf")

    def after(self, unclaimed_s: float, running: int, most: int) -> int:
        """The places that there are now.

        Args:
            unclaimed_s: For how many seconds the oldest run of a batch has waited to be claimed.
            running: Items that run.
            most: Places, were the machines without limit.

        """
        moment = time.monotonic()
        if unclaimed_s > self._patience_s:
            if moment - self._cut_at >= CUT_EVERY_S:
                self._cut_at = moment
                self.size = max(WINDOW_LEAST, min(self.size, running) * CUT)
            return min(most, int(self.size), running)
        if running >= self.size * USED:
            self.size = min(max(most, WINDOW_LEAST), self.size * GROWTH + 1)
        return min(most, int(self.size))


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
