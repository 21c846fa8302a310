"""Which threads of ``on_completion: "delete"`` the scheduler deletes, and when, on a real database."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.registry.threads import thread_document
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.completed import Completed

AFTER_S = 60.0


@pytest.fixture
async def db(mongodb_uri: str) -> AsyncIterator[mongo.Database]:
    client = mongo.connect(mongodb_uri)
    made = client[f"completed_{uuid.uuid4().hex[:8]}"]
    await mongo.ensure_indexes(made)
    yield made
    await client.drop_database(made.name)
    client.close()


async def thread(
    db: mongo.Database, name: str, status: str = "success", age_s: float = 61, stands: str = "", **fields: Any
) -> None:
    """A thread whose last run, ``<name>-1``, ended so long ago; ``stands``: the thread's status, if not after that run."""
    at = now() - timedelta(seconds=age_s)
    stands = stands or ("interrupted" if status == "interrupted" else "idle")
    made = {
        **thread_document(name, "default", {}, at),
        "ephemeral": True,
        "ended_run_id": f"{name}-1",
        "status": stands,
    }
    made |= fields
    await db.threads.insert_one({key: value for key, value in made.items() if value is not None})
    await db.runs.insert_one(
        {"_id": f"{name}-1", "thread_id": name, "status": status, "settled": True, "tenant": "default"}
    )


async def deleted(db: mongo.Database) -> set[str]:
    return {one["_id"] async for one in db.threads.find({"archive.state": "removing"}, {"_id": 1})}


async def test_threads_are_deleted_once_they_have_ended(db: mongo.Database) -> None:
    for status in ("success", "error", "timeout", "cancelled"):
        await thread(db, status, status)
    await thread(db, "young", age_s=AFTER_S - 5)
    await thread(db, "asked", "interrupted", interrupts=[{"id": "i", "value": "?"}])
    await thread(db, "paused", "interrupted")
    await thread(db, "kept", ephemeral=None)
    await thread(db, "held", hold={"reason": "a case", "by": "ann"})
    await thread(db, "never-ran", ended_run_id=None)
    await thread(db, "goes-on")
    await db.runs.insert_one({"_id": "goes-on-2", "thread_id": "goes-on", "status": "pending", "settled": False})
    turns = Completed(db, DatabaseClock(db), AFTER_S)
    for _ in range(2):  # a repeat changes nothing
        await turns.turn()
        assert await deleted(db) == {"success", "error", "timeout", "cancelled"}
    hidden = {one["thread_id"] async for one in db.runs.find({"removing": True})}
    assert hidden == {"success", "error", "timeout", "cancelled"}
    await db.runs.update_one({"_id": "goes-on-2"}, {"$set": {"status": "success"}})
    await turns.turn()
    assert "goes-on" in await deleted(db)


async def test_a_thread_that_a_client_changed_at_a_break_point_has_not_ended(db: mongo.Database) -> None:
    for name, stands in (("paused", "interrupted"), ("finished", "idle")):
        update = {"ended_run_id": f"{name}-update", "last_run_id": f"{name}-1"}
        await thread(db, name, "interrupted", stands=stands, **update)
        await db.runs.insert_one({"_id": f"{name}-update", "thread_id": name, "status": "success", "kind": "update"})
    await Completed(db, DatabaseClock(db), AFTER_S).turn()
    assert await deleted(db) == {"finished"}, "the other one's next node has not run"


async def test_the_mark_is_the_one_that_a_deletion_by_a_client_leaves(db: mongo.Database) -> None:
    await thread(db, "t")
    await Completed(db, DatabaseClock(db), AFTER_S).turn()
    document = await db.threads.find_one({"_id": "t"})
    assert document is not None
    assert set(document["archive"]) == {"state", "at", "expires_at", "leftover"}
    assert abs((now() - document["archive"]["at"]).total_seconds()) < 30


async def test_threads_that_stay_keep_no_other_from_being_deleted(
    db: mongo.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.scheduler.completed.PORTION", 3)
    for number in range(4):
        await thread(db, f"paused-{number}", "interrupted", age_s=100 - number)
    moment = now() - timedelta(seconds=90)
    for number in range(7):  # more than a portion that ended at the same moment
        await thread(db, f"tied-{number}", "interrupted" if number < 4 else "success", updated_at=moment)
    await thread(db, "ended")
    turns = Completed(db, DatabaseClock(db), AFTER_S)
    for _ in range(6):
        await turns.turn()
    assert await deleted(db) == {"tied-4", "tied-5", "tied-6", "ended"}
    await thread(db, "older", age_s=200)
    for _ in range(5):  # the walk begins anew
        await turns.turn()
    assert "older" in await deleted(db)
