"""Assignments on a real server: each document its own fields, in one statement, and only where it is as expected."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.chassis import mongo
from perdure.chassis.assignments import TOGETHER, Assignment, assign
from perdure.chassis.group_commit import DUPLICATE_KEY, GroupCommit, WriteRefused
from perdure.chassis.mongo import Collection


@pytest.fixture
async def collection(mongodb_uri: str) -> AsyncIterator[Collection]:
    uri = mongodb_uri.rsplit("/", 1)[0] + f"/assign_{uuid.uuid4().hex}"
    client = mongo.connect(uri)
    database = mongo.database(client, uri)
    yield database.runs
    await client.drop_database(database.name)
    client.close()


async def stored(collection: Collection) -> dict[Any, dict[str, Any]]:
    return {one.pop("_id"): one async for one in collection.find({})}


async def test_each_document_gets_its_own_fields(collection: Collection) -> None:
    await collection.insert_many([{"_id": n, "epoch": 1, "kept": "$epoch"} for n in range(50)])
    await assign(collection, [Assignment(n, {"epoch": n, "said": f"${n}", "deep": {"a.b": ["$x"]}}) for n in range(40)])
    found = await stored(collection)
    assert found[7] == {"epoch": 7, "kept": "$epoch", "said": "$7", "deep": {"a.b": ["$x"]}}
    assert all(found[n] == {"epoch": n, "kept": "$epoch", "said": f"${n}", "deep": {"a.b": ["$x"]}} for n in range(40))
    assert found[41] == {"epoch": 1, "kept": "$epoch"}


@pytest.mark.parametrize(
    ("document", "applies"),
    [
        ({"epoch": 2, "owner": None, "seq": 4}, True),
        ({"epoch": 2}, True),
        ({"epoch": 2, "status": "open"}, True),
        ({"epoch": 2, "status": "over"}, False),
        ({"epoch": 2, "owner": None, "seq": 5}, False),
        ({"epoch": 2, "owner": None, "seq": 6}, False),
        ({"epoch": 2, "owner": "somebody"}, False),
        ({"epoch": 3}, False),
        ({}, False),
    ],
)
async def test_only_what_is_as_expected(collection: Collection, document: dict[str, Any], applies: bool) -> None:
    await collection.insert_one({"_id": "x", **document})
    wanted = Assignment(
        "x", {"set": True}, equal={"epoch": 2, "owner": None}, unequal={"status": "over"}, below={"seq": 5}
    )
    await assign(collection, [wanted])
    assert (await stored(collection))["x"] == document | ({"set": True} if applies else {})


async def test_fields_are_taken_off(collection: Collection) -> None:
    await collection.insert_one({"_id": "x", "claim": "c", "due_at": 1, "kept": 2})
    await assign(
        collection, [Assignment("x", {"state": "sent"}, equal={"claim": "c"}, removed=("claim", "due_at", "no"))]
    )
    assert (await stored(collection))["x"] == {"kept": 2, "state": "sent"}


async def test_more_than_one_statement_takes(collection: Collection) -> None:
    await collection.insert_many([{"_id": n, "at": 0} for n in range(TOGETHER + 1)])
    first = [Assignment(n, {"at": n}) for n in range(TOGETHER + 1)]
    await assign(collection, [*first, *(Assignment(n, {"at": -n}, equal={"at": n}) for n in range(TOGETHER + 1))])
    assert await stored(collection) == {n: {"at": -n} for n in range(TOGETHER + 1)}


async def test_one_document_in_order(collection: Collection) -> None:
    await collection.insert_one({"_id": "x", "at": 0})
    steps = [Assignment("x", {"at": n + 1}, equal={"at": n}) for n in range(5)]
    await assign(collection, [*steps, Assignment("x", {"at": 99}, equal={"at": 3})])
    assert (await stored(collection))["x"] == {"at": 5}


async def test_what_is_missing_is_made_where_asked(collection: Collection) -> None:
    await collection.insert_one({"_id": "there", "made": 0})
    asked = [
        Assignment("there", {"seq": 1}, below={"seq": 1}, otherwise={"made": 1}),
        Assignment("missing", {"seq": 1}, below={"seq": 1}, otherwise={"made": 1}),
        Assignment("missing", {"seq": 2}, below={"seq": 2}, otherwise={"made": 2}),
        Assignment("nowhere", {"seq": 1}),
    ]
    for _ in range(2):  # a repeat changes nothing
        await assign(collection, asked)
        assert await stored(collection) == {"there": {"made": 0, "seq": 1}, "missing": {"made": 1, "seq": 2}}


async def test_two_make_the_same_at_once(collection: Collection) -> None:
    one = [Assignment(n, {"seq": 1}, below={"seq": 1}, otherwise={"made": 1}) for n in range(20)]
    await asyncio.gather(*(assign(collection, one) for _ in range(4)))
    assert await stored(collection) == {n: {"made": 1, "seq": 1} for n in range(20)}


async def test_a_refused_one_stops_no_other(collection: Collection) -> None:
    await collection.create_index([("name", 1)], unique=True, sparse=True)
    await collection.insert_many([{"_id": 0, "name": "taken"}, {"_id": 1}, {"_id": 2}])
    commit = GroupCommit(collection)
    outcomes = await asyncio.gather(
        commit.write(assignments=[Assignment(1, {"name": "taken"})]),
        commit.write(assignments=[Assignment(2, {"name": "free"})]),
        return_exceptions=True,
    )
    await commit.close()
    assert isinstance(outcomes[0], WriteRefused)
    assert outcomes[0].code == DUPLICATE_KEY
    assert outcomes[1] is None
    assert await stored(collection) == {0: {"name": "taken"}, 1: {}, 2: {"name": "free"}}
