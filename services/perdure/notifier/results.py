"""Results of attempts, written in groups: one update for all that arrive while another is in flight (ADR 12).

Contract: :meth:`Results.write` returns when the fields are durable, or when the delivery is somebody else's by now: a result counts
only while the claim under which it was got is there, and takes the claim off, so that writing it again changes nothing. A lost
database is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from perdure.chassis.mongo import Collection
from perdure.chassis.outage import Availability, outlast

GROUP: Final = 100
"""Results of one update; its cost grows with the square."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a delivery.

    Attributes:
        fields: Fields that are set.
        ended: Whether it is due no more; one that is not has ``due_at`` among its fields.

    """

    fields: Document
    ended: bool


@dataclass(frozen=True, slots=True)
class _Result:
    id: str
    claim: str
    change: Change
    done: asyncio.Future[None]


class Results:
    """Writes results. Belongs to one event loop."""

    def __init__(self, deliveries: Collection, availability: Availability) -> None:
        self._deliveries = deliveries
        self._availability = availability
        self._waiting: list[_Result] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, delivery: Mapping[str, Any], change: Change) -> None:
        """Write one result, together with whatever else is waiting."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Result(delivery["_id"], delivery["claim"], change, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._drain())
        await done

    async def close(self) -> None:
        """Wait for what was submitted."""
        if self._writing is not None:
            await asyncio.wait({self._writing})

    async def _drain(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
                try:
                    await self._write(group)
                except Exception as error:
                    _settle(group, error)
                else:
                    _settle(group, None)
        finally:
            self._writing = None

    async def _write(self, group: Sequence[_Result]) -> None:
        for ended in (True, False):
            part = [one for one in group if one.change.ended is ended]
            if part:
                query, change = update_of(part, ended=ended)
                await outlast(lambda q=query, c=change: self._deliveries.update_many(q, c), self._availability)  # type: ignore[misc]


def update_of(group: Sequence[_Result], *, ended: bool) -> tuple[Document, list[Document]]:
    """One update that gives each delivery its own fields: a pipeline that looks them up by the delivery's id."""
    ids = [one.id for one in group]
    place = {"$indexOfArray": [{"$literal": ids}, "$_id"]}
    # Literal: what people wrote may begin with a dollar sign.
    own = {"$arrayElemAt": [{"$literal": [one.change.fields for one in group]}, place]}
    taken_off = ["claim", "due_at"] if ended else ["claim"]
    query = {"_id": {"$in": ids}, "claim": {"$in": [*{one.claim for one in group}]}}
    return query, [{"$replaceWith": {"$mergeObjects": ["$$ROOT", own]}}, {"$unset": taken_off}]


def _settle(group: Sequence[_Result], error: Exception | None) -> None:
    for one in group:
        if one.done.done():
            continue
        if error is None:
            one.done.set_result(None)
        else:
            one.done.set_exception(error)
