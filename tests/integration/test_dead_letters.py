"""Dead letters from the record that nobody can read to its redrive, on a real broker, a real database and the real processes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from tests.integration.dead_letter_stage import (
    Letter,
    Place,
    buried,
    command,
    consuming,
    nothing,
    record_at,
    stored,
    thread_id,
)
from tests.support.polling import until

from perdure.chassis import mongo
from perdure.chassis.kafka.consumer import Refused
from perdure.chassis.kafka.deadletter import Origin
from perdure.chassis.kafka.isolation import Isolation
from perdure.chassis.kafka.producer import Producer
from perdure.cli.__main__ import main
from perdure.cli.provision import provision
from perdure.local.services import Services
from perdure.local.stack import Stack
from perdure.scheduler.deadletters import DeadLetters
from perdure.scheduler.settings import SchedulerSettings
from perdure.schemas import topics
from perdure.schemas.catalogue import CONTENTS
from perdure.schemas.commands import COMMANDS, StartRun
from perdure.schemas.deadletter import Reason
from perdure.schemas.deadletter_documents import UNOWNED
from perdure.schemas.envelope import Decoded, Record

pytestmark = pytest.mark.timeout(180)

CONSUMED = [topic for topic in topics.PRIMARY if topic.consumed]


@pytest.fixture(scope="module")
def place(stack: Stack) -> Iterator[Place]:
    uri = stack.environment()["PERDURE_MONGODB_URI"].rpartition("/")[0] + f"/dead_{uuid.uuid4().hex[:8]}"
    provision(stack.environment() | {"PERDURE_MONGODB_URI": uri})
    with Services.of(stack, ("gateway", "scheduler"), {"PERDURE_MONGODB_URI": uri}) as services:
        made = Place(services, uri, stack.environment()["PERDURE_KAFKA_BOOTSTRAP_SERVERS"])
        yield made
        made.http.close()
        made.mongo.close()


@pytest.fixture
async def producer(place: Place) -> AsyncIterator[Producer]:
    made = Producer(place.bootstrap, "test")
    yield made
    await made.close()


async def test_a_broken_record_of_every_consumed_topic_is_listed_with_its_original_bytes(
    place: Place, producer: Producer
) -> None:
    broken = {topic.name: f"{topic.name} \x00 is not json".encode() + b"\xff" for topic in CONSUMED}
    good = command("x")
    async with contextlib.AsyncExitStack() as consumers:
        for topic in CONSUMED:
            types = CONTENTS.get(topic.name, {})
            await consumers.enter_async_context(consuming(place, topic, types, nothing, f"g.{uuid.uuid4().hex}"))
        for topic in CONSUMED:
            await producer.send(topic.name, Record(b"key-of-nobody", broken[topic.name], good.headers))
        for topic in CONSUMED:
            value = broken[topic.name]
            (letter,) = await until(partial(place.letters, topic=topic.name, value=value), topic.name)
            assert letter["_id"] == f"{topic.name}:{letter['partition']}:{letter['offset']}"
            shown = place.http.get(f"/dead-letters/{letter['_id']}").raise_for_status().json()
            assert base64.b64decode(shown["value"]) == value
            assert (shown["value_encoding"], shown["key"], shown["state"]) == ("base64", "key-of-nobody", "open")
            assert [(h["name"], h["value"].encode()) for h in shown["headers"]] == good.headers
            expected = Reason.PAYLOAD if topic == topics.COMMANDS else Reason.UNKNOWN_TYPE
            assert shown["reason"] == expected
            assert shown["detail"]
            listed = place.http.get("/dead-letters", params={"topic": topic.name, "state": "open"}).json()["items"]
            assert letter["_id"] in [one["id"] for one in listed]


async def test_records_that_nobody_buried_are_kept_too(place: Place, producer: Producer) -> None:
    key = uuid.uuid4().hex.encode()
    (letter,) = await stored(place, producer, Record(key, b"\x00", []))
    assert letter["topic"] == topics.COMMANDS.dead
    assert (letter["reason"], letter["tenant"], letter["thread_id"]) == ("unreadable", UNOWNED, None)
    refused = place.http.post(f"/dead-letters/{letter['_id']}/redrive")
    assert refused.status_code == 409
    assert refused.json()["type"].endswith("redrive-refused")
    assert place.letters(_id=letter["_id"])[0]["state"] == "open"


async def test_a_repeat_changes_nothing_and_another_record_at_the_same_place_is_kept(
    place: Place, producer: Producer
) -> None:
    record = command(thread_id())
    offset = int(time.time_ns())
    first = buried(record, place, offset)
    again = buried(record, place, offset, time=datetime.now(UTC) + timedelta(seconds=5))
    other = buried(Record(record.key, b"{}", record.headers), place, offset)
    letters = await stored(place, producer, first, again, other, again, count=2)
    assert {letter["value"] for letter in letters} == {record.value, b"{}"}
    assert {letter["_id"].split(":")[2] for letter in letters} == {str(offset)}


async def test_a_version_that_nobody_reads_is_buried_again_when_it_is_redriven(
    place: Place, producer: Producer
) -> None:
    thread = thread_id()
    record = command(thread)
    future = Record(
        record.key, b'{"new": 1.000}', [(n, b"99" if n == "ce_schemaversion" else v) for n, v in record.headers]
    )
    async with consuming(place, topics.COMMANDS, COMMANDS, nothing, f"g.{uuid.uuid4().hex}"):
        await producer.send(topics.COMMANDS.name, future)
        (letter,) = await until(lambda: place.letters(thread_id=thread), "the letter")
        assert letter["reason"] == Reason.UNKNOWN_VERSION
        shown = place.http.get(f"/dead-letters/{letter['_id']}")
        assert shown.json()["value"] == {"new": 1.0}
        assert '"value":{"new": 1.000}' in shown.text, "the value as it was written"
        done = place.http.post(f"/dead-letters/{letter['_id']}/redrive", json={"by": "ann"}).raise_for_status().json()
        assert (done["state"], done["redrives"], done["redriven_by"]) == ("redriven", 1, "ann")
        first, second = await until(
            lambda: found if len(found := place.letters(thread_id=thread)) == 2 else None, "the second letter"
        )
        assert (second["redriven_from"], second["earlier_redrives"], second["state"]) == (first["_id"], 1, "open")
        assert (second["key"], second["value"]) == (future.key, future.value)
        place.http.post(f"/dead-letters/{second['_id']}/redrive").raise_for_status()
        third = (await until(lambda: place.letters(redriven_from=second["_id"]), "the third letter"))[0]
        assert third["earlier_redrives"] == 2
        assert [name for name, _ in third["headers"]].count("perdure_redrives") == 1


async def test_what_its_handler_refuses_is_buried_the_rest_is_handled_and_it_is_handled_after_the_fix(
    place: Place, producer: Producer
) -> None:
    bad, good = thread_id(), thread_id()
    seen: list[str] = []
    mended = False

    async def handle(batch: Sequence[Decoded]) -> None:
        refused = [one for one in batch if one.message.thread_id == bad and not mended]
        if refused:
            raise Refused("its thread is not ours", *refused)
        seen.extend(one.message.thread_id for one in batch)

    async with consuming(place, topics.COMMANDS, COMMANDS, handle, f"g.{uuid.uuid4().hex}"):
        for thread in (good, bad, good):
            await producer.send(topics.COMMANDS.name, command(thread))
        (letter,) = await until(lambda: place.letters(thread_id=bad), "the letter")
        await until(lambda: seen.count(good) == 2, "the others")
        assert (letter["reason"], letter["detail"]) == (Reason.HANDLER, "its thread is not ours")
        mended = True
        place.http.post(f"/dead-letters/{letter['_id']}/redrive").raise_for_status()
        await until(lambda: bad in seen, "the redriven record")
    assert seen.count(bad) == 1


async def test_a_handler_that_refuses_what_it_was_not_given_fails_for_what_it_was_given(
    place: Place, producer: Producer
) -> None:
    stranger = Decoded(None, None)  # type: ignore[arg-type]
    thread = thread_id()

    async def handle(batch: Sequence[Decoded]) -> None:
        raise Refused("none of these", stranger)

    async with consuming(place, topics.COMMANDS, COMMANDS, handle, f"g.{uuid.uuid4().hex}"):
        await producer.send(topics.COMMANDS.name, command(thread))
        (letter,) = await until(lambda: place.letters(thread_id=thread), "the letter")
    assert letter["reason"] == Reason.HANDLER
    assert letter["detail"].endswith("Refused: none of these")


async def test_a_dead_letter_that_names_no_possible_place_is_kept_where_it_is(place: Place, producer: Producer) -> None:
    """No number of MongoDB's holds the offset that it names."""
    (far,) = await stored(place, producer, buried(command(thread_id()), place, 2**70))
    assert far["topic"] == topics.COMMANDS.dead
    assert far["detail"] == "made for a test"


