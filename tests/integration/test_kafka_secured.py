"""Every Kafka client proves who it is to a real broker with TLS, SASL and access control lists, and gets its grants alone."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Iterator, Sequence

import pytest
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType
from pydantic import SecretStr
from tests.support.polling import until
from tests.support.secured_kafka import SecuredKafka, secured_kafka, settings_of
from tests.support.token_server import token_server

from perdure.chassis.clock import now
from perdure.chassis.errors import UnavailableError
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.consumer import Consumer, Subscription
from perdure.chassis.kafka.deadletter import Origin
from perdure.chassis.kafka.producer import KafkaRefusedError, Producer
from perdure.chassis.kafka.settings import KafkaSettings
from perdure.chassis.kafka.tail import Tail, read_back
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.stream import EventStream, make_app
from perdure.schemas import commands, topics
from perdure.schemas.commands import StartReason, StartRun
from perdure.schemas.envelope import Decoded, Record, encode

SASL = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with secured_kafka(tmp_path_factory.mktemp("secured")) as running:
        asyncio.run(TopicAdmin(running.settings("admin")).apply(topics.ALL))
        yield running


def command(thread_id: str) -> Record:
    message = StartRun(tenant="default", thread_id=thread_id, run_id=f"{thread_id}-run", reason=StartReason.REGISTERED)
    return encode(message, id=uuid.uuid4().hex, source="test", correlation_id=message.run_id, time=now())


async def everything(kafka: KafkaSettings) -> None:
    """Use each kind of client: producer, consumer in a group, admin, lag reader, tail, reader of what was written before."""
    name, thread_id = uuid.uuid4().hex, uuid.uuid4().hex
    tailed: list[Origin] = []
    consumed: list[str] = []

    async def handle(batch: Sequence[Decoded]) -> None:
        consumed.extend(one.message.thread_id for one in batch)

    tail = Tail(kafka, name, topics.COMMANDS.name, lambda _: True, tailed.extend)
    tail.start()
    assert await tail.until_open(30)
    producer = Producer(kafka, name)
    consumer = Consumer(kafka, name, Subscription(topics.COMMANDS, name, commands.COMMANDS), handle, producer)
    consuming = asyncio.create_task(consumer.run())
    try:
        await producer.send(topics.COMMANDS.name, command(thread_id))
        await until(lambda: thread_id in consumed, "the record is consumed")
        await until(lambda: thread_id.encode() in [one.key for one in tailed], "the tail sees the record")
    finally:
        consumer.stop()
        await consuming
        await tail.stop()
        await producer.close()
    admin = TopicAdmin(kafka)
    assert topics.COMMANDS.name in await admin.existing()
    assert await admin.diff(topics.ALL) == []
    assert await admin.lag(name, topics.COMMANDS) == 0
    since = now().timestamp() - 60
    found, complete = await asyncio.to_thread(
        read_back, kafka, name, topics.COMMANDS.name, thread_id.encode(), since, records=10_000, within_s=20
    )
    assert complete
    assert [one.key for one in found] == [thread_id.encode()]


@pytest.mark.parametrize("mechanism", SASL)
async def test_every_kind_of_client_connects_by_password(broker: SecuredKafka, mechanism: str) -> None:
    await everything(broker.settings("admin", mechanism))


async def test_every_kind_of_client_connects_by_certificate(broker: SecuredKafka) -> None:
    await everything(broker.by_certificate("admin"))


async def test_every_kind_of_client_connects_by_token(broker: SecuredKafka) -> None:
    with token_server("admin") as tokens:
        await everything(broker.by_token(tokens.url))
        asked = tokens.asked
    secret = "Basic " + base64.b64encode(b"client:client-secret").decode()
    assert {(header, *form["grant_type"], *form["scope"]) for header, form in asked} == {
        (secret, "client_credentials", "kafka")
    }


async def test_faust_reads_events_by_token(broker: SecuredKafka) -> None:
    with token_server("admin") as tokens:
        await reads_events(IndexerSettings(**broker.by_token(tokens.url).model_dump()))


@pytest.mark.parametrize("mechanism", SASL)
async def test_faust_reads_events(broker: SecuredKafka, mechanism: str) -> None:
    await reads_events(IndexerSettings(**settings_of(broker.environment("admin", mechanism))))


async def test_faust_reads_events_by_certificate(broker: SecuredKafka) -> None:
    await reads_events(IndexerSettings(**broker.by_certificate("admin").model_dump()))


async def reads_events(settings: IndexerSettings) -> None:
    handled: list[bytes | None] = []
    thread_id = uuid.uuid4().hex

    async def handle(batch: Sequence[Origin]) -> None:
        handled.extend(one.key for one in batch)

    async def settle() -> None:
        return None

    app = make_app(settings)
    stream, stopping = EventStream(app, settings, handle, settle), asyncio.Event()
    await app.start()
    reading = asyncio.create_task(stream.run(stopping))
    producer = Producer(settings, "test")
    try:
        await producer.send(topics.EVENTS.name, Record(thread_id.encode(), b"{}", []))
        await until(lambda: thread_id.encode() in handled, "Faust hands the event over", 90)
    finally:
        stopping.set()
        await reading
        await app.stop()
        await producer.close()


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"kafka_sasl_password": SecretStr("guessed")}, id="password"),
        pytest.param({"kafka_ssl_ca_file": None}, id="unknown authority"),
        pytest.param({"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_ssl_ca_file": None}, id="no encryption"),
    ],
)
async def test_a_client_with_wrong_security_is_not_connected(broker: SecuredKafka, wrong: dict[str, object]) -> None:
    admin = TopicAdmin(broker.settings("admin", **wrong), timeout_s=3)
    with pytest.raises(UnavailableError):
        await admin.existing()


async def test_an_address_alone_is_not_connected(broker: SecuredKafka) -> None:
    with pytest.raises(UnavailableError):
        await TopicAdmin(broker.address, timeout_s=3).existing()


async def test_a_user_without_grants_sees_and_writes_nothing(broker: SecuredKafka) -> None:
    stranger = broker.settings("stranger")
    assert await TopicAdmin(stranger).existing() == {}
    producer = Producer(stranger, "stranger")
    try:
        with pytest.raises(KafkaRefusedError, match="authorization"):
            await producer.send(topics.COMMANDS.name, command("forged"))
    finally:
        await producer.close()


async def test_a_grant_opens_one_topic(broker: SecuredKafka) -> None:
    grant = AclBinding(
        ResourceType.TOPIC,
        topics.COMMANDS.name,
        ResourcePatternType.LITERAL,
        "User:validator",
        "*",
        AclOperation.WRITE,
        AclPermissionType.ALLOW,
    )
    broker.grant([grant])
    producer = Producer(broker.settings("validator"), "validator")
    try:
        await producer.send(topics.COMMANDS.name, command("granted"))
        with pytest.raises(KafkaRefusedError, match="authorization"):
            await producer.send(topics.VERDICTS.name, command("not granted"))
    finally:
        await producer.close()
    assert {*await TopicAdmin(broker.settings("validator")).existing()} == {topics.COMMANDS.name}
