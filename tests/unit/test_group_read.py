"""Group read: a read is answered whenever it comes, also in the step of the loop in which the last query ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from perdure.chassis.group_read import GroupRead


class Gates:
    """Answers each query when the test opens its gate."""

    def __init__(self) -> None:
        self.opened: dict[int, asyncio.Future[None]] = {}

    def of(self, key: int) -> asyncio.Future[None]:
        return self.opened.setdefault(key, asyncio.get_running_loop().create_future())

    async def fetch(self, keys: Sequence[int]) -> Mapping[int, int]:
        for key in keys:
            await self.of(key)
        return {key: key for key in keys}


async def ticks(count: int) -> None:
    """Let the loop do so many steps."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("steps_later", range(8))
async def test_a_read_that_comes_while_both_queries_end_is_answered(steps_later: int) -> None:
    """Both queries are answered in one step of the loop, as a busy process sees it; the next read comes just then."""
    gates = Gates()
    reads: GroupRead[int, int] = GroupRead(gates.fetch, max_in_flight=2)
    in_flight = []
    for key in (1, 2):
        in_flight.append(asyncio.create_task(reads.get(key)))
        await ticks(4)
    for key in (1, 2):
        gates.of(key).set_result(None)
    gates.of(3).set_result(None)
    await ticks(steps_later)
    async with asyncio.timeout(5):
        assert await reads.get(3) == 3
        assert await asyncio.gather(*in_flight) == [1, 2]
