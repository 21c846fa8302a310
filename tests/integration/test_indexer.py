"""The indexer on real servers of its own: replay, poison, refusals, redaction, outage, death, rollover."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer
from tests.integration.indexer_stage import Bench, history, indexer_bench, indexer_servers, saved  # noqa: F401
from tests.support.polling import until_blocking

from perdure.chassis.clock import now
from perdure.chassis.opensearch import OpenSearchRefusedError
from perdure.local.errors import LocalError
from perdure.local.probes import probe_http
from perdure.local.services import ServiceProcess
from perdure.schemas import topics
from perdure.schemas.envelope import Record, encode
from perdure.schemas.events import (
    InterruptInfo,
    RunInterrupted,
)
from perdure.schemas.index import STATES, STATES_WRITE, THREADS

pytestmark = pytest.mark.timeout(240)


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
    sound = encode(saved("poison", 2, "poison"), id="poison:2", source="/tests", correlation_id="r", time=now())
    garbage = Record(b"poison", b"\x00not json", sound.headers)
    nameless = Record(b"poison", sound.value, [h for h in sound.headers if h[0] != "ce_type"])
    newer = Record(b"poison", sound.value, [(k, b"99" if k == "ce_schemaversion" else v) for k, v in sound.headers])
    unmappable = encode(
        saved("poison", 4, "poison", step=2**63), id="poison:4", source="/tests", correlation_id="r", time=now()
    )
    records = [encode(e, id=e.event_id, source="/tests", correlation_id="r", time=now()) for e in good]
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
    await asyncio.to_thread(
        until_blocking, lambda: probe_http(ready) is not None, "readiness says that OpenSearch is away"
    )
    await bench.publish(saved("away-x", 1, "away"))
    bench.stack.start_server("opensearch")
    assert len(await bench.until(881, tenant="away")) == 881
    await bench.until_lag_is(0)
    await asyncio.to_thread(until_blocking, lambda: probe_http(ready) is None, "ready again")
    assert bench.indexer.pid == pid
    assert bench.indexer.running


async def test_a_batch_that_waits_is_not_lost_by_a_shutdown(bench: Bench) -> None:
    await bench.until_lag_is(0)
    bench.stack.stop_server("opensearch", kill=True)
    await bench.publish(*[saved(f"shutdown-{n}", 1, "shutdown") for n in range(200)])
    ready = f"{bench.indexer.address}/ready"
    await asyncio.to_thread(
        until_blocking, lambda: probe_http(ready) is not None, "readiness says that OpenSearch is away"
    )
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
        topics.EVENTS.name,
        encode(saved("broker", 6, "broker"), id="broker:6", source="/tests", correlation_id="r", time=now()),
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


async def test_a_wrong_rule_stops_the_start_and_names_itself(bench: Bench, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text('[{"path": "$.a", "action": "drop"}, {"path": "$.b[", "action": "mask"}]')
    wrong = ServiceProcess("indexer", bench.env | {"PERDURE_REDACTION_FILE": str(rules)}, tmp_path, instance=2)
    with pytest.raises(LocalError) as failed:
        await asyncio.to_thread(wrong.start)
    assert "rule 2" in str(failed.value)
    assert "$.b[" in str(failed.value)
