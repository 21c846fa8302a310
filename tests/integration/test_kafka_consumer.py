"""Consuming from a real broker: nothing stops it, nothing is acknowledged before it was handled."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import confluent_kafka
import pytest
from tests.support.polling import until

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.consumer import Consumer, Handler, Subscription
from perdure.chassis.kafka.deadletter import Keep
from perdure.chassis.kafka.isolation import LONE_FAILURES
from perdure.chassis.kafka.producer import KafkaRefusedError, Producer
from perdure.chassis.kafka.raw import origin_of
from perdure.chassis.outage import Availability
from perdure.registry.dead_letters import Letters, letter_of
from perdure.schemas.commands import COMMANDS, StartReason, StartRun
from perdure.schemas.envelope import Decoded, Record, encode
from perdure.schemas.topics import Topic

DEADLINE_S = 40.0
VICTIM = Path(__file__).parent / "kafka_victim.py"


@pytest.fixture
async def producer(kafka_bootstrap: str) -> AsyncIterator[Producer]:
    made = Producer(kafka_bootstrap, "test")
    yield made
    await made.close()


@pytest.fixture
async def topic(kafka_bootstrap: str) -> Topic:
    made = Topic(f"test.{uuid.uuid4().hex}", 1, {"max.message.bytes": "1048576"})
    await TopicAdmin(kafka_bootstrap).apply([made, Topic(made.dead, 1)])
    return made


def command(run: str) -> Record:
    message = StartRun(tenant="t", thread_id="thread", run_id=run, reason=StartReason.REGISTERED)
    return encode(message, id=run, source="test", correlation_id=run, time=now())


def run_ids(batch: Sequence[Decoded]) -> list[str]:
    return [m.message.run_id for m in batch if isinstance(m.message, StartRun)]


@contextlib.asynccontextmanager
async def consuming(
    bootstrap: str, topic: Topic, handler: Handler, producer: Producer, group: str = "group", keep: Keep | None = None
) -> AsyncIterator[tuple[Consumer, asyncio.Task[None]]]:
    subscription = Subscription(topic, f"{group}.{topic.name}", COMMANDS)
    consumer = Consumer(bootstrap, "consumer-1", subscription, handler, producer, keep=keep)
    task = asyncio.create_task(consumer.run())
    try:
        yield consumer, task
    finally:
        consumer.stop()
        await asyncio.wait({task}, timeout=DEADLINE_S)
        assert task.done(), "the consumer does not stop"


async def lag_is(bootstrap: str, topic: Topic, expected: int, group: str = "group") -> bool:
    return await TopicAdmin(bootstrap).lag(f"{group}.{topic.name}", topic) == expected


def read_all(bootstrap: str, topic: str, count: int) -> list[confluent_kafka.Message]:
    reader = confluent_kafka.Consumer({"bootstrap.servers": bootstrap, "group.id": "none", "enable.auto.commit": False})
    reader.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    found = reader.consume(count, DEADLINE_S)
    reader.close()
    return list(found)


def without(record: Record, *names: str) -> list[tuple[str, bytes]]:
    return [(name, value) for name, value in record.headers if name not in names]


async def test_what_cannot_be_read_is_buried_and_the_next_is_handled(
    kafka_bootstrap: str, producer: Producer, topic: Topic
) -> None:
    good = command("good")
    version = [*without(good, "ce_schemaversion"), ("ce_schemaversion", b"99")]
    type_ = [*without(good, "ce_type"), ("ce_type", b"perdure.run.paint")]
    bad = {
        "payload": Record(b"key-1", b"\x00\xffnot json", good.headers),
        "unknown_version": Record(b"key-2", b'{"new": "shape"}', version),
        "unknown_type": Record(b"key-3", b"{}", type_),
        "envelope": Record(b"key-4", good.value, without(good, "ce_id")),
    }
    seen: list[str] = []

    async def handle(batch: Sequence[Decoded]) -> None:
        seen.extend(run_ids(batch))

    for record in (*bad.values(), good):
        await producer.send(topic.name, record)
    async with consuming(kafka_bootstrap, topic, handle, producer):
        await until(lambda: seen == ["good"], "the good record after the bad ones")
        await until(lambda: lag_is(kafka_bootstrap, topic, 0), "all offsets committed")
    dead = read_all(kafka_bootstrap, topic.dead, len(bad))
    assert [m.value() for m in dead] == [r.value for r in bad.values()]
    assert [m.key() for m in dead] == [r.key for r in bad.values()]
    for offset, (message, (reason, record)) in enumerate(zip(dead, bad.items(), strict=True)):
        headers = message.headers() or []
        assert headers[: len(record.headers)] == record.headers
        added = dict(headers[len(record.headers) :])
        assert added["perdure_dead_reason"] == reason.encode()
        assert added["perdure_dead_detail"]
        assert added["perdure_dead_topic"] == topic.name.encode()
        assert (added["perdure_dead_partition"], added["perdure_dead_offset"]) == (b"0", b"%d" % offset)
        assert added["perdure_dead_consumer"] == b"consumer-1"


async def test_records_of_strangers_do_not_stop_it(kafka_bootstrap: str, producer: Producer, topic: Topic) -> None:
    stranger = confluent_kafka.Producer({"bootstrap.servers": kafka_bootstrap})
    stranger.produce(topic.name, value=None, key=None)
    stranger.produce(topic.name, value=b"hello", key=b"\xff", headers=[("ce_id", None), ("x", b"\xff")])
    stranger.flush(DEADLINE_S)
    seen: list[str] = []

    async def handle(batch: Sequence[Decoded]) -> None:
        seen.extend(run_ids(batch))

    await producer.send(topic.name, command("good"))
    async with consuming(kafka_bootstrap, topic, handle, producer):
        await until(lambda: seen == ["good"], "the good record")
    dead = read_all(kafka_bootstrap, topic.dead, 2)
    assert not dead[0].value()
    assert (dead[1].key(), dead[1].value()) == (b"\xff", b"hello")
    assert dict(dead[1].headers() or [])["perdure_dead_reason"] == b"envelope"


class Hiccup(Exception):
    retryable = True


async def test_a_retryable_error_brings_the_same_batch_again_and_stores_nothing(
    kafka_bootstrap: str, producer: Producer, topic: Topic
) -> None:
    tries: list[list[str]] = []
    committed: list[int] = []

    async def handle(batch: Sequence[Decoded]) -> None:
        tries.append(run_ids(batch))
        if len(tries) < 3:
            # Longer than the interval of the background commit: had the offset been stored, it would be committed now.
            await asyncio.sleep(0.8)
            committed.append(await TopicAdmin(kafka_bootstrap).lag(f"group.{topic.name}", topic))
            raise Hiccup

    await producer.send(topic.name, command("a"))
    async with consuming(kafka_bootstrap, topic, handle, producer):
        await until(lambda: len(tries) >= 3, "the third try")
        await until(lambda: lag_is(kafka_bootstrap, topic, 0), "the offset after the handler returned")
    assert tries == [["a"], ["a"], ["a"]]
    assert committed == [1, 1]


async def test_it_stops_although_its_handler_never_succeeds(
    kafka_bootstrap: str, producer: Producer, topic: Topic
) -> None:
    tries = 0
    seen: list[str] = []

    async def refuse(batch: Sequence[Decoded]) -> None:
        nonlocal tries
        tries += 1
        raise Hiccup

    async def handle(batch: Sequence[Decoded]) -> None:
        seen.extend(run_ids(batch))

    await producer.send(topic.name, command("a"))
    async with consuming(kafka_bootstrap, topic, refuse, producer) as (consumer, task):
        await until(lambda: tries > 0, "the first try")
        consumer.stop()
        await asyncio.wait_for(task, DEADLINE_S)
    async with consuming(kafka_bootstrap, topic, handle, producer):
        await until(lambda: seen == ["a"], "the record, for the next consumer")


async def test_a_record_that_its_handler_cannot_take_is_dead_lettered_alone(
    kafka_bootstrap: str, producer: Producer, topic: Topic
) -> None:
    seen: list[str] = []

    async def handle(batch: Sequence[Decoded]) -> None:
        if "bad" in run_ids(batch):
            raise ZeroDivisionError("nobody divides by zero")
        seen.extend(run_ids(batch))

    for run in ("a", "b", "bad", "c", "d"):
        producer.produce(topic.name, command(run))
    async with consuming(kafka_bootstrap, topic, handle, producer) as (consumer, task):
        await until(lambda: lag_is(kafka_bootstrap, topic, 0), "all offsets committed")
        await producer.send(topic.name, command("after"))
        await until(lambda: "after" in seen, "the record after them")
        assert consumer.ready
        assert not task.done()
    assert list(dict.fromkeys(seen)) == ["a", "b", "c", "d", "after"]
    (dead,) = read_all(kafka_bootstrap, topic.dead, 1)
    assert dead.value() == command("bad").value
    added = dict(dead.headers() or [])
    assert added["perdure_dead_reason"] == b"handler"
    assert added["perdure_dead_detail"] == b"ZeroDivisionError: nobody divides by zero"


async def test_when_every_record_fails_they_are_held_and_not_dead_lettered(
    kafka_bootstrap: str, producer: Producer, topic: Topic
) -> None:
    broken, tries, seen = True, 0, set[str]()

    async def handle(batch: Sequence[Decoded]) -> None:
        nonlocal tries
        tries += 1
        if broken:
            raise OSError("the disk is gone")
        seen.update(run_ids(batch))

    expected = {f"run-{number}" for number in range(40)}
    for run in sorted(expected):
        await producer.send(topic.name, command(run))
    async with consuming(kafka_bootstrap, topic, handle, producer) as (consumer, _):
        await until(lambda: consumer.ready, "the partitions")
        await until(lambda: not consumer.ready, "it is not ready, since it cannot handle anything")
        before = tries
        await until(lambda: tries > before, "it tries again")
        buried = await dead_count(kafka_bootstrap, topic)
        assert buried <= LONE_FAILURES
        broken = False
        await until(lambda: lag_is(kafka_bootstrap, topic, 0), "everything is handled once the handler works")
        assert consumer.ready
    assert len(seen) == len(expected) - buried
    assert await dead_count(kafka_bootstrap, topic) == buried


async def dead_count(bootstrap: str, topic: Topic) -> int:
    return await TopicAdmin(bootstrap).lag(f"nobody.{topic.dead}", Topic(topic.dead, 1))


async def test_a_dead_letter_that_kafka_refuses_is_kept_elsewhere_and_the_next_record_is_handled(
    kafka_bootstrap: str, mongodb_uri: str, producer: Producer
) -> None:
    topic = Topic(f"test.{uuid.uuid4().hex}", 1)
    await TopicAdmin(kafka_bootstrap).apply([topic, Topic(topic.dead, 1, {"max.message.bytes": "20000"})])
    seen: list[str] = []

    async def handle(batch: Sequence[Decoded]) -> None:
        seen.extend(run_ids(batch))

    large = Record(b"k", os.urandom(40_000), command("large").headers)
    client = mongo.connect(mongodb_uri)
    db = client[f"letters_{uuid.uuid4().hex}"]
    keep = Letters(db, Availability()).keep
    await producer.send(topic.name, large)
    await producer.send(topic.name, command("good"))
    async with consuming(kafka_bootstrap, topic, handle, producer, keep=keep):
        await until(lambda: seen == ["good"], "the record after the one that cannot be buried")
        await until(lambda: lag_is(kafka_bootstrap, topic, 0), "all offsets committed")
    (letter,) = await db.dead_letters.find().to_list(None)
    assert letter["_id"] == f"{topic.name}:0:0"
    assert (letter["value"], letter["reason"], letter["consumer"]) == (large.value, "payload", "consumer-1")
    assert await dead_count(kafka_bootstrap, topic) == 0
    await client.drop_database(db.name)
    client.close()


@pytest.mark.parametrize("dead_topic", [True, False], ids=["too large", "no such topic"])
async def test_without_a_database_a_dead_letter_that_kafka_refuses_does_not_stop_the_consumer(
    kafka_bootstrap: str, producer: Producer, dead_topic: bool
) -> None:
    topic = Topic(f"test.{uuid.uuid4().hex}", 1)
    beside = [Topic(topic.dead, 1, {"max.message.bytes": "20000"})] if dead_topic else []
    await TopicAdmin(kafka_bootstrap).apply([topic, *beside])
    seen: list[str] = []

    async def handle(batch: Sequence[Decoded]) -> None:
        seen.extend(run_ids(batch))

    large = Record(b"k", os.urandom(40_000), command("large").headers)
    await producer.send(topic.name, large)
    await producer.send(topic.name, command("good"))
    async with consuming(kafka_bootstrap, topic, handle, producer):
        await until(lambda: seen == ["good"], "the record after the one that cannot be buried")
    if dead_topic:
        (dead,) = read_all(kafka_bootstrap, topic.dead, 1)
        letter = letter_of(origin_of(dead))
        assert letter["_id"] == f"{topic.name}:0:0"
        assert letter["omitted"] == {"size": 40_000, "digest": hashlib.sha256(large.value).hexdigest()}
        assert letter["headers"] == [[name, value] for name, value in large.headers]


async def test_a_consumer_killed_before_it_stored_leaves_the_record_to_the_next(
    kafka_bootstrap: str, producer: Producer, topic: Topic
) -> None:
    seen: list[str] = []

    async def handle(batch: Sequence[Decoded]) -> None:
        seen.extend(run_ids(batch))

    await producer.send(topic.name, command("a"))
    victim = await asyncio.create_subprocess_exec(
        *(sys.executable, str(VICTIM), kafka_bootstrap, topic.name, f"group.{topic.name}", "handler"),
        stdout=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )
    assert victim.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        while await victim.stdout.readline() != b"handling a\n":
            assert victim.returncode is None
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    async with consuming(kafka_bootstrap, topic, handle, producer):
        await until(lambda: seen == ["a"], "the record that the dead consumer had in hand")


async def test_a_client_that_does_not_come_back_ends_its_process_and_says_where_it_is(
    kafka_bootstrap: str, topic: Topic
) -> None:
    victim = await asyncio.create_subprocess_exec(
        *(sys.executable, str(VICTIM), kafka_bootstrap, topic.name, f"group.{topic.name}", "client"),
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PERDURE_KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap},
    )
    async with asyncio.timeout(DEADLINE_S):
        _, told = await victim.communicate()
    assert victim.returncode == 1
    (stalled,) = [line for line in told.decode().splitlines() if "kafka.stalled" in line]
    assert "in _take" in stalled
    assert "service.stalled" in told.decode()


async def test_the_order_of_a_thread_is_kept_over_batches(
    kafka_bootstrap: str, producer: Producer, topic: Topic
) -> None:
    seen: list[str] = []

    async def handle(batch: Sequence[Decoded]) -> None:
        seen.extend(run_ids(batch))

    expected = [f"run-{n}" for n in range(2000)]
    for run in expected:
        producer.produce(topic.name, command(run))
    async with consuming(kafka_bootstrap, topic, handle, producer):
        await until(lambda: len(seen) >= len(expected), "all records")
    assert seen == expected


@pytest.mark.parametrize("size", [2_000_000, 9_000_000])
async def test_a_record_that_the_broker_refuses_is_an_error_that_says_so(
    kafka_bootstrap: str, producer: Producer, topic: Topic, size: int
) -> None:
    with pytest.raises(KafkaRefusedError, match=topic.name):
        await producer.send(topic.name, Record(b"k", os.urandom(size), []))
    await producer.send(topic.name, command("after"))


async def test_partitions_that_come_while_the_consumer_is_full_wait_as_well(
    kafka_bootstrap: str, producer: Producer, topic: Topic
) -> None:
    handled: list[str] = []
    room = 0

    async def handler(batch: Sequence[Decoded]) -> None:
        handled.extend(run_ids(batch))

    for number in range(5):
        await producer.send(topic.name, command(f"r{number}"))
    subscription = Subscription(topic, f"full.{topic.name}", COMMANDS)
    consumer = Consumer(kafka_bootstrap, "consumer-1", subscription, handler, producer, room=lambda: room)
    task = asyncio.create_task(consumer.run())
    try:
        await until(lambda: consumer.ready, "partitions are assigned")
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            assert handled == [], "records were taken without room"
            await asyncio.sleep(0.05)
        room = 10
        await until(lambda: len(handled) == 5, "the records are handled when there is room")
    finally:
        consumer.stop()
        await asyncio.wait({task}, timeout=DEADLINE_S)
