"""Many starts at once against the gateway's own process: all durable, all different, and the cost of one, for reading."""

from __future__ import annotations

import asyncio
import json
import time
import uuid

import httpx
import pytest

from perdure.chassis import mongo
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.local.services import Services
from perdure.local.stack import Stack
from perdure.schemas import topics

pytestmark = pytest.mark.alone

CLIENTS = 64
STARTS = 1_280
INPUT_BYTES = 1024


async def test_many_starts_at_once(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    env = stack.environment()
    uri = env["PERDURE_MONGODB_URI"].rsplit("/", 1)[0] + f"/gateway_{uuid.uuid4().hex}"
    await TopicAdmin(env["PERDURE_KAFKA_BOOTSTRAP_SERVERS"]).apply(topics.ALL)
    client = mongo.connect(uri)
    database = mongo.database(client, uri)
    await database.graphs.insert_one({"_id": "agent", "nodes": []})
    services = Services.of(stack, ("gateway",), {"PERDURE_MONGODB_URI": uri})
    await asyncio.to_thread(services.start)
    try:
        process = services["gateway"]
        body = json.dumps({"assistant_id": "agent", "input": {"text": "x" * INPUT_BYTES}}).encode()
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=services.gateway_url, limits=limits, timeout=60) as http:
            took: list[float] = []
            ids: list[str] = []

            async def start_some() -> None:
                for _ in range(STARTS // CLIENTS):
                    asked = time.perf_counter()
                    answer = await http.post("/runs", content=body, headers={"Content-Type": "application/json"})
                    took.append(time.perf_counter() - asked)
                    assert answer.status_code == 202, answer.text
                    ids.append(answer.json()["run_id"])

            before = process.cpu_times().total_s
            await asyncio.gather(*(start_some() for _ in range(CLIENTS)))
            cpu_ms = (process.cpu_times().total_s - before) / STARTS * 1000
            metrics = (await http.get("/metrics")).text
        assert len(set(ids)) == STARTS
        assert await database.runs.count_documents({"settled": False, "status": "pending"}) == STARTS
        assert await database.threads.count_documents({}) == STARTS
        assert f'method="POST",route="/runs",status="202"}} {STARTS}.0' in metrics
        took.sort()
        with capsys.disabled():
            print(
                f"\n{STARTS} starts, {CLIENTS} clients, {INPUT_BYTES} bytes: {cpu_ms:.2f} CPU-ms a start in the gateway, "
                f"p50 {took[STARTS // 2] * 1000:.0f} ms, p99 {took[STARTS * 99 // 100] * 1000:.0f} ms"
            )
    finally:
        await asyncio.to_thread(services.stop)
        await client.drop_database(database.name)
        client.close()
