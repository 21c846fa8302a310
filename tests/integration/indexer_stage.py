"""One indexer on real servers of its own, and what it is given: ``bench``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.polling import until

from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.opensearch import OpenSearch
from perdure.indexer.stream import GROUP
from perdure.local.errors import LocalError
from perdure.local.services import ServiceProcess
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack
from perdure.schemas import topics
from perdure.schemas.envelope import Record, encode
from perdure.schemas.events import (
    CheckpointSaved,
    ErrorInfo,
    Event,
    RunFailed,
    RunStarted,
)
from perdure.schemas.index import STATES, STATES_WRITE

RULES = [
    {"path": "$..ssn", "action": "drop"},
    {"path": "$.customer.name", "action": "hash"},
    {"path": "$.messages[*].token", "action": "mask"},
]
NOON = datetime.now(UTC).replace(microsecond=0)


@dataclass
class Bench:
    """Servers, clients and one indexer."""

    stack: Stack
    env: dict[str, str]
    indexer: ServiceProcess
    opensearch: OpenSearch
    producer: Producer

    async def publish(self, *events: Event) -> None:
        await self.send(
            *[encode(e, id=e.event_id, source="/tests", correlation_id=e.run_id, time=now()) for e in events]
        )

    async def send(self, *records: Record) -> None:
        await asyncio.gather(*(self.producer.send(topics.EVENTS.name, record) for record in records))

    async def found(self, alias: str, **terms: str) -> list[dict[str, Any]]:
        """Documents that match, by thread and sequence number."""
        await self.opensearch.request("POST", f"/{alias}/_refresh")
        body = {
            "query": {"bool": {"filter": [{"term": {k: v}} for k, v in terms.items()]}},
            "sort": [{"thread_id": "asc"}, {"seq": "asc"}],
            "size": 10_000,
        }
        answer = await self.opensearch.request("POST", f"/{alias}/_search", body)
        return [hit["_source"] for hit in answer["hits"]["hits"]]

    async def until(self, count: int, **terms: str) -> list[dict[str, Any]]:
        """Wait until so many states are there."""
        what = f"{count} states with {terms}"
        return await until(lambda: self.found(STATES, **terms), what, holds=lambda states: len(states) >= count)

    async def until_lag_is(self, lag: int) -> None:
        admin = TopicAdmin(self.env["PERDURE_KAFKA_BOOTSTRAP_SERVERS"])
        await until(lambda: admin.lag(GROUP, topics.EVENTS), f"a lag of {lag}", holds=lambda now: now == lag)

    async def roll_over(self) -> None:
        """Begin a new states index now."""
        await self.opensearch.request("POST", f"/{STATES_WRITE}/_rollover", {"aliases": {STATES: {}}})


@pytest.fixture(scope="module", name="servers")
def indexer_servers() -> Iterator[Stack]:
    local = {"kafka_bootstrap_servers": None, "mongodb_uri": None, "opensearch_url": None}
    stack = Stack(LocalSettings().model_copy(update=local), ephemeral=True)
    try:
        try:
            stack.start()
        except LocalError as error:
            pytest.skip(f"the local stack could not be started: {error}")
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module", name="bench")
async def indexer_bench(servers: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    rules = tmp_path_factory.mktemp("rules") / "redaction.json"
    rules.write_text(json.dumps(RULES))
    env = servers.environment() | {
        "PERDURE_REDACTION_FILE": str(rules),
        "PERDURE_REDACTION_KEY": "a secret",
        "PERDURE_INDEX_ROLLOVER_CHECK_S": "0.5",
        "PERDURE_SHUTDOWN_GRACE_S": "6",
    }
    await TopicAdmin(env["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]).apply(topics.ALL)
    indexer = ServiceProcess("indexer", env, servers.folder)
    opensearch = OpenSearch(env["PERDURE_OPENSEARCH_URL"])
    producer = Producer(env["PERDURE_KAFKA_BOOTSTRAP_SERVERS"], "tests")
    indexer.start()
    yield Bench(servers, env, indexer, opensearch, producer)
    indexer.terminate()
    await producer.close()
    await opensearch.close()


def saved(thread: str, seq: int, tenant: str = "t", **more: Any) -> CheckpointSaved:
    fields: dict[str, Any] = {
        "tenant": tenant,
        "thread_id": thread,
        "run_id": f"{thread}-run",
        "graph_id": "billing",
        "assistant_id": "billing",
        "seq": seq,
        "epoch": 1,
        "occurred_at": NOON + timedelta(milliseconds=seq),
        "checkpoint_id": f"{seq:08d}",
        "step": seq,
        "source": "loop",
        "nodes": ("work",),
        "next": ("Login",),
        "channels": ("messages",),
        "text": f"$.messages[{seq}].content\tstate number {seq}",
    }
    return CheckpointSaved(**(fields | more))


def history(thread: str, tenant: str, steps: int) -> list[Event]:
    """A run that starts, works and fails at Login."""
    shared = saved(thread, 0, tenant).model_dump(
        include={"tenant", "thread_id", "run_id", "graph_id", "assistant_id", "epoch", "occurred_at"}
    )
    started = RunStarted(**shared, seq=1, worker_id="w")
    failed = RunFailed(
        **shared,
        seq=steps + 2,
        next=("Login",),
        error=ErrorInfo(type="TimeoutError", message="no answer", node="Login"),
    )
    return [started, *(saved(thread, seq, tenant) for seq in range(2, steps + 2)), failed]