async def test_a_dead_letter_that_the_database_refuses_stops_no_other(place: Place) -> None:
    """As a document it is larger than 16 MiB: its place, size and digest are kept, and it cannot be redriven."""
    headers = buried(Record(b"k", b"", [("", b"")] * 400_000), place, 1).headers
    offset = uuid.uuid4().int % 2**40
    large = Origin(topics.COMMANDS.dead, 0, offset, b"k", b"x" * 6_000_000, headers)
    sound = Origin(topics.COMMANDS.dead, 0, offset + 1, b"k", b"v", ())
    client = mongo.connect(place.uri)
    letters = DeadLetters(mongo.database(client, place.uri), SchedulerSettings())

    async def store(records: Sequence[Origin]) -> bool:
        await letters.store(records)
        return True

    assert await Isolation("test", store, letters.give_up).handle([large, sound])
    (short, whole) = (place.letters(_id=f"{topics.COMMANDS.dead}:0:{number}")[0] for number in (offset, offset + 1))
    assert (whole["value"], "omitted" in whole) == (b"v", False)
    assert short["omitted"] == {"size": 6_000_000, "digest": hashlib.sha256(large.value or b"").hexdigest()}
    refused = place.http.post(f"/dead-letters/{short['_id']}/redrive")
    assert refused.status_code == 409, refused.text
    client.close()


