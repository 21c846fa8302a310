"""The load generator: starts runs over HTTP, and sees their ends and their checkpoints on ``perdure.events``.

Contract: a closed loop; at most ``opened`` runs are open and at most ``clients`` requests are under way at a time.
A run is open from its POST until its end is seen. Times are of the client: an acknowledgement is POST to 202, end to end
is POST to the end seen on the topic. Nothing is polled, except the index, for a sample of the checkpoints.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp
import orjson

from perdure.chassis.kafka.consumer import Consumer, Subscription
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.kafka.settings import KafkaAddress
from perdure.chassis.opensearch import OpenSearch
from perdure.schemas.envelope import Decoded
from perdure.schemas.events import (
    EVENTS,
    CheckpointSaved,
    RunCancelled,
    RunFailed,
    RunInterrupted,
    RunSucceeded,
    RunTimedOut,
)
from perdure.schemas.index import STATES
from perdure.schemas.topics import EVENTS as EVENTS_TOPIC

RUN_TIMEOUT_S = 120.0
_SEARCH_EVERY_S = 0.2
_SEARCH_SIZE = 1000
_ENDS = (RunSucceeded, RunFailed, RunTimedOut, RunCancelled)


class Watcher:
    """Reads every event: waits and ends of runs, and the checkpoints of every ``sample``-th thread that it sees (0: of none)."""

    def __init__(self, kafka: KafkaAddress, sample: int) -> None:
        self._producer = Producer(kafka, "bench")
        subscription = Subscription(EVENTS_TOPIC, f"bench-{uuid4().hex[:8]}", EVENTS, batch=2000)
        self._consumer = Consumer(kafka, "bench", subscription, self._handle, self._producer)
        self._task = asyncio.create_task(self._consumer.run())
        self._ends: dict[str, asyncio.Future[tuple[float, str]]] = {}
        self.sample = sample
        self._threads: dict[str, bool] = {}
        self.unseen: dict[str, float] = {}
        """Sampled checkpoints that are not known to be searchable: id to the time of the event (epoch seconds)."""
        self.parked: set[str] = set()
        """Threads that have ever come to a wait."""
        self.late_s: dict[str, float] = {}
        """What ``graphs/sleeper.py`` noted, by thread: seconds from the time it asked for until its code ran again."""
        self.resumed_at: dict[str, float] = {}
        """What ``graphs/approve.py`` noted, by thread: when (epoch seconds) its code ran again."""
        self.checkpoints = 0
        self.events = 0

    async def ready(self) -> None:
        """Wait until partitions are assigned."""
        while not self._consumer.ready:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.05)

    async def end(self, thread_id: str, timeout_s: float = RUN_TIMEOUT_S) -> tuple[float, str]:
        """When (``perf_counter``) and how the thread's run ended."""
        try:
            return await asyncio.wait_for(self._end(thread_id), timeout_s)
        finally:
            self._ends.pop(thread_id, None)

    async def close(self) -> None:
        """Leave the group."""
        self._consumer.stop()
        await self._task
        await self._producer.close()

    def _end(self, thread_id: str) -> asyncio.Future[tuple[float, str]]:
        return self._ends.setdefault(thread_id, asyncio.get_running_loop().create_future())

    async def _handle(self, batch: Sequence[Decoded]) -> None:
        now = time.perf_counter()
        self.events += len(batch)
        for decoded in batch:
            event = decoded.message
            if isinstance(event, CheckpointSaved):
                self.checkpoints += 1
                if self._sampled(event.thread_id):
                    self.unseen[event.checkpoint_id] = event.occurred_at.timestamp()
                if event.channels == ("late_s",):
                    self.late_s[event.thread_id] = float(event.text.split()[-1])
                elif event.nodes == ("asks",):
                    self.resumed_at[event.thread_id] = float(event.text.partition(".at\t")[2].partition("\n")[0])
            elif isinstance(event, RunInterrupted):
                self.parked.add(event.thread_id)
            elif isinstance(event, _ENDS):
                future = self._end(event.thread_id)
                if not future.done():
                    future.set_result((now, event.TYPE))

    def _sampled(self, thread_id: str) -> bool:
        if not self.sample:
            return False
        return self._threads.setdefault(thread_id, len(self._threads) % self.sample == 0)


