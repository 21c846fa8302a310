"""Streams while a worker, the gateway and the broker are killed: every event of the supersteps that ended, once, in order."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(300)

STEPS = 25
MODES = ["values", "updates", "tasks", "checkpoints", "debug"]


class Reading(threading.Thread):
    """A client that comes back with the last id that it knows."""

    def __init__(self, system: Any, run: dict[str, Any], modes: list[str]) -> None:
        super().__init__(daemon=True)
        self._url = f"{system.services.gateway_url}/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
        self._modes = modes
        self.blocks: list[str] = []
        self.connections = 0
        self._leaving = threading.Event()

    def reconnect(self) -> None:
        """Break the connection off at the next event or heartbeat, and come back."""
        self._leaving.set()

    def run(self) -> None:
        while not (self.blocks and self.blocks[-1].startswith("event: end")):
            try:
                self._read()
            except httpx.HTTPError:
                threading.Event().wait(0.1)

    def _read(self) -> None:
        last = self.blocks[-1].rpartition("id: ")[2] if self.blocks else "-1"
        params = {"stream_mode": self._modes}
        with httpx.stream("GET", self._url, params=params, headers={"Last-Event-ID": last}, timeout=10) as answer:
            answer.raise_for_status()
            self.connections += 1
            text = ""
            for part in answer.iter_text():
                *blocks, text = (text + part).split("\r\n\r\n")
                self.blocks += [block for block in blocks if not block.startswith(":")]
                if self._leaving.is_set():
                    self._leaving.clear()
                    return

    def count(self, name: str) -> int:
        return sum(block.startswith(f"event: {name}\r\n") for block in self.blocks)


def test_kill_a_worker_and_the_gateway_while_streams_are_read(start_system: Any) -> None:
    system = start_system(names=("gateway", "agent_step", "agent_step", "scheduler"))
    runs = [system.start("chain", {"n": STEPS, "delay_s": 0.2}, config={"recursion_limit": 200}) for _ in range(8)]
    reading = [Reading(system, run, MODES) for run in runs]
    for one in reading:
        one.start()
    until_blocking(lambda: all(one.count("updates") >= 3 for one in reading), "streams are under way")
    system.services["agent_step"].kill()
    until_blocking(lambda: any(one.count("updates") >= 8 for one in reading), "runs go on")
    system.services["gateway"].kill()
    system.services["gateway"].start()
    system.services["agent_step"].start()
    ended = system.until_ended(*runs, timeout_s=120)
    assert {run["status"] for run in ended} == {"success"}
    assert max(run["epoch"] for run in ended) > 1, "no run lost its worker"
    for one in reading:
        one.join(30)
        assert not one.is_alive()
    assert max(one.connections for one in reading) > 1, "no reader came back"
    assert_complete(system, runs, reading, STEPS)


def assert_complete(system: Any, runs: list[dict[str, Any]], reading: list[Reading], steps: int) -> None:
    """What each reader got on the way is what the history says, every superstep once."""
    for run, one in zip(runs, reading, strict=True):
        fresh = Reading(system, run, MODES)
        fresh.start()
        fresh.join(30)
        assert one.blocks == fresh.blocks
        ids = [block.rpartition("id: ")[2] for block in one.blocks]
        assert len({*ids}) == len(ids)
        assert one.count("updates") == steps
        assert one.count("values") == steps + 1


def test_kill_the_broker_while_streams_are_read(start_system: Any, own_stack: Any) -> None:
    servers = own_stack("mongodb", "kafka")
    system = start_system(names=("gateway", "agent_step", "scheduler"), servers=servers)
    steps = 2 * STEPS
    runs = [system.start("chain", {"n": steps, "delay_s": 0.3}, config={"recursion_limit": 200}) for _ in range(6)]
    reading = [Reading(system, run, MODES) for run in runs]
    for one in reading:
        one.start()
    until_blocking(lambda: all(one.count("updates") >= 3 for one in reading), "streams are under way")
    servers.stop_server("kafka", kill=True)
    before = [one.count("updates") for one in reading]
    for one in reading[::2]:
        one.reconnect()
    until_blocking(
        lambda: all(one.count("updates") >= count + 5 for one, count in zip(reading, before, strict=True)),
        "readers are told of supersteps while the broker is away",
    )
    servers.start_server("kafka")
    for one in reading[::3]:
        one.reconnect()
    ended = system.until_ended(*runs, timeout_s=120)
    assert {run["status"] for run in ended} == {"success"}
    for one in reading:
        one.join(30)
        assert not one.is_alive()
    assert min(one.connections for one in reading[::2]) > 1, "a reader did not come back"
    assert_complete(system, runs, reading, steps)
