"""Looking ahead: a loop rests while nothing falls due, and never past what does. A real database."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from perdure.chassis import mongo
from perdure.scheduler.ahead import Ahead
from perdure.scheduler.clock import DatabaseClock
from perdure.schemas.documents import RUNS, WAITS

REST_S = 0.5


@pytest.fixture
async def db(mongodb_uri: str) -> AsyncIterator[mongo.Database]:
    client = mongo.connect(mongodb_uri)
    made = client[f"ahead_{uuid.uuid4().hex[:8]}"]
    await mongo.ensure_indexes(made)
    yield made
    await client.drop_database(made.name)
    client.close()


@pytest.mark.parametrize(
    ("due_in_s", "at_least", "at_most"),
    [(None, REST_S, REST_S), (-3, 0, 0), (0.3, 0.1, 0.3), (60, REST_S, REST_S)],
    ids=["nothing", "overdue", "in a moment", "later"],
)
async def test_a_rest_ends_when_something_falls_due(
    db: Any, due_in_s: float | None, at_least: float, at_most: float
) -> None:
    clock = DatabaseClock(db)
    if due_in_s is not None:
        await db[WAITS].insert_one({"_id": "w", "due_at": await clock.now() + timedelta(seconds=due_in_s)})
    assert at_least <= await Ahead(db, WAITS, "due_at", clock, REST_S).rest_s() <= at_most


async def test_the_earliest_counts_and_only_of_those_that_are_meant(db: Any) -> None:
    clock = DatabaseClock(db)
    now = await clock.now()
    await db[RUNS].insert_many(
        [{"_id": "started", "start_at": now, "idempotency_key": "s", "tenant": "default"}]
        + [{"_id": f"{n}", "delayed": True, "start_at": now + timedelta(seconds=n)} for n in (9, 0.4, 5)]
    )
    assert 0.1 < await Ahead(db, RUNS, "start_at", clock, REST_S, {"delayed": True}).rest_s() <= 0.4


async def test_while_something_was_due_a_moment_ago_nothing_is_asked(db: Any) -> None:
    ahead = Ahead(db, WAITS, "due_at", DatabaseClock(db), REST_S)
    await db[WAITS].insert_one({"_id": "w", "due_at": await DatabaseClock(db).now()})
    assert await ahead.rest_s() == 0
    await db[WAITS].delete_one({"_id": "w"})
    assert await ahead.rest_s() == 0
