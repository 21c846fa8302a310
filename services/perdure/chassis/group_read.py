"""Group read: concurrent point reads in one query.

Contract: ``await read.get(key)`` returns what ``fetch_many`` found for the key, or ``None``. Reads that arrive while
queries are in flight form the next query; when idle a query starts at once. Outages are waited out.

Outside: caching. Every read asks the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from perdure.chassis.outage import Availability, outlast

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class GroupRead(Generic[K, V]):
    """Coalesces point reads. Belongs to the event loop that uses it first."""

    def __init__(
        self,
        fetch_many: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        availability: Availability | None = None,
        max_keys: int = 256,
        max_in_flight: int = 2,
    ) -> None:
        self.availability = availability or Availability()
        self._fetch_many = fetch_many
        self._max_keys = max_keys
        self._max_in_flight = max_in_flight
        self._wanted: dict[K, asyncio.Future[V | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._querying = 0
        """Tasks that will look at ``_wanted`` again. A task counts itself out in the same step in which it found nothing wanted:
        counting by done callbacks, which run a step later, left a read that came in between to nobody."""

    async def get(self, key: K) -> V | None:
        """The value of ``key`` as of now or later, or ``None``.

        Raises:
            Exception: what ``fetch_many`` raises for this key, outages excepted.

        """
        future = self._wanted.get(key)
        if future is None:
            future = self._wanted[key] = asyncio.get_running_loop().create_future()
            if self._querying < self._max_in_flight:
                self._query()
        return await asyncio.shield(future)

    def _query(self) -> None:
        self._querying += 1
        task = asyncio.create_task(self._drain(), name="group-read", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        try:
            await asyncio.sleep(0)  # what was asked in this turn of the loop goes out together
            while self._wanted:
                keys = list(self._wanted)[: self._max_keys]
                asked = {key: self._wanted.pop(key) for key in keys}
                await self._answer(asked)
        finally:
            self._querying -= 1

    async def _answer(self, asked: dict[K, asyncio.Future[V | None]]) -> None:
        keys = list(asked)
        try:
            found = await outlast(lambda: self._fetch_many(keys), self.availability)
        except Exception as error:
            if len(asked) == 1:
                _fail(next(iter(asked.values())), error)
                return
            for key, future in asked.items():
                await self._answer({key: future})
            return
        for key, future in asked.items():
            if not future.done():
                future.set_result(found.get(key))


def _fail(future: asyncio.Future[V | None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
