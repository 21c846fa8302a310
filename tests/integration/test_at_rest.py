"""Encryption of what is stored, on a real server: switched on over plain documents, rotated under load, with a wrong key."""

from __future__ import annotations

import asyncio
import operator
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

import pytest
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from langgraph.graph import START, StateGraph

from perdure.chassis import at_rest, mongo
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.keyring import KeyRing, SealedError
from perdure.chassis.resealing import reseal
from perdure.checkpoint import PerdureSaver, keys
from perdure.checkpoint.store import COLLECTION

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
SECRET = "secretive-4711"
RAW: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def graph_of(saver: PerdureSaver) -> Any:
    builder = StateGraph(State)
    builder.add_node("work", lambda state: {"log": [f"{SECRET} {len(state['log'])} " + SECRET * 100]})
    builder.add_edge(START, "work")
    builder.add_conditional_edges("work", lambda state: "work" if len(state["log"]) % 10 else "__end__")
    return builder.compile(checkpointer=saver)


def of(thread: str) -> Any:
    return {"configurable": {"thread_id": thread, "note": f"{SECRET} of the configuration"}}


@pytest.fixture
async def db(database_uri: str) -> AsyncIterator[mongo.Database]:
    client = mongo.connect(database_uri)
    name = f"at_rest_{uuid.uuid4().hex[:8]}"
    yield client[name]
    at_rest.switch_on(None)
    await client.drop_database(name)
    client.close()


async def in_the_clear(db: mongo.Database) -> list[str]:
    """Ids of the documents in which the secret can be read."""
    return [
        f"{name} {document['_id']}"
        for name in await db.list_collection_names()
        async for document in db[name].with_options(codec_options=RAW).find({})
        if SECRET.encode() in document.raw
    ]


async def log_of(saver: PerdureSaver, thread: str) -> list[str]:
    found = await graph_of(saver).aget_state(of(thread))
    return list(found.values["log"])


async def test_it_is_switched_on_over_plain_documents_and_the_rest_is_encrypted_when_asked(db: mongo.Database) -> None:
    plain = PerdureSaver(db)
    await graph_of(plain).ainvoke({"log": ["begin"]}, of("before"))
    waiting = {"_id": "w", "question": {"question": SECRET, "action": {"pay": SECRET}}, "status": "open"}
    await db.waits.insert_one(waiting)
    assert await in_the_clear(db)
    at_rest.switch_on(KeyRing({"k1": OLD}))
    await mongo.check_keys(db)
    saver = PerdureSaver(db)
    before = await log_of(saver, "before")
    assert len(before) == 10
    await graph_of(saver).ainvoke({"log": ["more"]}, of("before"))
    await graph_of(saver).ainvoke({"log": ["begin"]}, of("after"))
    segment = keys.segment("after", b"")
    assert [one for one in await in_the_clear(db) if "after" in one] == []
    assert await db[COLLECTION].count_documents({"_id": {"$gte": segment, "$lt": segment + "\U0010ffff"}}) > 0
    report = await reseal(db)
    assert report.changed > 0
    assert await in_the_clear(db) == []
    assert (await reseal(db, change=False)).left == 0
    assert (await log_of(PerdureSaver(db), "before"))[:10] == before
    assert await db.waits.find_one({"_id": "w", "question.question": {"$exists": True}}) == waiting


async def test_unchanged_segments_are_stored_once_also_by_another_worker(db: mongo.Database) -> None:
    at_rest.switch_on(KeyRing({"k1": OLD}))
    first = PerdureSaver(db)
    await graph_of(first).ainvoke({"log": ["begin"]}, of("t"))
    held = await db[COLLECTION].distinct("_id", keys.query(keys.of_kind("t", keys.SEGMENT)))
    config = (await graph_of(first).aget_state(of("t"))).config
    second = PerdureSaver(db)
    await graph_of(second).aupdate_state(config, {"log": ["short"]}, as_node="work")
    now = await db[COLLECTION].distinct("_id", keys.query(keys.of_kind("t", keys.SEGMENT)))
    assert set(held) <= set(now)
    assert len(now) - len(held) <= 4, "the blocks that did not change were stored again"


