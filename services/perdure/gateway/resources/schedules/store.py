"""Schedules as the gateway makes and shows them, each access within the store's time-out (ADR 7).

Contract: raises :class:`perdure.gateway.http.problems.RequestProblem` for what a request asks and cannot have.

Outside: firing (``perdure.registry.schedules``) and when it is time (``perdure.registry.cron``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database, server_time
from perdure.chassis.outage import outlast
from perdure.chassis.payload import unpack
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.resources.schedules.fields import packed, require_overlap
from perdure.gateway.stores.payloads import payloads_of
from perdure.gateway.stores.quotas import Quotas
from perdure.gateway.stores.store import Store
from perdure.registry import cron
from perdure.registry.cron import Overlap
from perdure.registry.runs import assistant_id_of, new_id
from perdure.registry.schedules import Cause, Firing, ScheduleBusy, Schedules, fire_key, next_of
from perdure.schemas.documents import SCHEDULES, GraphDocument
from perdure.schemas.schedule_documents import ScheduleDocument

T = TypeVar("T")
Document = dict[str, Any]

BACKFILL_LIMIT = 500
"""Fire times of one backfill."""
CATCH_UP_S = 3600.0


class ScheduleStore:
    """The schedules of all tenants."""

    def __init__(self, database: Database, store: Store, schedules: Schedules, quotas: Quotas) -> None:
        self._database = database
        self._store = store
        self._schedules = schedules
        self._quotas = quotas

    async def create(
        self, tenant: str, graph: GraphDocument, thread_id: str | None, fields: Document, *, paused: bool
    ) -> ScheduleDocument:
        """Make a schedule of these fields of its document.

        Raises:
            BadSchedule: the expression or the time zone cannot be followed.

        """
        at, moment = await self._time(), now()
        schedule: ScheduleDocument = {
            "_id": new_id(),
            "tenant": tenant,
            "graph_id": graph["_id"],
            "assistant_id": assistant_id_of(graph["_id"]),
            "thread_id": thread_id,
            "timezone": "UTC",
            "payload": packed({}),
            "metadata": {},
            "overlap": Overlap.SKIP.value,
            "catch_up_s": CATCH_UP_S,
            "end_at": None,
            **fields,  # type: ignore[typeddict-item]
            "paused": paused,
            "revision": 1,
            "created_at": moment,
            "updated_at": moment,
            "fired": 0,
            "skipped": 0,
            "missed": 0,
        }
        require_overlap(schedule["overlap"], thread_id)
        cron.check(schedule["cron"], schedule["timezone"], at)
        self._quotas.interval(tenant, schedule, at)
        await self._quotas.schedule(tenant)
        if (next_at := next_of(schedule, at)) is not None:
            schedule["next_at"] = next_at
        await self._within(self._schedules.create(schedule))
        return schedule

    async def require(self, schedule_id: str, tenant: str) -> Document:
        """The schedule with this id.

        Raises:
            RequestProblem: ``unknown-schedule``.

        """
        return _known(schedule_id, await self.find_one(schedule_id, tenant))

    async def find_one(self, schedule_id: str, tenant: str) -> Document | None:
        """The schedule with this id, if it is there."""
        return await self._within(self._schedules.find(schedule_id, tenant))

    async def find(self, query: Mapping[str, Any]) -> list[Document]:
        """The schedules that a query finds, oldest first, without what their runs are started with."""
        return await self._within(self._schedules.search(query))

    async def payloads_of(self, page: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the runs of a page of schedules are started with, by schedule id: as much as a page shows."""
        return await payloads_of(self._store.read, self._database[SCHEDULES], page)

    async def change(self, schedule_id: str, tenant: str, fields: Document) -> Document:
        """Change fields of a schedule; ``payload`` holds what changes of it.

        Raises:
            BadSchedule: the expression or the time zone cannot be followed.
            RequestProblem: ``unknown-schedule``, ``schedule-busy``.

        """
        known = await self.require(schedule_id, tenant)
        if "overlap" in fields:
            require_overlap(fields["overlap"], known["thread_id"])
        if (changes := fields.pop("payload", None)) is not None:
            merged = {**unpack(known["payload"]), **changes}
            fields["payload"] = packed({name: value for name, value in merged.items() if value is not None})
        at = await self._time()
        if "cron" in fields:
            self._quotas.interval(tenant, {**known, **fields}, at)
        changed = await self._decided(schedule_id, self._schedules.change(schedule_id, tenant, fields, at))
        return _known(schedule_id, changed)

    async def delete(self, schedule_id: str, tenant: str) -> None:
        """Remove a schedule.

        Raises:
            RequestProblem: ``unknown-schedule``.

        """
        if not await self._within(self._schedules.delete(schedule_id, tenant)):
            _known(schedule_id, None)

    async def trigger(self, schedule_id: str, tenant: str, key: str | None) -> Firing:
        """Fire now; with the same key, once.

        Raises:
            RequestProblem: ``unknown-schedule``, ``schedule-busy``.

        """
        name = f"schedule:{schedule_id}:trigger:{key or new_id()}"
        fired = self._schedules.fire(schedule_id, tenant, await self._time(), Cause.TRIGGER, name)
        return _known(schedule_id, await self._decided(schedule_id, fired))

    async def backfill(
        self, schedule_id: str, tenant: str, start: datetime, end: datetime, overlap: Overlap | None
    ) -> list[Firing]:
        """Fire each time from ``start`` to ``end`` that was not fired.

        Raises:
            RequestProblem: ``unknown-schedule``, ``schedule-busy``; ``invalid-request`` when that is in the future or too much.

        """
        known = await self.require(schedule_id, tenant)
        require_overlap(overlap or known["overlap"], known["thread_id"])
        if end < start:
            raise invalid("/end", "is before start")
        if end > await self._time():
            raise invalid("/end", "is in the future; a backfill fires past times only")
        past = cron.between(known["cron"], known["timezone"], start, end, BACKFILL_LIMIT)
        if len(past) > BACKFILL_LIMIT:
            raise invalid(
                "/end", f"the period holds more than {BACKFILL_LIMIT} fire times; split it into several backfills"
            )
        fired = []
        for at in past:
            key = fire_key(schedule_id, at)
            one = self._schedules.fire(schedule_id, tenant, at, Cause.BACKFILL, key, overlap)
            fired.append(_known(schedule_id, await self._decided(schedule_id, one)))
        return fired

    async def _time(self) -> datetime:
        return await self._within(outlast(lambda: server_time(self._database), self._store.availability))

    async def _decided(self, schedule_id: str, work: Awaitable[T]) -> T:
        try:
            return await self._within(work)
        except ScheduleBusy as error:
            raise RequestProblem(
                "schedule-busy", f"Schedule {schedule_id!r} is being changed by others all the time. Try again."
            ) from error

    async def _within(self, work: Awaitable[T]) -> T:
        self._store.require_available()
        return await self._store.within(work)


def _known(schedule_id: str, found: T | None) -> T:
    if found is None:
        raise RequestProblem(
            "unknown-schedule", f"Schedule {schedule_id!r} does not exist; GET /schedules lists those that do."
        )
    return found
