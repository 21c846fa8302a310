"""Reads streams of threads as clients do who come back: after every break they send the id of the last event that they got.

Contract: :meth:`Readers.follow` may be called from any thread; reading goes on until :meth:`Readers.stop`. Nothing is judged here.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

AGAIN_S = 0.4
SILENCE_S = 16.0
"""Without a heartbeat for so long, a reader connects again."""
MODES = ("values", "updates", "custom")
"""What followed agents are started with."""


@dataclass(slots=True)
class Streamed:
    """What one reader was told."""

    events: list[tuple[str, str]] = field(default_factory=list)
    """Id and name, in their order."""
    ends: list[str] = field(default_factory=list)
    """Ids of the events that said that a run is done."""
    connections: int = 0

    @property
    def last_seq(self) -> int:
        """The number of the history entry that the last event was about."""
        return place(self.events[-1][0])[0] if self.events else 0


def place(event_id: str) -> tuple[int, int, int]:
    """Where an id stands: entry, whether it is a chunk after it, number; ``(0, 0, 0)`` for what is none."""
    kind = 1 if "+" in event_id else 0
    seq, _, number = event_id.partition("+" if kind else "-")
    return (int(seq), kind, int(number)) if seq.isdigit() and number.isdigit() else (0, 0, 0)


class Readers:
    """Readers of many threads, on an event loop of their own.

    Args:
        url: The gateway's.
        credentials: Headers that say who calls.

    """

    def __init__(self, url: str, credentials: Mapping[str, str]) -> None:
        self._url = url
        self._credentials = credentials
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="readers", daemon=True)
        self._thread.start()
        self._http: aiohttp.ClientSession | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.streamed: dict[str, Streamed] = {}

    def follow(self, thread_id: str) -> None:
        """Begin to read a thread, from its beginning."""
        self._loop.call_soon_threadsafe(self._begin, thread_id)

    def stop(self, last: Mapping[str, int], within_s: float) -> dict[str, Streamed]:
        """Let each reader come to the entry that ``last`` names for its thread, but no longer than that; what was read."""
        if self._thread.is_alive():
            deadline = time.monotonic() + within_s
            while time.monotonic() < deadline and any(
                one.last_seq < last.get(thread, 0) for thread, one in self.streamed.items()
            ):
                time.sleep(0.1)
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()
        return self.streamed

    def _begin(self, thread_id: str) -> None:
        if thread_id not in self.streamed:
            self.streamed[thread_id] = streamed = Streamed()
            self._tasks.append(self._loop.create_task(self._read(thread_id, streamed)))

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    async def _read(self, thread_id: str, streamed: Streamed) -> None:
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=SILENCE_S)
            self._http = aiohttp.ClientSession(
                self._url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0), headers=self._credentials
            )
        while True:
            last = streamed.events[-1][0] if streamed.events else "-1"
            try:
                async with self._http.get(f"/threads/{thread_id}/stream", headers={"Last-Event-ID": last}) as answer:
                    if answer.status == 200:
                        streamed.connections += 1
                        await self._events(answer, streamed)
            except (aiohttp.ClientError, TimeoutError):
                pass  # a gateway that is away, paused or killed: read on from the same place
            await asyncio.sleep(AGAIN_S)

    @staticmethod
    async def _events(answer: aiohttp.ClientResponse, streamed: Streamed) -> None:
        """Note the events of one connection; one without its blank line was cut off and does not count."""
        fields: dict[str, str] = {}
        async for raw in answer.content:
            line = raw.decode().rstrip("\r\n")
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            if "event" in fields and "id" in fields:
                streamed.events.append((fields["id"], fields["event"]))
                if fields["event"] == "metadata" and json.loads(fields["data"]).get("status") == "run_done":
                    streamed.ends.append(fields["id"])
            fields = {}
