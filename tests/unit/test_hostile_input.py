"""Room for bodies, places for those who wait, connections that do nothing, lines cut in linear time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import zstandard

from perdure.chassis import payload
from perdure.chassis.payload import ZSTD, pack, raw_bytes, unpack
from perdure.gateway.http import bodies
from perdure.gateway.http.bodies import Room
from perdure.gateway.http.connections import Connections
from perdure.gateway.http.places import Places
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.resources.batches.lines import Lines


async def test_room_is_shared_by_tenants() -> None:
    room, inside = Room(100), []

    async def read(tenant: str, nbytes: int) -> None:
        async with room.taken(tenant, nbytes):
            inside.append(tenant)
            await asyncio.sleep(0)

    async with room.taken("a", 1_000), room.taken("b", 40):
        waiting = [asyncio.create_task(read("a", 1)), asyncio.create_task(read("b", 20))]
        await asyncio.sleep(0.01)
        assert inside == [], "a has its half, however much it wants; b would take more than its half"
        await asyncio.wait_for(read("c", 10), 1)
    await asyncio.gather(*waiting)
    assert sorted(inside) == ["a", "b", "c"]


async def test_who_waits_too_long_for_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "WAIT_S", 0.01)
    room = Room(100)
    async with room.taken("a", 50):
        with pytest.raises(RequestProblem) as refused:
            async with room.taken("a", 1):
                pass
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "2")


def test_one_tenant_gets_half_of_the_places() -> None:
    places = Places(4, "streams")
    with places.taken("a"), places.taken("a"):
        with pytest.raises(RequestProblem, match="Too many streams are open"), places.taken("a"):
            pass
        with places.taken("b"), places.taken("b"), pytest.raises(RequestProblem), places.taken("c"):
            pass
    with places.taken("a"):
        pass


class Connection:
    """As aiohttp's server has it."""

    def __init__(self) -> None:
        self.transport = self
        self.unsent, self.aborted = 0, False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True


def test_connections_that_do_nothing_are_closed() -> None:
    watched, silent, asking, slow = Connections(10, 60), Connection(), Connection(), Connection()
    every: list[Any] = [silent, asking, slow]
    watched.look(every, 0)
    watched._seen[asking].asked = watched._seen[slow].asked = True
    asking.unsent = slow.unsent = 1_000
    watched.look(every, 9)
    assert not any(one.aborted for one in every)
    asking.unsent = 900
    watched.look(every, 50)
    watched.look(every, 70)
    assert [one.aborted for one in every] == [True, False, True]
    watched.look([asking], 80)
    assert [*watched._seen] == [asking]


@pytest.mark.parametrize("piece", [1, 7, 64 * 1024])
def test_lines_are_cut_in_linear_time(piece: int) -> None:
    data = (
        b"\xef\xbb\xbf{}\n"
        + b"\n" * 50_000
        + b" \t\r\n" * 10_000
        + b"x" * 100_000
        + b"\n[1]\n"
        + b"y" * 300_000
        + b"\nlast"
    )
    lines, found = Lines(200_000), []
    began = time.process_time()
    for start in range(0, len(data), piece):
        found += lines.feed(data[start : start + piece])
    found += lines.end()
    assert time.process_time() - began < 5
    assert [(line.number, None if line.data is None else len(line.data)) for line in found] == [
        (1, 2),
        (60_002, 100_000),
        (60_003, 3),
        (60_004, None),
        (60_005, 4),
    ]


def test_empty_lines_cost_nothing() -> None:
    began = time.process_time()
    assert Lines().feed(b"\n" * (32 * 1024 * 1024)) == []
    assert time.process_time() - began < 2


def test_the_size_of_a_payload_is_told_without_unpacking_it() -> None:
    given = {"text": "x" * (4 * 1024 * 1024)}
    packed = pack(given).inline
    assert len(packed) < 1_000
    assert raw_bytes(packed) == len(b'{"text":""}') + 4 * 1024 * 1024
    assert unpack(packed) == given
    assert raw_bytes(pack({"a": 1}).inline) == len(b'{"a":1}')


def test_a_payload_that_is_too_large_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "RAW_LIMIT", 1024 * 1024)
    bomb = ZSTD + zstandard.ZstdCompressor().compress(b"[" + b" " * 1024 * 1024 + b"]")
    assert len(bomb) < 100_000
    with pytest.raises(ValueError, match="over the limit"):
        unpack(bomb)
    sizeless = zstandard.ZstdCompressor(write_content_size=False).compress(b"[]")
    for damaged in (ZSTD + sizeless, ZSTD + b"nothing"):
        with pytest.raises(ValueError, match="damaged"):
            unpack(damaged)
