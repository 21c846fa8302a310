"""The indexer on real servers of its own: replay, poison, refusals, redaction, outage, death, rollover, rebuild."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from perdure.chassis import mongo
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.indexer.rebuild import rebuild
from perdure.indexer.repair import repair
from perdure.indexer.rules import load
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.source import Source
from perdure.indexer.status import status
from perdure.indexer.stream import GROUP
from perdure.indexer.verify import verify
from perdure.indexer.writer import Writer
from perdure.local.errors import LocalError
from perdure.local.probes import probe_http
from perdure.local.services import ServiceProcess
from perdure.local.settings import LocalSettings
from perdure.local.stack import Stack
from perdure.schemas import topics
from perdure.schemas.envelope import Record, encode
from perdure.schemas.events import (
    NOTES_PER_SEQ,
    CheckpointSaved,
    ErrorInfo,
    Event,
    InterruptInfo,
    RunFailed,
    RunInterrupted,
    RunStarted,
)
from perdure.schemas.index import STATES, STATES_WRITE, THREADS
from perdure.schemas.outbox import event_of

pytestmark = pytest.mark.timeout(240)

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
        await self.send(*[encode(e, id=e.event_id, source="/tests", correlation_id=e.run_id) for e in events])

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
        deadline = time.monotonic() + 60
        while len(found := await self.found(STATES, **terms)) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} states"
            await asyncio.sleep(0.1)
        return found

    async def until_lag_is(self, lag: int) -> None:
        admin = TopicAdmin(self.env["PERDURE_KAFKA_BOOTSTRAP_SERVERS"])
        deadline = time.monotonic() + 60
        while (now := await admin.lag(GROUP, topics.EVENTS)) != lag:
            assert time.monotonic() < deadline, f"lag {now}"
            await asyncio.sleep(0.1)

    async def roll_over(self) -> None:
        """Begin a new states index now."""
        await self.opensearch.request("POST", f"/{STATES_WRITE}/_rollover", {"aliases": {STATES: {}}})


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
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


@pytest.fixture(scope="module")
async def bench(servers: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
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


async def test_replay_changes_nothing_also_after_a_rollover(bench: Bench) -> None:
    events = [event for n in range(3) for event in history(f"replay-{n}", "replay", 8)]
    await bench.publish(*events)
    first = await bench.until(30, tenant="replay")
    assert [(d["thread_id"], d["seq"]) for d in first] == [(f"replay-{n}", s) for n in range(3) for s in range(1, 11)]
    await bench.publish(*events)
    await bench.until_lag_is(0)
    assert await bench.found(STATES, tenant="replay") == first
    await bench.roll_over()
    await bench.publish(*events, saved("replay-9", 1, "replay"))
    assert (await bench.until(31, tenant="replay"))[:30] == first
    await bench.until_lag_is(0)
    assert len(await bench.found(STATES, tenant="replay")) == 31
    newest = await bench.found(THREADS, tenant="replay")
    assert [(d["thread_id"], d["seq"], d["status"]) for d in newest] == [
        ("replay-0", 10, "error"),
        ("replay-1", 10, "error"),
        ("replay-2", 10, "error"),
        ("replay-9", 1, "running"),
    ]
    assert newest[0]["error"] == {"type": "TimeoutError", "message": "no answer", "node": "Login"}


async def test_a_thread_in_a_hurry_is_written_once_a_second(bench: Bench) -> None:
    """Its states are all there; its newest state is written when a second is over, also when nothing comes any more."""

    async def writes() -> int:
        answer = await bench.opensearch.request("GET", f"/{THREADS}/_stats/indexing")
        return int(answer["_all"]["primaries"]["indexing"]["index_total"])

    before = await writes()
    for seq in range(1, 31):
        await bench.publish(saved("hurry", seq, "hurry"))
        await asyncio.sleep(0.05)
    await bench.until_lag_is(0)
    assert len(await bench.found(STATES, tenant="hurry")) == 30
    assert [d["seq"] for d in await bench.found(THREADS, tenant="hurry")] == [30]
    assert 1 <= await writes() - before <= 10


async def test_an_older_event_does_not_replace_the_newest_state(bench: Bench) -> None:
    await bench.publish(saved("order", 5, "order"))
    await bench.until(1, tenant="order")
    await bench.publish(saved("order", 4, "order"))
    await bench.until(2, tenant="order")
    await bench.until_lag_is(0)
    assert [d["seq"] for d in await bench.found(THREADS, tenant="order")] == [5]


async def test_poison_is_buried_and_consumption_goes_on(bench: Bench) -> None:
    good = [saved("poison", seq, "poison") for seq in (1, 3)]
    sound = encode(saved("poison", 2, "poison"), id="poison:2", source="/tests", correlation_id="r")
    garbage = Record(b"poison", b"\x00not json", sound.headers)
    nameless = Record(b"poison", sound.value, [h for h in sound.headers if h[0] != "ce_type"])
    newer = Record(b"poison", sound.value, [(k, b"99" if k == "ce_schemaversion" else v) for k, v in sound.headers])
    unmappable = encode(saved("poison", 4, "poison", step=2**63), id="poison:4", source="/tests", correlation_id="r")
    records = [encode(e, id=e.event_id, source="/tests", correlation_id="r") for e in good]
    await bench.send(records[0], garbage, nameless, newer, unmappable, records[1])
    found = await bench.until(2, tenant="poison")
    assert [d["seq"] for d in found] == [1, 3]
    letters = await asyncio.to_thread(dead_letters, bench.env["PERDURE_KAFKA_BOOTSTRAP_SERVERS"], b"poison", 4)
    reasons = {headers["perdure_dead_reason"]: (value, headers) for value, headers in letters}
    assert set(reasons) == {b"payload", b"envelope", b"unknown_version", b"handler"}
    value, headers = reasons[b"payload"]
    assert (value, headers["ce_id"]) == (b"\x00not json", b"poison:2")
    assert headers["perdure_dead_topic"] == topics.EVENTS.name.encode()
    assert reasons[b"handler"][0] == unmappable.value
    assert b"field [step] of type [long]" in reasons[b"handler"][1]["perdure_dead_detail"]


def dead_letters(servers: str, key: bytes, count: int) -> list[tuple[bytes | None, dict[str, Any]]]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.subscribe([topics.EVENTS.dead])
    found: list[tuple[bytes | None, dict[str, Any]]] = []
    deadline = time.monotonic() + 60
    try:
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} dead letters"
            message = consumer.poll(0.2)
            if message is not None and message.key() == key:
                found.append((message.value(), dict(message.headers() or [])))  # type: ignore[arg-type]
    finally:
        consumer.close()
    return found


async def test_redaction_comes_before_everything(bench: Bench) -> None:
    metadata = {"user": {"ssn": "078-05-1120", "city": "Oslo"}, "customer": {"name": "Ada"}}
    text = "$.user.ssn\t078-05-1120\n$.messages[3].token\tsk-12345\n$.messages[3].content\thello\\nworld\n$.customer.name\tAda"
    waiting = RunInterrupted(
        **saved("redact", 2, "redact").model_dump(
            include={"tenant", "thread_id", "run_id", "graph_id", "assistant_id", "epoch", "occurred_at"}
        ),
        seq=2,
        metadata=metadata,
        interrupts=(InterruptInfo(id="i1", value={"question": "Refund?", "ssn": "078-05-1120"}),),
    )
    await bench.publish(saved("redact", 1, "redact", text=text, metadata=metadata), waiting)
    state, wait = await bench.until(2, tenant="redact")
    assert "078-05" not in json.dumps([state, wait])
    assert "Ada" not in json.dumps([state, wait])
    masked, hello, world, hashed = state["text"].split("\n")
    assert (masked, hello, world) == ("***", "hello", "world")
    assert state["metadata"] == {"user": {"city": "Oslo"}, "customer": {"name": hashed}}
    assert wait["wait"] == {"ids": ["i1"], "text": "Refund?"}


async def test_the_mapping_is_strict(bench: Bench) -> None:
    for alias in (STATES_WRITE, THREADS):
        with pytest.raises(OpenSearchRefusedError) as refused:
            await bench.opensearch.request("PUT", f"/{alias}/_doc/x", {"thread_id": "x", "surprise": 1})
        assert refused.value.type == "strict_dynamic_mapping_exception"


async def test_opensearch_may_be_away(bench: Bench) -> None:
    pid = bench.indexer.pid
    bench.stack.stop_server("opensearch", kill=True)
    await bench.publish(*[event for n in range(40) for event in history(f"away-{n}", "away", 20)])
    ready = f"{bench.indexer.address}/ready"
    await eventually(lambda: probe_http(ready) is not None, "readiness says that OpenSearch is away")
    await bench.publish(saved("away-x", 1, "away"))
    bench.stack.start_server("opensearch")
    assert len(await bench.until(881, tenant="away")) == 881
    await bench.until_lag_is(0)
    await eventually(lambda: probe_http(ready) is None, "ready again")
    assert bench.indexer.pid == pid
    assert bench.indexer.running


async def test_a_batch_that_waits_is_not_lost_by_a_shutdown(bench: Bench) -> None:
    await bench.until_lag_is(0)
    bench.stack.stop_server("opensearch", kill=True)
    await bench.publish(*[saved(f"shutdown-{n}", 1, "shutdown") for n in range(200)])
    ready = f"{bench.indexer.address}/ready"
    await eventually(lambda: probe_http(ready) is not None, "readiness says that OpenSearch is away")
    await asyncio.to_thread(bench.indexer.terminate)
    await bench.until_lag_is(200)
    await asyncio.to_thread(bench.stack.start_server, "opensearch")
    await asyncio.to_thread(bench.indexer.start)
    assert len(await bench.until(200, tenant="shutdown")) == 200
    await bench.until_lag_is(0)


async def test_kafka_may_be_away(bench: Bench) -> None:
    await bench.publish(*history("broker", "broker", 3))
    await bench.until(5, tenant="broker")
    await asyncio.to_thread(bench.stack.stop_server, "kafka", kill=True)
    bench.producer.produce(
        topics.EVENTS.name, encode(saved("broker", 6, "broker"), id="broker:6", source="/tests", correlation_id="r")
    )
    await asyncio.to_thread(bench.stack.start_server, "kafka")
    assert len(await bench.until(6, tenant="broker")) == 6
    await bench.until_lag_is(0)
    assert bench.indexer.running


@pytest.mark.parametrize("kill", [True, False], ids=["SIGKILL", "SIGTERM"])
async def test_death_in_the_middle_loses_nothing(bench: Bench, kill: bool) -> None:
    tenant = f"death-{kill}"
    events = [saved(f"{tenant}-{n}", seq, tenant) for seq in range(1, 41) for n in range(100)]
    await bench.publish(*events)
    await bench.until(200, tenant=tenant)
    await asyncio.to_thread(bench.indexer.kill if kill else bench.indexer.terminate)
    await asyncio.to_thread(bench.indexer.start)
    assert len(await bench.until(4000, tenant=tenant)) == 4000
    await bench.until_lag_is(0)
    newest = await bench.found(THREADS, tenant=tenant)
    assert [d["seq"] for d in newest] == [40] * 100
    assert len(await bench.found(STATES, tenant=tenant)) == 4000


async def test_indexers_come_and_go(bench: Bench) -> None:
    second = ServiceProcess("indexer", bench.env, bench.stack.folder, instance=2)
    rounds = [[saved(f"share-{n}", seq, "share") for n in range(100)] for seq in range(1, 61)]
    await bench.publish(*[event for events in rounds[:20] for event in events])
    await asyncio.to_thread(second.start)
    try:
        await bench.publish(*[event for events in rounds[20:40] for event in events])
        await bench.until(2500, tenant="share")
    finally:
        await asyncio.to_thread(second.terminate)
    await bench.publish(*[event for events in rounds[40:] for event in events])
    assert len(await bench.until(6000, tenant="share")) == 6000
    await bench.until_lag_is(0)
    assert [d["seq"] for d in await bench.found(THREADS, tenant="share")] == [60] * 100


async def test_rebuild_equals_and_misses_nothing(bench: Bench) -> None:
    uri = bench.env["PERDURE_MONGODB_URI"]
    client = mongo.connect(uri)
    db = mongo.database(client, uri)
    await mongo.ensure_indexes(db)

    async def store(n: int) -> list[Event]:
        """What agent-step does: the documents first, then the events."""
        run, entries = stored_run(n)
        await db.notebook.insert_many(entries)
        await db.runs.insert_one(run)
        events = [event for entry in entries if (event := event_of(run, entry)) is not None]
        await bench.publish(*events)
        return events

    for n in range(30):
        await store(n)
    before = await bench.until(30 * 4, tenant="rebuild")
    await bench.until_lag_is(0)
    threads = await bench.found(THREADS, tenant="rebuild")
    await bench.publish(saved("orphan", 1, "rebuild-orphan"))  # in no store: a rebuild does not keep it
    await bench.until(1, tenant="rebuild-orphan")
    old = set(await bench.opensearch.request("GET", f"/_alias/{STATES},{STATES_WRITE},{THREADS}"))

    ended = asyncio.Event()

    async def meanwhile() -> int:
        n = 30
        while not ended.is_set():
            await store(n)
            n += 1
            await asyncio.sleep(0.02)
        return n

    busy = asyncio.ensure_future(meanwhile())
    settings = IndexerSettings(**{k.removeprefix("PERDURE_").lower(): v for k, v in bench.env.items()})  # type: ignore[arg-type]
    phases: list[str] = []
    report = await rebuild(settings, lambda state: phases.append(state.phase))
    ended.set()
    total = await busy
    assert total > 35
    after = await bench.until(total * 4, tenant="rebuild")
    assert len(after) == total * 4
    assert [d for d in after if int(d["thread_id"].split("-")[1]) < 30] == before
    await bench.until_lag_is(0)
    newest = await bench.found(THREADS, tenant="rebuild")
    assert [d for d in newest if int(d["thread_id"].split("-")[1]) < 30] == threads
    assert len(newest) == total
    assert await bench.found(STATES, tenant="rebuild-orphan") == []
    indices = set(await bench.opensearch.request("GET", "/perdure-*/_alias"))
    assert indices == {report.states_index, report.threads_index}
    assert set(report.removed) == old
    assert list(dict.fromkeys(phases)) == ["first pass", "switching", "second pass", "removing", "done"]
    client.close()


def stored_run(n: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    thread, run_id, at = f"rebuild-{n:04d}", f"{n % 256:02x}-run-{n}", datetime.now(UTC).replace(microsecond=0)
    run = {
        "_id": run_id,
        "tenant": "rebuild",
        "thread_id": thread,
        "graph_id": "g",
        "assistant_id": "a",
        "graph_version": "v1",
        "metadata": {"n": n},
        "status": "success",
        "updated_at": at,
    }
    shared = {"thread": thread, "run": run_id, "epoch": 1, "at": at}
    entries: list[dict[str, Any]] = [
        {**shared, "_id": f"{thread}\x1fe\x1f1", "kind": "e", "seq": 1, "event": "started", "ev": {"worker_id": "w"}},
        {**shared, "_id": f"{thread}\x1ff\x1f5", "kind": "f", "seq": 5},
        {**shared, "_id": f"{thread}\x1fe\x1f4", "kind": "e", "seq": 4, "event": "success", "ev": {"steps": 2}},
    ]
    entries += [
        {
            **shared,
            "_id": f"{thread}\x1fc\x1f\x1f{seq}",
            "kind": "c",
            "seq": seq,
            "ns": "",
            "checkpoint_id": str(seq),
            "step": seq,
            "ev": {"source": "loop", "nodes": ["work"], "next": ["work"], "text": f"$.a\tvalue {seq}"},
        }
        for seq in (2, 3)
    ]
    return run, entries


async def test_verify_finds_each_difference_and_repair_mends_exactly_these(bench: Bench) -> None:
    uri = bench.env["PERDURE_MONGODB_URI"].rsplit("/", 1)[0] + "/verify"
    settings = IndexerSettings(**{k.removeprefix("PERDURE_").lower(): v for k, v in bench.env.items()})  # type: ignore[arg-type]
    mongo_client = mongo.connect(uri)
    db = mongo.database(mongo_client, uri)
    source = Source(db, load(settings.redaction_file, settings.redaction_key), settings)
    await bench.opensearch.request("DELETE", "/perdure-*")
    writer = Writer(bench.opensearch, settings)
    await writer.open()
    for n in range(20):
        run, entries = stored_run(n)
        await db.notebook.insert_many(entries)
        await db.runs.insert_one(run)
    soon = timedelta(seconds=-5)

    async def differences(*, full: bool = False) -> list[tuple[str, str, str]]:
        report = await verify(bench.opensearch, source, soon, full=full)
        assert report.states == 20 * 4
        return sorted((one.kind, one.of, one.id) for one in report.differences)

    everything = await verify(bench.opensearch, source, soon)
    assert len(everything.differences) == 20 * 5, "nothing is indexed yet"
    await repair(bench.opensearch, writer, everything)
    assert await differences() == []
    assert await differences(full=True) == []
    clean = await bench.found(STATES)
    threads = await bench.found(THREADS)

    await bench.roll_over()  # what is to be mended is in an index that takes no writes any more
    await writer.open()
    index = next(iter(await bench.opensearch.request("GET", f"/_alias/{THREADS}")))
    old = (await bench.opensearch.request("POST", f"/{STATES}/_search", {"size": 1}))["hits"]["hits"][0]["_index"]
    await bench.opensearch.request("PUT", f"/{old}/_settings", {"index.blocks.write": None})
    await bench.opensearch.request("DELETE", f"/{old}/_doc/rebuild-0003:2")
    altered = clean[4] | {"graph": "altered", "digest": 7}
    await bench.opensearch.request("PUT", f"/{old}/_doc/rebuild-0001:1", altered)
    surplus = clean[8] | {"thread_id": "ghost", "run_id": "no-run", "seq": 9}
    await bench.opensearch.request("PUT", f"/{old}/_doc/ghost:9", surplus)
    await bench.opensearch.request("PUT", f"/{index}/_doc/ghost", surplus)
    await bench.opensearch.request("DELETE", f"/{index}/_doc/rebuild-0005")
    same = {"version": 4 * NOTES_PER_SEQ, "version_type": "external_gte"}
    changed = threads[6] | {"status": "stuck", "digest": 7}
    await bench.opensearch.request("PUT", f"/{index}/_doc/rebuild-0006", changed, same)
    await bench.opensearch.request("PUT", f"/{old}/_doc/rebuild-0002:2", clean[9] | {"graph": "secretly"})
    await bench.opensearch.request("PUT", f"/{index}/_doc/rebuild-0007", threads[7] | {"status": "stuck"}, same)
    await bench.opensearch.request("PUT", f"/{old}/_settings", {"index.blocks.write": True})
    planted = [
        ("missing", "states", "rebuild-0003:2"),
        ("missing", "threads", "rebuild-0005"),
        ("surplus", "states", "ghost:9"),
        ("surplus", "threads", "ghost"),
        ("wrong", "states", "rebuild-0001:1"),
        ("wrong", "threads", "rebuild-0006"),
    ]
    assert await differences() == planted
    report = await verify(bench.opensearch, source, soon)
    assert report.runs == 3, "only runs that differ are read"
    await repair(bench.opensearch, writer, report)
    assert await differences() == []
    secretly = [("wrong", "states", "rebuild-0002:2"), ("wrong", "threads", "rebuild-0007")]
    assert await differences(full=True) == secretly, "altered without their digests"
    await repair(bench.opensearch, writer, await verify(bench.opensearch, source, soon, full=True))
    assert await differences(full=True) == []
    assert await bench.found(STATES) == clean
    assert await bench.found(THREADS) == threads
    blocked = await bench.opensearch.request("GET", f"/{old}/_settings", params={"flat_settings": "true"})
    assert blocked[old]["settings"]["index.blocks.write"] == "true"
    assert (await status(bench.opensearch, TopicAdmin(settings.kafka_bootstrap_servers)))["states"] == 80
    await mongo_client.drop_database("verify")
    mongo_client.close()


async def test_a_wrong_rule_stops_the_start_and_names_itself(bench: Bench, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text('[{"path": "$.a", "action": "drop"}, {"path": "$.b[", "action": "mask"}]')
    wrong = ServiceProcess("indexer", bench.env | {"PERDURE_REDACTION_FILE": str(rules)}, tmp_path, instance=2)
    with pytest.raises(LocalError) as failed:
        await asyncio.to_thread(wrong.start)
    assert "rule 2" in str(failed.value)
    assert "$.b[" in str(failed.value)


async def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.1)
