"""Claims on a real database: one owner for a run, one running run for a thread, and no claim lost with its answer."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import timedelta
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from perdure.agent_step.claims import Claimed, Claims
from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.outage import Availability
from perdure.chassis.payload import pack
from perdure.registry.runs import run_document
from perdure.registry.threads import thread_document


@pytest.fixture
async def db(mongodb_uri: str) -> AsyncIterator[mongo.Database]:
    client = mongo.connect(mongodb_uri)
    found = client[f"claims_{uuid.uuid4().hex[:8]}"]
    await mongo.ensure_indexes(found)
    yield found
    await client.drop_database(found.name)
    client.close()


async def thread_with_a_run(db: mongo.Database) -> tuple[str, str]:
    """A thread at sequence number 7, and a pending run of it; their ids."""
    thread_id = uuid.uuid4().hex
    await db.threads.insert_one({**thread_document(thread_id, "default", {}, now()), "seq": 7})
    return thread_id, await add_run(db, thread_id)


async def add_run(db: mongo.Database, thread_id: str, **fields: Any) -> str:
    """A run of a thread, pending unless ``fields`` say something else; its id."""
    run = run_document(
        tenant="default", thread_id=thread_id, graph_id="g", graph_version=None, packed=pack({"input": {"a": 1}}),
        metadata={}, traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01", moment=now(),
    )  # fmt: skip
    await db.runs.insert_one({**run, **fields})
    return run["_id"]


async def state_of(db: mongo.Database, run_id: str) -> tuple[str, int]:
    """Its status and its epoch."""
    run = await db.runs.find_one({"_id": run_id})
    assert run is not None
    return run["status"], run["epoch"]


def claims_of(db: mongo.Database, worker: str, kind: type[Claims] = Claims) -> Claims:
    return kind(db, GroupCommit(db["runs"], availability=Availability()), Availability(), lambda: worker, {"g"})


async def claim(claims: Claims, *thread_ids: str) -> list[Claimed]:
    return (await claims.claim(thread_ids, suspects=[], together=lambda _: 1)).won


@pytest.mark.parametrize("count", [1, 3])
async def test_a_claim_has_the_run_as_it_is_now_with_its_thread(db: mongo.Database, count: int) -> None:
    ids = [await thread_with_a_run(db) for _ in range(count)]
    won = await claim(claims_of(db, "w1"), *(thread_id for thread_id, _ in ids))
    assert {(one.run["thread_id"], one.run["_id"]) for one in won} == set(ids)
    for one in won:
        assert (one.run["status"], one.run["owner"], one.run["epoch"]) == ("running", "w1", 1)
        assert one.run == await db.runs.find_one({"_id": one.run["_id"]})
        assert one.thread is not None
        assert one.thread["seq"] == 7
        assert one.payload == {"input": {"a": 1}}


@pytest.mark.parametrize("count", [1, 3])
async def test_of_many_workers_one_gets_each_run(db: mongo.Database, count: int) -> None:
    threads = [(await thread_with_a_run(db))[0] for _ in range(count)]
    outcomes = await asyncio.gather(*(claim(claims_of(db, f"w{n}"), *threads) for n in range(8)))
    won = [one.run["thread_id"] for outcome in outcomes for one in outcome]
    assert sorted(won) == sorted(threads)
    assert {run["epoch"] async for run in db.runs.find({})} == {1}


class Overtaken(Claims):
    """Between its look and its claim another run of the first thread begins."""

    async def _unsettled(self, thread_ids: Collection[str]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        found = await super()._unsettled(thread_ids)
        await add_run(self._db, next(iter(thread_ids)), status="running", owner="another")
        return found


@pytest.mark.parametrize("count", [1, 3])
async def test_a_thread_that_got_a_running_run_meanwhile_is_left_alone(db: mongo.Database, count: int) -> None:
    ids = [await thread_with_a_run(db) for _ in range(count)]
    won = await claim(claims_of(db, "w1", Overtaken), *(thread_id for thread_id, _ in ids))
    assert {one.run["_id"] for one in won} == {run_id for _, run_id in ids[1:]}
    assert await state_of(db, ids[0][1]) == ("pending", 0)


@pytest.mark.parametrize("others", [0, 2])
async def test_a_thread_with_a_running_run_is_left_alone(db: mongo.Database, others: int) -> None:
    thread_id, run_id = await thread_with_a_run(db)
    await add_run(db, thread_id, status="running", owner="another")
    ids = [await thread_with_a_run(db) for _ in range(others)]
    won = await claim(claims_of(db, "w1"), thread_id, *(one for one, _ in ids))
    assert {one.run["_id"] for one in won} == {one for _, one in ids}
    assert await state_of(db, run_id) == ("pending", 0)


async def test_a_run_before_that_may_have_unpublished_events_comes_with_the_claim(db: mongo.Database) -> None:
    thread_id, run_id = await thread_with_a_run(db)
    before = await add_run(db, thread_id, status="success", first_seq=3)
    await add_run(db, thread_id, status="success", first_seq=1, settled=True)
    (won,) = await claim(claims_of(db, "w1"), thread_id)
    assert won.run["_id"] == run_id
    assert [one["_id"] for one in won.unsettled] == [before]


@pytest.mark.parametrize("others", [0, 2])
async def test_the_oldest_run_of_a_thread_is_claimed(db: mongo.Database, others: int) -> None:
    thread_id, _ = await thread_with_a_run(db)
    oldest = await add_run(db, thread_id, created_at=now() - timedelta(minutes=1))
    threads = [thread_id, *[(await thread_with_a_run(db))[0] for _ in range(others)]]
    won = await claim(claims_of(db, "w1"), *threads)
    assert [one.run["_id"] for one in won if one.run["thread_id"] == thread_id] == [oldest]
    assert len(won) == len(threads)


@pytest.mark.parametrize(
    ("fields", "held"),
    [({"not_before": now() + timedelta(hours=1)}, False), ({"crashes": 2}, True)],
    ids=["not yet due", "suspect"],
)
async def test_a_younger_run_does_not_overtake_one_that_must_wait(
    db: mongo.Database, fields: dict[str, Any], held: bool
) -> None:
    thread_id, younger = await thread_with_a_run(db)
    oldest = await add_run(db, thread_id, created_at=now() - timedelta(minutes=1), **fields)
    found = await claims_of(db, "w1").claim([thread_id], suspects=[3], together=lambda _: 1)
    assert found.won == []
    assert found.held == ([thread_id] if held else [])
    assert [await state_of(db, one) for one in (oldest, younger)] == [("pending", 0)] * 2


async def test_a_suspect_is_claimed_when_there_is_room(db: mongo.Database) -> None:
    thread_id, _ = await thread_with_a_run(db)
    oldest = await add_run(db, thread_id, created_at=now() - timedelta(minutes=1), crashes=2)
    (won,) = await claim(claims_of(db, "w1"), thread_id)
    assert (won.run["_id"], won.run["status"]) == (oldest, "running")


class Forgetful:
    """A collection whose first answer to an update is lost on its way, after the database has done it."""

    def __init__(self, collection: mongo.Collection) -> None:
        self._collection = collection
        self.lost = 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._collection, name)
        if name not in {"find_one_and_update", "update_many"}:
            return call

        async def lossy(*args: Any, **options: Any) -> Any:
            answer = await call(*args, **options)
            self.lost += 1
            if self.lost == 1:
                raise AutoReconnect("connection closed")
            return answer

        return lossy


@pytest.mark.parametrize("count", [1, 3])
async def test_a_claim_whose_answer_is_lost_is_ours(db: mongo.Database, count: int) -> None:
    ids = [await thread_with_a_run(db) for _ in range(count)]
    runs = Forgetful(db.runs)
    seen: Any = {"runs": runs, "threads": db.threads}
    won = await claim(claims_of(seen, "w1"), *(thread_id for thread_id, _ in ids))
    assert runs.lost == 2, "it was asked again"
    assert {one.run["_id"] for one in won} == {run_id for _, run_id in ids}
    assert {one.run["epoch"] for one in won} == {1}
