"""Dead letters while a server is away: they are kept when the database is back, and sent when the broker is."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import confluent_kafka
import httpx
import pytest
from tests.support.polling import until_blocking

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.cli.provision import provision
from perdure.local.services import Services
from perdure.local.stack import Stack
from perdure.schemas import topics
from perdure.schemas.commands import StartReason, StartRun
from perdure.schemas.deadletter import Reason, dead_headers
from perdure.schemas.envelope import encode

pytestmark = pytest.mark.timeout(180)

DEADLINE_S = 60.0


def test_outages_lose_no_letter_and_no_redrive(own_stack: Callable[..., Stack]) -> None:
    stack = own_stack("mongodb", "kafka")
    environment = stack.environment()
    provision(environment)
    bootstrap, uri = environment["PERDURE_KAFKA_BOOTSTRAP_SERVERS"], environment["PERDURE_MONGODB_URI"]
    thread, run = uuid.uuid4().hex, uuid.uuid4().hex
    message = StartRun(tenant="default", thread_id=thread, run_id=run, reason=StartReason.REGISTERED)
    record = encode(message, id=run, source="test", correlation_id=run, time=now())
    headers = dead_headers(
        record.headers,
        reason=Reason.PAYLOAD,
        detail="made for a test",
        topic=topics.COMMANDS.name,
        partition=3,
        offset=7,
        consumer="test",
        time=datetime.now(UTC),
    )
    with Services.of(stack, ("gateway", "scheduler")) as services, mongo.connect_blocking(uri) as client:
        letters = client[mongo.database_name(uri)].dead_letters
        http = httpx.Client(base_url=services.gateway_url, timeout=30)
        stack.stop_server("mongodb", kill=True)
        producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap})
        producer.produce(topics.COMMANDS.dead, record.value, record.key, headers=[*headers])
        producer.flush(DEADLINE_S)
        assert http.get("/dead-letters").status_code == 503
        stack.start_server("mongodb")
        until_blocking(lambda: letters.find_one({"_id": "perdure.commands:3:7"}), "the letter after the outage")
        until_blocking(lambda: http.get("/dead-letters").status_code == 200, "the gateway after the outage")

        stack.stop_server("kafka")
        path = "/dead-letters/perdure.commands:3:7"
        answer = http.post(f"{path}/redrive")
        assert answer.status_code == 503
        assert answer.json()["type"].endswith("kafka-unavailable")
        assert http.get(path).json()["state"] == "open"
        again = http.post(f"{path}/redrive")
        assert "at this moment" in again.json()["detail"], "somebody is at it"
        stack.start_server("kafka")
        until_blocking(lambda: http.get(path).json()["state"] == "redriven", "the redrive after the outage")
        reader = confluent_kafka.Consumer({"bootstrap.servers": bootstrap, "group.id": "look"})
        partitions = range(topics.COMMANDS.partitions)
        reader.assign([confluent_kafka.TopicPartition(topics.COMMANDS.name, n, 0) for n in partitions])
        first = reader.consume(1, DEADLINE_S)
        assert [(one.key(), one.value()) for one in first] == [(record.key, record.value)]
        assert reader.consume(1, 1.0) == [], "sent twice"
        reader.close()
        http.close()