async def test_two_redrives_at_once_send_one_record(place: Place, producer: Producer) -> None:
    record = command(thread_id())
    (letter,) = await stored(place, producer, buried(record, place, time.time_ns()))
    async with httpx.AsyncClient(base_url=place.services.gateway_url, timeout=30) as http:
        path = f"/dead-letters/{letter['_id']}/redrive"
        answers = await asyncio.gather(*(http.post(path) for _ in range(8)))
    assert sorted(a.status_code for a in answers) == [200] + [409] * 7
    assert {a.json()["type"] for a in answers if a.status_code == 409} == {"urn:perdure:problem:dead-letter-decided"}
    (sent,) = record_at(place, record.key)
    assert sent.value() == record.value
    added = [("perdure_redrives", b"1"), ("perdure_redriven_from", letter["_id"].encode())]
    assert sent.headers() == record.headers + added
    refused = place.http.post(path)
    assert "was redriven at" in refused.json()["detail"]
    place.http.post(path, params={"force": "true"}).raise_for_status()
    again = record_at(place, record.key)
    assert [dict(one.headers() or [])["perdure_redrives"] for one in again] == [b"1", b"2"]
    assert place.letters(_id=letter["_id"])[0]["redrives"] == 2


async def test_many_are_redriven_in_the_order_in_which_they_died(place: Place, producer: Producer) -> None:
    thread, moment, start = thread_id(), datetime.now(UTC), time.time_ns()
    records = [
        buried(command(thread, f"r{n}"), place, start + n, time=moment + timedelta(milliseconds=n)) for n in range(250)
    ]
    await stored(place, producer, *reversed(records))
    body = {"thread_id": thread, "limit": 200}
    first = place.http.post("/dead-letters/redrive", json=body).raise_for_status().json()
    assert (len(first["redriven"]), first["refused"], first["more"]) == (200, [], True)
    second = place.http.post("/dead-letters/redrive", json=body).raise_for_status().json()
    assert (len(second["redriven"]), second["more"]) == (50, False)
    sent = [json.loads(one.value() or b"")["run_id"] for one in record_at(place, records[0].key)]
    assert sent == [f"r{n}" for n in range(250)]
    assert place.http.post("/dead-letters/redrive", json=body).json() == {"redriven": [], "refused": [], "more": False}


async def test_pages_filters_and_tenants(place: Place, producer: Producer) -> None:
    thread, start = thread_id(), time.time_ns()
    record = command(thread)
    await stored(place, producer, *(buried(record, place, start + n) for n in range(5)))
    found: list[str] = []
    params = {"thread_id": thread, "limit": "2"}
    while True:
        page = place.http.get("/dead-letters", params=params).raise_for_status().json()
        found += [item["id"] for item in page["items"]]
        if page["cursor"] is None:
            break
        params["cursor"] = page["cursor"]
    assert len(found) == 5
    assert found == [letter["_id"] for letter in sorted(place.letters(thread_id=thread), key=newest_first)]
    for wrong in ({"type": "perdure.run.cancel"}, {"reason": "handler"}, {"state": "dropped"}, {"topic": "x"}):
        assert place.http.get("/dead-letters", params={"thread_id": thread} | wrong).json()["items"] == []
    right = {"type": StartRun.TYPE, "reason": "payload", "topic": topics.COMMANDS.name}
    assert len(place.http.get("/dead-letters", params={"thread_id": thread} | right).json()["items"]) == 5
    assert place.http.get("/dead-letters", params={"cursor": "x"}).status_code == 422
    stranger = {"Perdure-Tenant": "other"}
    path = f"/dead-letters/{found[0]}"
    assert place.http.get("/dead-letters", params={"thread_id": thread}, headers=stranger).json()["items"] == []
    for call in (place.http.get(path, headers=stranger), place.http.post(f"{path}/redrive", headers=stranger)):
        assert call.status_code == 404
    assert place.http.post(f"{path}/drop", headers=stranger).status_code == 404
    many = place.http.post("/dead-letters/redrive", json={"thread_id": thread}, headers=stranger).json()
    assert many["redriven"] == []


