"""The circuit: a slow call is left alone, a server that answers nothing costs its callers little, and only once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from perdure.chassis.circuit import Circuit
from perdure.chassis.errors import UnavailableError, UnreachableError

SLOW_S = 0.02
LATE_S = 0.03
PROBE_S = 0.1


@dataclass
class Server:
    """Answers pings while it is up, and each call when ``done`` is set."""

    up: bool = True
    delay_s: float = 0.0
    pings: int = 0
    calls: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def ping(self) -> None:
        self.pings += 1
        await asyncio.sleep(self.delay_s)
        if not self.up:
            await asyncio.Event().wait()

    async def call(self) -> str:
        self.calls += 1
        await self.done.wait()
        return "found"

    async def refuse(self) -> str:
        self.calls += 1
        raise UnreachableError("Server", "here", "connection refused")

    def circuit(self) -> Circuit:
        return Circuit("Server", "here", self.ping, slow_s=SLOW_S, late_s=LATE_S, probe_s=PROBE_S)


async def until_open(circuit: Circuit) -> None:
    while circuit.closed:
        await circuit.probe()


async def test_a_slow_call_takes_its_time_while_the_server_answers() -> None:
    server = Server()
    circuit = server.circuit()
    asking = asyncio.ensure_future(circuit.run(server.call))
    await asyncio.sleep(5 * (SLOW_S + PROBE_S))
    assert not asking.done()
    assert (server.pings, circuit.answers) == (1, True)
    server.done.set()
    assert await asking == "found"


async def test_a_frozen_server_fails_the_first_call_and_spares_the_next() -> None:
    server = Server(up=False)
    circuit = server.circuit()
    many = await asyncio.gather(*(circuit.run(server.call) for _ in range(20)), return_exceptions=True)
    assert {type(one) for one in many} == {UnreachableError}
    assert "no answer within 0.1 seconds. It is asked again every 2 seconds" in str(many[0])
    assert server.pings == 1, "one probe for all"
    with pytest.raises(UnreachableError):
        await circuit.run(server.call)
    assert (server.calls, circuit.closed, circuit.answers) == (20, False, False), "nothing is sent"


async def test_a_probe_that_is_late_and_answered_opens_nothing() -> None:
    server = Server(delay_s=2 * LATE_S)
    circuit = server.circuit()
    asking = asyncio.ensure_future(circuit.run(server.call))
    await asyncio.sleep(SLOW_S + PROBE_S)
    assert (asking.done(), circuit.answers) == (False, True)
    server.done.set()
    assert await asking == "found"


async def test_a_caller_with_little_time_gives_up_when_a_probe_is_late() -> None:
    server = Server(delay_s=2 * LATE_S)
    circuit = server.circuit()
    with pytest.raises(UnreachableError, match="slow now"):
        await circuit.unless_late(circuit.run(server.call))
    assert circuit.closed
    await circuit.aclose()
    asking = asyncio.ensure_future(circuit.unless_late(circuit.run(server.call)))
    server.delay_s = 0.0
    await asyncio.sleep(SLOW_S + PROBE_S)
    assert not asking.done(), "the server answers its probes in time: the call may take its time"
    server.done.set()
    assert await asking == "found"


async def test_a_call_under_way_ends_when_the_server_freezes_later() -> None:
    server = Server()
    circuit = server.circuit()
    asking = asyncio.ensure_future(circuit.run(server.call))
    await asyncio.sleep(2 * (SLOW_S + PROBE_S))
    server.up = False
    await until_open(circuit)
    with pytest.raises(UnreachableError):
        await asking


async def test_watching_closes_the_circuit() -> None:
    server = Server(up=False)
    circuit = server.circuit()
    await until_open(circuit)
    server.up = True
    watching = asyncio.ensure_future(circuit.watch())
    async with asyncio.timeout(5):
        while not circuit.closed:
            await asyncio.sleep(0.01)
    server.done.set()
    assert await circuit.run(server.call) == "found"
    watching.cancel()


async def test_one_lost_connection_opens_nothing_and_a_second_does() -> None:
    server = Server()
    circuit = server.circuit()
    server.done.set()
    for _ in range(3):
        with pytest.raises(UnreachableError):
            await circuit.run(server.refuse)
        assert await circuit.run(server.call) == "found"
    for _ in range(2):
        with pytest.raises(UnreachableError):
            await circuit.run(server.refuse)
    assert not circuit.closed


async def test_an_answer_that_says_not_now_is_an_answer() -> None:
    server = Server()
    circuit = server.circuit()

    async def overloaded() -> None:
        raise UnavailableError("Server", "here", "429")

    for _ in range(5):
        with pytest.raises(UnavailableError):
            await circuit.run(overloaded)
    assert circuit.closed


async def test_a_caller_that_gives_up_ends_its_call_and_no_other() -> None:
    server = Server(up=False)
    circuit = server.circuit()
    first, second = (asyncio.ensure_future(circuit.run(server.call)) for _ in range(2))
    await asyncio.sleep(1.5 * SLOW_S)
    first.cancel()
    with pytest.raises(UnreachableError):
        await second
    assert server.pings == 1
