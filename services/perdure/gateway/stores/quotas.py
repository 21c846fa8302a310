"""What a tenant may have and do: refuses with 429 and ``Retry-After`` what is over its limits (ADR 41).

Contract: each method raises ``quota-exceeded`` or returns; a tenant without a limit costs a look at a table. Rates, uploads and
watchers are those of this gateway; everything else is counted in the database (``usage``).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import islice, pairwise
from typing import Any, Final

from perdure.chassis.mongo import Database
from perdure.checkpoint import keys
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.stores.limits import Limits, TenantLimits
from perdure.gateway.stores.store import Store
from perdure.gateway.stores.usage import Usage
from perdure.registry import cron
from perdure.registry.superseding import ACTIVE
from perdure.schemas.batch_documents import BATCHES
from perdure.schemas.documents import NOTEBOOK, RUNS, SCHEDULES, SIGNALS, THREADS, RunStatus
from perdure.schemas.notices import SUBSCRIPTIONS
from perdure.schemas.thread_ids import qualifier

BURST_S: Final = 10.0
MINUTE_S: Final = 60.0
FIRES: Final = 20
"""Fire times of a schedule that are looked at."""
UNCOUNTED: Final = 8
"""Of a thread's limits an eighth is taken before its documents are counted."""
SOON_S: Final = 5
"""When room may have been made by what ends."""
LATER_S: Final = 60
"""When somebody may have made room."""