def newest_first(letter: Letter) -> Any:
    return (-letter["died_at"].timestamp(), [-ord(c) for c in letter["_id"]])


async def test_a_dropped_letter_is_not_redriven_and_goes_in_thirty_days(place: Place, producer: Producer) -> None:
    record = command(thread_id())
    (letter,) = await stored(place, producer, buried(record, place, time.time_ns()))
    path = f"/dead-letters/{letter['_id']}"
    dropped = place.http.post(f"{path}/drop", json={"by": "bob"}).raise_for_status().json()
    assert (dropped["state"], dropped["dropped_by"]) == ("dropped", "bob")
    kept = datetime.fromisoformat(dropped["expires_at"]) - datetime.fromisoformat(dropped["dropped_at"])
    assert kept == timedelta(days=30)
    for action in ("drop", "redrive"):
        again = place.http.post(f"{path}/{action}")
        assert again.status_code == 409
        assert "by bob" in again.json()["detail"]
    assert record_at(place, record.key) == []
    assert place.http.post(f"{path}/redrive?force=true").json()["state"] == "redriven"


async def test_a_scheduler_killed_in_the_middle_loses_none(place: Place, producer: Producer) -> None:
    thread, start, count = thread_id(), time.time_ns(), 3000
    record = command(thread)
    for n in range(count):
        while True:
            try:
                producer.produce(topics.COMMANDS.dead, buried(record, place, start + n))
                break
            except BufferError:
                await asyncio.sleep(0.05)
    scheduler = place.services["scheduler"]
    await until(lambda: place.db.dead_letters.count_documents({"thread_id": thread}) > 0, "the first")
    scheduler.kill()
    before = place.db.dead_letters.count_documents({"thread_id": thread})
    await asyncio.to_thread(scheduler.start)
    await until(lambda: place.db.dead_letters.count_documents({"thread_id": thread}) == count, "all of them")
    assert 0 < before < count
    found = place.letters(thread_id=thread)
    assert sorted(letter["offset"] for letter in found) == list(range(start, start + count))
    metrics = httpx.get(f"{scheduler.address}/metrics").text
    assert 'perdure_dead_letters_open{topic="perdure.commands"}' in metrics


async def test_the_command_line(
    place: Place, producer: Producer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERDURE_URL", place.services.gateway_url)
    monkeypatch.setenv("USER", "carol")

    def perdure(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perdure", "dlq", *arguments])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    thread, start = thread_id(), time.time_ns()
    record = command(thread)
    await stored(place, producer, *(buried(record, place, start + n) for n in range(4)))
    ids = [f"perdure.commands:77:{start + n}" for n in range(4)]
    _, out, _ = perdure("list", "--thread", thread)
    assert out.splitlines()[0].split() == ["id", "state", "reason", "type", "thread", "died", "redrives"]
    assert all(id_ in out for id_ in ids)
    _, out, _ = perdure("show", ids[0])
    assert "made for a test" in out
    assert "ce_subject" in out
    assert '"reason": "registered"' in out
    status, out, _ = perdure("redrive", ids[0], "--json")
    assert status == 0
    assert [(one["state"], one["redriven_by"]) for one in json.loads(out)] == [("redriven", "carol")]
    status, _, err = perdure("redrive", ids[0])
    assert status == 1
    assert "was redriven" in err
    assert perdure("redrive", ids[0], "--force")[0] == 0
    status, out, _ = perdure("drop", ids[1])
    assert (status, "dropped" in out) == (0, True)
    status, out, _ = perdure("redrive", "--all", "--thread", thread, "--limit", "1")
    assert out.splitlines() == ["1 redriven", "More are open that fit: do it again, or raise --limit."]
    _, out, _ = perdure("redrive", "--all", "--thread", thread, "--json")
    assert json.loads(out) == {"redriven": [ids[3]], "refused": [], "more": False}
    _, out, _ = perdure("list", "--thread", thread)
    assert out.strip() == "no dead letter"
    _, out, _ = perdure("list", "--thread", thread, "--state", "all", "--json")
    assert [one["id"] for one in json.loads(out)] == ids[::-1]
    assert perdure("redrive")[0] == 2
    status, _, err = perdure("show", "nothing:0:0")
    assert status == 1
    assert "no dead letter" in err
