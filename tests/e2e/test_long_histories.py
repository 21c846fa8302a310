"""A history of many large states is answered whole, and the gateway does not hold it in memory."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import httpx
import orjson
import psutil
import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from perdure.checkpoint import PerdureSaver

pytestmark = [pytest.mark.timeout(300), pytest.mark.alone]

STATES = 160
STATE_BYTES = 1024 * 1024
GROWTH_BYTES = 64 * 1024 * 1024


async def fill(uri: str, thread: str, count: int, nbytes: int) -> None:
    """States that have nothing in common."""
    async with PerdureSaver.from_conn_string(uri) as saver:
        config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
        for step in range(count):
            checkpoint = empty_checkpoint()
            checkpoint["id"] = str(uuid6(clock_seq=step))
            checkpoint["channel_values"] = {"step": step, "text": os.urandom(nbytes // 2).hex()}
            checkpoint["channel_versions"] = versions = {"step": step + 1, "text": step + 1}
            metadata: Any = {"source": "loop", "step": step, "parents": {}}
            config = await saver.aput(config, checkpoint, metadata, versions)


class Watch:
    """The largest resident size of a process while it lasts."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.before = self.largest = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.largest = max(self.largest, self._process.memory_info().rss)


def test_memory_does_not_grow_with_the_history(start_system: Any) -> None:
    system = start_system(names=("gateway",))
    uri = system.services["gateway"].env["PERDURE_MONGODB_URI"]
    thread = system.http.post("/threads", json={}).raise_for_status().json()["thread_id"]
    asyncio.run(fill(uri, thread, STATES, STATE_BYTES))
    path = f"/threads/{thread}/history"
    few = system.http.post(path, json={"limit": 8}).raise_for_status().json()
    assert [state["values"]["step"] for state in few] == [*range(STATES - 1, STATES - 9, -1)]
    url, body = f"{system.services.gateway_url}{path}", b""
    with (
        Watch(system.services["gateway"].pid) as watch,
        httpx.stream("POST", url, json={"limit": 1000}, timeout=120) as answer,
    ):
        assert answer.status_code == 200
        body = b"".join(answer.iter_bytes())
    grown = watch.largest - watch.before
    states = orjson.loads(body)
    assert [state["values"]["step"] for state in states] == [*range(STATES - 1, -1, -1)]
    assert len(body) > STATES * STATE_BYTES
    assert states[:8] == few
    assert grown < GROWTH_BYTES, f"{grown / 2**20:.0f} MiB more for {len(body) / 2**20:.0f} MiB"
    older = system.http.post(path, json={"limit": 3, "before": few[-1]["checkpoint"]["checkpoint_id"]}).json()
    assert older == states[8:11]
    named = system.http.post(path, json={"limit": 1000, "metadata": {"step": 5}}).json()
    assert named == [states[-6]]