@dataclass(slots=True)
class Measured:
    """What the clients saw, in seconds."""

    ack_s: list[float] = field(default_factory=list)
    end_to_end_s: list[float] = field(default_factory=list)
    searchable_s: list[float] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    wall_s: float = 0.0


class Load:
    """Runs of one graph, with inputs from ``make_input``."""

    def __init__(
        self,
        url: str,
        watcher: Watcher,
        make_input: Callable[[], Any],
        *,
        assistant_id: str,
        opened: int,
        clients: int,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url
        self._credentials = dict(credentials or {})
        self._watcher = watcher
        self._make_input = make_input
        self._assistant_id = assistant_id
        self._opened = opened
        self._clients = asyncio.Semaphore(clients)
        self._connections = clients

    async def run(self, agents: int) -> Measured:
        """Start ``agents`` runs and wait for all of their ends."""
        measured = Measured()
        numbers = iter(range(agents))
        connector = aiohttp.TCPConnector(limit=self._connections)
        async with aiohttp.ClientSession(connector=connector, headers=self._credentials) as session:

            async def work() -> None:
                for _ in numbers:
                    try:
                        await self._one(session, measured)
                    except (aiohttp.ClientError, TimeoutError, RuntimeError) as error:
                        measured.errors.append(f"{type(error).__name__}: {error}"[:200])

            started = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(min(self._opened, agents))))
            measured.wall_s = time.perf_counter() - started
        return measured

    async def _one(self, session: aiohttp.ClientSession, measured: Measured) -> None:
        body = orjson.dumps({"assistant_id": self._assistant_id, "input": self._make_input()})
        async with self._clients:
            started = time.perf_counter()
            headers = {"content-type": "application/json"}
            async with session.post(f"{self._url}/runs", data=body, headers=headers) as answer:
                content = await answer.read()
            acknowledged = time.perf_counter()
        if answer.status != 202:
            raise RuntimeError(f"POST /runs was answered {answer.status}: {content[:150]!r}")
        thread_id = orjson.loads(content)["thread_id"]
        ended, how = await self._watcher.end(thread_id)
        if how != RunSucceeded.TYPE:
            raise RuntimeError(f"thread {thread_id} ended with {how}")
        measured.threads.append(thread_id)
        measured.ack_s.append(acknowledged - started)
        measured.end_to_end_s.append(ended - started)


async def watch_index(opensearch: OpenSearch, watcher: Watcher, seen_s: list[float], stop: asyncio.Event) -> None:
    """Search for the sampled checkpoints five times a second; returns after ``stop`` when all have been found."""
    while not stop.is_set() or watcher.unseen:
        await asyncio.sleep(_SEARCH_EVERY_S)
        wanted = list(watcher.unseen)[:_SEARCH_SIZE]
        if not wanted:
            continue
        query = {
            "size": _SEARCH_SIZE,
            "_source": False,
            "docvalue_fields": ["checkpoint_id"],
            "query": {"terms": {"checkpoint_id": wanted}},
        }
        answer = await opensearch.request("POST", f"/{STATES}/_search", query, {"ignore_unavailable": "true"})
        now = time.time()
        for hit in answer["hits"]["hits"]:
            occurred_at = watcher.unseen.pop(hit["fields"]["checkpoint_id"][0], None)
            if occurred_at is not None:
                seen_s.append(now - occurred_at)


async def indexed_documents(opensearch: OpenSearch) -> int:
    """How many state changes can be found now."""
    answer = await opensearch.request("GET", f"/{STATES}/_count", params={"ignore_unavailable": "true"})
    return int(answer["count"])
