"""Group commit and group read on a real server: grouping, attribution, bounds, repeats."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from bson.errors import InvalidDocument
from pymongo import IndexModel, UpdateOne

from perdure.chassis import mongo
from perdure.chassis.group_commit import DuplicateKey, GroupCommit, WriteRefused
from perdure.chassis.group_read import GroupRead


@pytest.fixture(scope="module")
def uri(request: pytest.FixtureRequest) -> str:
    return os.environ.get("PERDURE_MONGODB_URI") or request.getfixturevalue("mongodb_uri")


@pytest.fixture
async def collection(uri: str) -> AsyncIterator[mongo.Collection]:
    client = mongo.connect(uri)
    name = f"commit_{uuid4().hex[:12]}"
    found = client[name]["documents"]
    await found.create_indexes([IndexModel([("n", 1)], unique=True, partialFilterExpression={"n": {"$exists": True}})])
    yield found
    await client.drop_database(name)
    client.close()


async def test_many_writers_share_few_commits_and_lose_nothing(collection: mongo.Collection) -> None:
    commit = GroupCommit(collection)

    async def writer(name: int) -> None:
        for turn in range(20):
            await commit.write(inserts=[{"_id": f"{name}:{turn}"}], updates=[counted(name, turn)])
            assert await collection.find_one({"_id": f"{name}:{turn}"}) is not None

    def counted(name: int, turn: int) -> UpdateOne:
        return UpdateOne({"_id": f"sum {name}"}, {"$max": {"turn": turn}}, upsert=True)

    await asyncio.gather(*(writer(name) for name in range(50)))
    assert await collection.count_documents({}) == 50 * 20 + 50
    assert commit.statistics.commits < 50 * 20 / 4
    assert commit.statistics.submissions == 50 * 20


async def test_a_refused_document_fails_only_its_submitter(collection: mongo.Collection) -> None:
    commit = GroupCommit(collection)
    await commit.write(inserts=[{"_id": "holder", "n": 7}])
    good = [commit.write(inserts=[{"_id": f"good {k}", "n": 100 + k}]) for k in range(20)]
    same_key = commit.write(inserts=[{"_id": "rival", "n": 7}])
    same_id = commit.write(inserts=[{"_id": "holder", "n": 8}])
    unsendable = commit.write(inserts=[{"_id": "bad", "value": object()}])
    outcomes = await asyncio.gather(*good[:10], same_key, same_id, unsendable, *good[10:], return_exceptions=True)
    rival, holder, bad = outcomes[10:13]
    assert [outcome for outcome in outcomes[:10] + outcomes[13:] if outcome is not None] == []
    assert isinstance(rival, DuplicateKey)
    assert (rival.index, rival.key, rival.document_id) == ({"n": 1}, {"n": 7}, "rival")
    assert isinstance(holder, DuplicateKey)
    assert holder.index == {"_id": 1}
    assert isinstance(bad, InvalidDocument)
    assert await collection.count_documents({}) == 21


async def test_a_refused_update_fails_only_its_submitter(collection: mongo.Collection) -> None:
    commit = GroupCommit(collection)
    await commit.write(inserts=[{"_id": "a", "n": 1}, {"_id": "b", "n": 2}])
    outcomes = await asyncio.gather(
        commit.write(updates=[UpdateOne({"_id": "a"}, {"$set": {"x": 1}})]),
        commit.write(updates=[UpdateOne({"_id": "b"}, {"$set": {"n": 1}})]),
        commit.write(updates=[UpdateOne({"_id": "b"}, {"$set": {"x": 2}})]),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], WriteRefused)
    assert [outcomes[0], outcomes[2]] == [None, None]
    assert [found["x"] for found in await collection.find({}).sort("_id", 1).to_list(None)] == [1, 2]


async def test_a_repeat_with_the_same_content_is_a_success(collection: mongo.Collection) -> None:
    commit = GroupCommit(collection)
    document: dict[str, Any] = {"_id": "x", "n": 1, "list": (1, 2), "at": None}
    await commit.write(inserts=[document])
    await commit.write(inserts=[document])
    await commit.write(content=[{"_id": "x", "other": True}])
    with pytest.raises(DuplicateKey):
        await commit.write(inserts=[{**document, "n": 2}])


async def test_order_holds_and_batches_are_bounded(collection: mongo.Collection) -> None:
    commit = GroupCommit(collection, max_ops=10, max_bytes=1000, max_pending_bytes=2000)
    done: list[int] = []

    async def submit(number: int) -> None:
        await commit.write(inserts=[{"_id": number}], nbytes=300)
        done.append(number)

    tasks = [asyncio.create_task(submit(number)) for number in range(100)]
    pending = 0
    while not all(task.done() for task in tasks):
        pending = max(pending, commit._pending_bytes)
        await asyncio.sleep(0)
    assert done == list(range(100))
    assert pending <= 2000
    assert commit.statistics.commits >= 33


async def test_a_closed_commit_refuses_and_leaves_nothing_behind(collection: mongo.Collection) -> None:
    commit = GroupCommit(collection)
    writes = [asyncio.create_task(commit.write(inserts=[{"_id": number}])) for number in range(10)]
    await asyncio.sleep(0)
    await commit.close()
    await asyncio.gather(*writes)
    assert await collection.count_documents({}) == 10
    with pytest.raises(WriteRefused):
        await commit.write(inserts=[{"_id": "late"}])


async def test_a_cancelled_submitter_does_not_stop_the_others(collection: mongo.Collection) -> None:
    commit = GroupCommit(collection)
    writes = [asyncio.create_task(commit.write(inserts=[{"_id": number}])) for number in range(10)]
    await asyncio.sleep(0)
    writes[3].cancel()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(outcomes[3], asyncio.CancelledError)
    assert [outcome for number, outcome in enumerate(outcomes) if number != 3] == [None] * 9


async def test_concurrent_reads_share_queries(collection: mongo.Collection) -> None:
    await collection.insert_many([{"_id": number} for number in range(100)])
    queries: list[int] = []

    async def fetch(wanted: Any) -> dict[int, int]:
        queries.append(len(wanted))
        if -1 in wanted:
            raise ValueError("-1 cannot be read")
        found = await collection.find({"_id": {"$in": list(wanted)}}).to_list(None)
        return {document["_id"]: document["_id"] for document in found}

    read: GroupRead[int, int] = GroupRead(fetch)
    assert await asyncio.gather(*(read.get(number % 120) for number in range(240))) == [
        number % 120 if number % 120 < 100 else None for number in range(240)
    ]
    assert len(queries) <= 2
    outcomes = await asyncio.gather(read.get(1), read.get(-1), read.get(2), return_exceptions=True)
    assert outcomes[0] == 1
    assert outcomes[2] == 2
    assert isinstance(outcomes[1], ValueError)
