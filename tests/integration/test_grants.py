"""Servers that ask who everybody is, with the users and grants that the table gives: what is not granted is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.support.secured_kafka import SecuredKafka, bindings, secured_kafka
from tests.support.secured_mongodb import SecuredMongodb, refusal, secured_mongodb

from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import KafkaRefusedError, Producer
from perdure.cli.grants import role
from perdure.cli.provision import provision
from perdure.schemas import documents, key_documents, notices, topics
from perdure.schemas.envelope import Record
from perdure.schemas.grants import SERVICES

pytestmark = pytest.mark.timeout(300)


@dataclass
class Secured:
    """The secured servers."""

    kafka: SecuredKafka
    mongodb: SecuredMongodb

    def environment(self, user: str) -> dict[str, str]:
        stores = self.mongodb.environment(user) if SERVICES[user].collections else {}
        return self.kafka.environment(user) | stores


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    with secured_kafka(folder, ("admin", *SERVICES)) as kafka, secured_mongodb(folder / "store") as mongodb:
        kafka.grant([one for name in SERVICES for one in bindings(name)])
        for name, grants in SERVICES.items():
            if grants.collections:
                mongodb.add(name, role(name, grants, "perdure"))
        yield Secured(kafka, mongodb)


def test_an_operator_may_prepare_the_servers(secured: Secured) -> None:
    provision(secured.environment("operator"))
    existing = asyncio.run(TopicAdmin(secured.kafka.settings("operator")).existing())
    assert {topic.name for topic in topics.ALL} <= set(existing)


@pytest.mark.parametrize(
    ("service", "topic"),
    [
        ("agent-step", topics.VERDICTS),
        ("validator", topics.COMMANDS),
        ("validator", topics.EVENTS),
        ("indexer", topics.EVENTS),
        ("notifier", topics.VERDICTS),
        ("notifier", topics.COMMANDS),
        ("scheduler", topics.VERDICTS),
    ],
)
async def test_kafka_refuses_what_is_not_granted(secured: Secured, service: str, topic: topics.Topic) -> None:
    producer = Producer(secured.kafka.settings(service), service)
    try:
        with pytest.raises(KafkaRefusedError, match="authorization"):
            async with asyncio.timeout(60):
                await producer.send(topic.name, Record(b"thread", b"{}", []))
    finally:
        await producer.close()


@pytest.mark.parametrize(
    ("service", "collection", "action"),
    [
        ("agent-step", key_documents.API_KEYS, "find"),
        ("agent-step", notices.SUBSCRIPTIONS, "find"),
        ("agent-step", notices.DELIVERIES, "insert"),
        ("notifier", documents.WAITS, "update"),
        ("notifier", documents.EFFECTS, "find"),
        ("notifier", documents.RUNS, "insert"),
        ("gateway", documents.EFFECTS, "insert"),
        ("scheduler", key_documents.API_KEYS, "find"),
    ],
)
def test_mongodb_refuses_what_is_not_granted(secured: Secured, service: str, collection: str, action: str) -> None:
    assert "not authorized" in refusal(secured.mongodb.access(service), collection, action)
