"""``topics apply`` against a real broker: creates, raises, sets back, never lowers, and is idempotent."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from perdure.chassis.errors import UnavailableError
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.local.resources import free_port
from perdure.schemas import topics
from perdure.schemas.envelope import Record
from perdure.schemas.topics import Topic


@pytest.fixture
def admin(kafka_bootstrap: str) -> TopicAdmin:
    return TopicAdmin(kafka_bootstrap)


@pytest.fixture
def name() -> str:
    return f"test.{uuid.uuid4().hex}"


def setting(bootstrap: str, topic: str, key: str) -> str:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    (found,) = admin.describe_configs([resource]).values()
    value: str = found.result(15)[key].value
    return value


def set_by_hand(bootstrap: str, topic: str, key: str, value: str) -> None:
    entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    (done,) = admin.incremental_alter_configs([resource]).values()
    done.result(15)


async def known(admin: TopicAdmin, group: str, topic: Topic) -> int:
    """The lag, once the broker has found who coordinates the group."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return await admin.lag(group, topic)
        except UnavailableError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_lag_is_what_a_group_has_not_committed(admin: TopicAdmin, kafka_bootstrap: str, name: str) -> None:
    topic = Topic(name, 2, {}, consumed=False, summary="A test.")
    assert await admin.lag(name, topic) == 0, "no such topic yet"
    await admin.apply([topic])
    producer = Producer(kafka_bootstrap, "test")
    for number in range(5):
        await producer.send(name, Record(b"%d" % number, b"x", []))
    await producer.close()
    assert await known(admin, name, topic) == 5, "it has committed nothing"
    consumer = Consumer({"bootstrap.servers": kafka_bootstrap, "group.id": name})
    found = consumer.committed([TopicPartition(name, 0), TopicPartition(name, 1)], 15)
    low, high = consumer.get_watermark_offsets(found[0], 15)
    consumer.commit(offsets=[TopicPartition(name, 0, high)], asynchronous=False)
    consumer.close()
    assert await admin.lag(name, topic) == 5 - (high - low)


async def test_the_declared_topics_are_created_once(admin: TopicAdmin) -> None:
    await admin.apply(topics.ALL)
    assert await admin.apply(topics.ALL) == []
    existing = await admin.existing()
    assert {t.name: t.partitions for t in topics.ALL} == {t.name: existing[t.name].partitions for t in topics.ALL}
    assert {existing[t.name].replication for t in topics.ALL} == {1}


async def test_a_diff_changes_nothing(admin: TopicAdmin, name: str) -> None:
    wanted = [Topic(name, 2, {"retention.ms": "1000000"})]
    (change,) = await admin.diff(wanted)
    assert (change.topic, change.action) == (name, "create")
    assert "2 partitions" in change.detail
    assert name not in await admin.existing()
    assert await admin.apply(wanted) == [change]
    assert await admin.diff(wanted) == []


async def test_partitions_are_raised_and_never_lowered(admin: TopicAdmin, name: str) -> None:
    await admin.apply([Topic(name, 2)])
    (change,) = await admin.apply([Topic(name, 5)])
    assert (change.action, change.detail) == ("add_partitions", "2 -> 5 partitions")
    assert (await admin.existing())[name].partitions == 5
    assert await admin.diff([Topic(name, 5)]) == []
    (kept,) = await admin.apply([Topic(name, 3)])
    assert kept.action == "keep_partitions"
    assert "never lowered" in kept.detail
    assert (await admin.existing())[name].partitions == 5


async def test_a_setting_changed_by_hand_is_set_back_and_others_are_left(
    admin: TopicAdmin, kafka_bootstrap: str, name: str
) -> None:
    wanted = [Topic(name, 1, {"retention.ms": "1000000"})]
    await admin.apply(wanted)
    set_by_hand(kafka_bootstrap, name, "retention.ms", "5")
    set_by_hand(kafka_bootstrap, name, "segment.ms", "700000")
    (change,) = await admin.apply(wanted)
    assert change.action == "set_config"
    assert change.detail == "retention.ms: 5 -> 1000000"
    assert setting(kafka_bootstrap, name, "retention.ms") == "1000000"
    assert setting(kafka_bootstrap, name, "segment.ms") == "700000"
    assert await admin.diff(wanted) == []


async def test_topics_that_nobody_declares_are_left_alone(admin: TopicAdmin, name: str) -> None:
    await admin.apply([Topic(name, 1)])
    await admin.apply(topics.ALL)
    assert name in await admin.existing()


async def test_two_at_once_do_not_fail(kafka_bootstrap: str, name: str) -> None:
    wanted = [Topic(f"{name}.{n}", 2) for n in range(5)]
    await asyncio.gather(*(TopicAdmin(kafka_bootstrap).apply(wanted) for _ in range(3)))
    assert await TopicAdmin(kafka_bootstrap).diff(wanted) == []


async def test_a_broker_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.chassis.kafka.admin.TIMEOUT_S", 1.0)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(UnavailableError, match=address):
        await TopicAdmin(address).diff(topics.ALL)