class _Bucket:
    """A token bucket: one request may take more than there is, the next ones wait for it."""

    def __init__(self, rate: float, size: float) -> None:
        self._rate, self._size = rate, size
        self._left, self._at = size, time.monotonic()

    def take(self, amount: float) -> float:
        """Take tokens; 0, or how many seconds must pass before any are there."""
        now = time.monotonic()
        self._left = min(self._size, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return (1.0 - self._left) / self._rate
        self._left -= amount
        return 0.0


class Quotas:
    """The limits of tenants, enforced. Belongs to one event loop."""

    def __init__(self, database: Database, store: Store, limits: TenantLimits) -> None:
        self._database = database
        self._store = store
        self._limits = limits
        self._usage = Usage()
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._under_way: Counter[tuple[str, str]] = Counter()

    async def start(self, tenant: str, thread_id: str | None, runs: int = 1) -> None:
        """Start runs, on a thread that is there or each on one that is made for it."""
        limits = self._limits.of(tenant)
        await self._documents(tenant, limits, "open_runs", RUNS, {"status": {"$in": ACTIVE}, "settled": False}, runs)
        await self._stored(tenant, limits.stored_bytes)
        if thread_id is None:
            await self.threads(tenant, runs)
            return
        pending = {"thread_id": thread_id, "settled": False, "status": RunStatus.PENDING.value}
        await self._of_thread(tenant, thread_id, "pending_runs_of_thread", limits.pending_runs_of_thread, RUNS, pending)

    def starts(self, tenant: str, runs: int = 1) -> None:
        """Ask for the start of runs: before anything is read for it."""
        rate = self._limits.of(tenant).starts_per_s
        self._rate(tenant, "starts_per_s", rate, runs, rate * BURST_S)

    async def threads(self, tenant: str, amount: int = 1) -> None:
        """Make threads."""
        query = {"archive.at": None}
        await self._documents(tenant, self._limits.of(tenant), "threads", THREADS, query, amount, LATER_S)

    async def subscription(self, tenant: str) -> None:
        """Make a subscription."""
        await self._documents(tenant, self._limits.of(tenant), "subscriptions", SUBSCRIPTIONS, {}, 1, LATER_S)

    def test_notice(self, tenant: str) -> None:
        """Send a test notice."""
        limit = self._limits.of(tenant).test_notices_per_minute
        self._rate(tenant, "test_notices_per_minute", limit / MINUTE_S, 1, limit)

    async def signal(self, tenant: str, thread_id: str) -> None:
        """Send a signal to a thread."""
        limit = self._limits.of(tenant).free_signals_of_thread
        free = {"thread_id": thread_id, "state": "free"}
        await self._of_thread(tenant, thread_id, "free_signals_of_thread", limit, SIGNALS, free)

    async def schedule(self, tenant: str) -> None:
        """Make a schedule."""
        await self._documents(tenant, self._limits.of(tenant), "schedules", SCHEDULES, {}, 1, LATER_S)

    def interval(self, tenant: str, fields: Mapping[str, Any], after: datetime) -> None:
        """Let a schedule fire at the times of ``fields``.

        Raises:
            RequestProblem: ``invalid-request``: it fires too often.

        """
        least_s = self._limits.of(tenant).schedule_interval_s
        if not least_s or "cron" not in fields:
            return
        fires = islice(cron.times(fields["cron"], fields.get("timezone", "UTC"), after), FIRES)
        if any((second - first).total_seconds() < least_s for first, second in pairwise(fires)):
            raise invalid("/cron", f"fires more often than every {least_s:g} s, the limit of the tenant")

    async def batch_room(self, tenant: str) -> int | None:
        """How many items of batches may be uploaded now; ``None``: no limit."""
        limit = self._limits.of(tenant).batch_items
        if not limit:
            return None
        going: list[dict[str, Any]] = [
            {"$match": {"tenant": tenant, "open": True}},
            {"$group": {"_id": None, "left": {"$sum": {"$subtract": ["$total", "$finished"]}}}},
        ]
        found = await self._store.read(lambda: self._database[BATCHES].aggregate(going).to_list(None))
        left = int(found[0]["left"]) if found else 0
        if left >= limit:
            raise _exceeded(tenant, "batch_items", limit, SOON_S)
        return limit - left

    @contextmanager
    def upload(self, tenant: str) -> Iterator[None]:
        """Hold one of the uploads that may go on at once."""
        with self._hold(tenant, "uploads_at_once", self._limits.of(tenant).uploads_at_once):
            yield

    @contextmanager
    def watcher(self, tenant: str) -> Iterator[None]:
        """Hold one of the places of those who wait for an end or read a stream."""
        with self._hold(tenant, "watchers", self._limits.of(tenant).watchers):
            yield

    @contextmanager
    def _hold(self, tenant: str, name: str, limit: int) -> Iterator[None]:
        key = (name, tenant)
        if limit and self._under_way[key] >= limit:
            raise _exceeded(tenant, name, limit, SOON_S)
        self._under_way[key] += 1
        try:
            yield
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]

    def _rate(self, tenant: str, name: str, rate: float, amount: int, size: float) -> None:
        if not rate:
            return
        bucket = self._buckets.get((name, tenant))
        if bucket is None:
            bucket = self._buckets[name, tenant] = _Bucket(rate, max(1.0, size))
        if wait_s := bucket.take(amount):
            raise _exceeded(tenant, name, getattr(self._limits.of(tenant), name), math.ceil(wait_s))

    async def _documents(
        self, tenant: str, limits: Limits, name: str, collection: str, query: Mapping[str, Any], amount: int,
        retry_s: int = SOON_S,
    ) -> None:  # fmt: skip
        limit: int = getattr(limits, name)
        if limit and not await self._usage.take(
            (name, tenant), limit, self._counting(collection, {"tenant": tenant, **query}, limit), amount
        ):
            raise _exceeded(tenant, name, limit, retry_s)

    async def _of_thread(
        self, tenant: str, thread_id: str, name: str, limit: int, collection: str, query: Mapping[str, Any]
    ) -> None:
        counting = self._counting(collection, query, limit)
        if limit and not await self._usage.take((name, thread_id), limit, counting, uncounted=limit // UNCOUNTED):
            raise _exceeded(tenant, name, limit, SOON_S)

    def _counting(self, collection: str, query: Mapping[str, Any], limit: int) -> Any:
        documents = self._database[collection]
        return lambda: self._store.read(lambda: documents.count_documents(query, limit=limit + 1))

    async def _stored(self, tenant: str, limit: int) -> None:
        before = qualifier(tenant)
        if not limit or not before:
            return

        async def counting() -> int:
            pipeline: list[dict[str, Any]] = [
                {"$match": keys.query(keys.of_threads(before))},
                {"$group": {"_id": None, "bytes": {"$sum": {"$bsonSize": "$$ROOT"}}}},
            ]
            found = await self._database[NOTEBOOK].aggregate(pipeline).to_list(None)
            return int(found[0]["bytes"]) if found else 0

        if not await self._usage.take(("stored_bytes", tenant), limit, counting, 1, waits=False):
            raise _exceeded(tenant, "stored_bytes", limit, LATER_S)


def _exceeded(tenant: str, name: str, limit: float, retry_s: int) -> RequestProblem:
    return RequestProblem(
        "quota-exceeded",
        f"Tenant {tenant!r} is at its limit {name} = {limit:g}. Nothing was done; try again later, or let the operator raise "
        "it (PERDURE_QUOTAS_FILE).",
        headers={"Retry-After": str(max(1, retry_s))},
    )


def over_room(tenant: str, room: int) -> RequestProblem:
    """An upload has more items than its tenant has room for."""
    return RequestProblem(
        "quota-exceeded",
        f"Tenant {tenant!r} has room for {room} more items of batches (limit batch_items). Nothing was registered; upload less, or "
        "try again when batches have ended.",
        headers={"Retry-After": str(LATER_S)},
    )
