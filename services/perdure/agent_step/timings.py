"""How long each node takes, learned by all workers together: statistics, not truth (ADR 10).

Contract: :meth:`Timings.saw` costs a dictionary entry; a task of its own stores what was seen and reads what others saw, every
``REFRESH_S`` seconds. A database that does not answer costs nothing but freshness. Increments may be lost or stored twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.schemas.documents import NODE_TIMINGS

log = logger(__name__)

REFRESH_S = 10.0
ENOUGH = 20
"""Supersteps that must be known before anything is learned from them."""
SHARE = 0.99

Key = tuple[str, str]


class Timings:
    """The timings of the graphs that are served here."""

    def __init__(self, db: Database, graphs: Sequence[str]) -> None:
        self._timings = db[NODE_TIMINGS]
        self._graphs = list(graphs)
        self._learned: dict[Key, float] = {}
        self._seen: defaultdict[Key, Counter[int]] = defaultdict(Counter)

    def learned_s(self, graph: str, node: str) -> float | None:
        """What 99 of 100 supersteps with this node took at most, in seconds; ``None`` while too few are known."""
        return self._learned.get((graph, node))

    def saw(self, graph: str, node: str, duration_ms: float) -> None:
        """A superstep with this node took so long."""
        self._seen[graph, node][bucket(duration_ms)] += 1

    async def keep(self) -> None:
        """Store and read until cancelled."""
        while True:
            try:
                await self.refresh()
            except PyMongoError as error:
                log.debug("timings.not_refreshed", error=str(error))
            await asyncio.sleep(REFRESH_S)

    async def refresh(self) -> None:
        """Store what was seen, then read what everybody saw.

        Raises:
            PyMongoError: the database does not answer; what was seen is kept for the next time.

        """
        if self._seen:
            seen, self._seen = self._seen, defaultdict(Counter)
            try:
                await self._timings.bulk_write([_update(key, counts) for key, counts in seen.items()], ordered=False)
            except PyMongoError:
                for key, counts in seen.items():
                    self._seen[key].update(counts)
                raise
        found = await self._timings.find({"graph": {"$in": self._graphs}}).to_list(None)
        learned = {(one["graph"], one["node"]): quantile_s(one["buckets"]) for one in found}
        self._learned = {key: seconds for key, seconds in learned.items() if seconds is not None}


def bucket(duration_ms: float) -> int:
    """The smallest n with ``duration_ms <= 2**n``."""
    return max(0, (max(1, int(-(-duration_ms // 1))) - 1).bit_length())


def quantile_s(buckets: Mapping[str, int], share: float = SHARE, enough: int = ENOUGH) -> float | None:
    """What ``share`` of the supersteps took at most, in seconds, from their buckets; ``None`` for fewer than ``enough``."""
    total = sum(buckets.values())
    if total < enough:
        return None
    below = 0
    for n in sorted(map(int, buckets)):
        below += buckets[str(n)]
        if below >= share * total:
            break
    return float(2**n) / 1000


def _update(key: Key, counts: Mapping[int, int]) -> UpdateOne:
    graph, node = key
    change = {
        "$inc": {f"buckets.{n}": count for n, count in counts.items()},
        "$setOnInsert": {"graph": graph, "node": node},
    }
    return UpdateOne({"_id": f"{graph}\x1f{node}"}, change, upsert=True)