async def test_keys_rotate_while_threads_are_executed(db: mongo.Database) -> None:
    at_rest.switch_on(KeyRing({"k1": OLD}))
    await mongo.check_keys(db)
    saver = PerdureSaver(db)
    graph = graph_of(saver)
    await asyncio.gather(*(graph.ainvoke({"log": ["begin"]}, of(f"t{n}")) for n in range(10)))
    at_rest.switch_on(KeyRing({"k2": NEW, "k1": OLD}))
    running = [asyncio.create_task(graph.ainvoke({"log": ["again"]}, of(f"t{n}"))) for n in range(10)]
    report = await reseal(db)
    assert report.keys == {"k1"}
    await asyncio.gather(*running)
    found = await reseal(db, change=False)
    assert (found.left, found.keys, found.archived) == (0, set(), 0)
    assert await db[mongo.ENCRYPTION_KEYS].distinct("_id") == ["k2"], "the old key is not needed any more"
    at_rest.switch_on(KeyRing({"k2": NEW}))
    await mongo.check_keys(db)
    for n in range(10):
        assert len(await log_of(PerdureSaver(db), f"t{n}")) == 20


async def test_a_rotation_that_was_stopped_is_gone_on_with(db: mongo.Database) -> None:
    await db.payloads.insert_many([{"_id": f"r:{n:03d}", "data": SECRET.encode()} for n in range(250)])
    at_rest.switch_on(KeyRing({"k1": OLD}))

    def stop(report: Any) -> None:
        if report.changed >= 100:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await reseal(db, stop)
    assert len(await in_the_clear(db)) == 150
    report = await reseal(db)
    assert (report.documents["payloads"], report.changed) == (150, 150)
    assert await in_the_clear(db) == []


@pytest.mark.parametrize(
    ("ring", "says"),
    [
        (None, "the database holds encrypted values, and PERDURE_ENCRYPTION_KEYS is not set"),
        (KeyRing({"k2": NEW}), "'k1', and PERDURE_ENCRYPTION_KEYS has only k2: add that key"),
        (KeyRing({"k1": NEW}), "PERDURE_ENCRYPTION_KEYS has another key under that id"),
    ],
)
async def test_a_wrong_key_stops_the_start_and_loses_nothing(
    db: mongo.Database, ring: KeyRing | None, says: str
) -> None:
    at_rest.switch_on(KeyRing({"k1": OLD}))
    await mongo.check_keys(db)
    await graph_of(PerdureSaver(db)).ainvoke({"log": ["begin"]}, of("t"))
    at_rest.switch_on(ring)
    with pytest.raises(ConfigurationError, match=says):
        await mongo.ensure_indexes(db)
    at_rest.switch_on(KeyRing({"k1": OLD}))
    await mongo.ensure_indexes(db)
    assert len(await log_of(PerdureSaver(db), "t")) == 10


async def test_a_value_that_somebody_moved_is_not_read(db: mongo.Database) -> None:
    at_rest.switch_on(KeyRing({"k1": OLD}))
    saver = PerdureSaver(db)
    for thread in ("mine", "theirs"):
        await graph_of(saver).ainvoke({"log": ["begin"]}, of(thread))
    raw = db[COLLECTION].with_options(codec_options=CodecOptions())
    newest = [
        await raw.find_one(keys.query(keys.of_kind(one, keys.CHECKPOINT)), sort=[("_id", -1)])
        for one in ("mine", "theirs")
    ]
    assert all(newest)
    await raw.update_one({"_id": newest[0]["_id"]}, {"$set": {"body": newest[1]["body"]}})  # type: ignore[index]
    with pytest.raises(SealedError, match="was sealed for another document"):
        await log_of(PerdureSaver(db), "mine")


async def test_a_copied_thread_is_read_under_its_new_name(db: mongo.Database) -> None:
    at_rest.switch_on(KeyRing({"k1": OLD}))
    saver = PerdureSaver(db)
    await graph_of(saver).ainvoke({"log": ["begin"]}, of("source"))
    await saver.acopy_thread("source", "target")
    assert await in_the_clear(db) == []
    assert await log_of(PerdureSaver(db), "target") == await log_of(saver, "source")
