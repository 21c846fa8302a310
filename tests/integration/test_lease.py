"""The worker's lease on a real database: whatever a heartbeat meets, the next one tries again."""

from __future__ import annotations

import uuid
from typing import Any

from tests.support.polling import until

from perdure.agent_step.lease import Lease, Owned
from perdure.chassis import mongo

DEADLINE_S = 15.0


async def test_a_heartbeat_that_fails_ends_neither_the_lease_nor_the_heartbeats(database_uri: str) -> None:
    uri = f"{database_uri.rpartition('/')[0]}/lease_{uuid.uuid4().hex[:8]}"
    client = mongo.connect(uri)
    db = client[mongo.database_name(uri)]
    told: list[list[Owned]] = []
    lost: list[bool] = []
    lease = Lease(uri, 0.8, ["g"], lambda: lost.append(True), told.append, slots=1)
    await lease.start()

    async def expires_at() -> Any:
        found: Any = await db.workers.find_one({"_id": lease.incarnation})
        assert (found["state"], found["updates"]) == ("alive", True)
        return found["expires_at"]

    async def is_told() -> bool:
        return bool(told)

    try:
        await until(is_told, "the owned runs are told", DEADLINE_S)
        # No database error: the heartbeat itself cannot read this document, which lacks its epoch.
        await db.runs.insert_one({"_id": "damaged", "owner": lease.incarnation, "settled": False})
        renewed = {await expires_at()}
        before = len(told)

        async def is_renewed_often() -> bool:
            renewed.add(await expires_at())
            return len(renewed) > 4

        await until(is_renewed_often, "the lease is renewed", DEADLINE_S)
        assert len(told) <= before + 1, "the damaged document was read: this test shows nothing"
        assert lost == []

        await db.runs.delete_one({"_id": "damaged"})
        await db.runs.insert_one(
            {
                "_id": "r",
                "owner": lease.incarnation,
                "settled": False,
                "epoch": 2,
                "claim": "c",
                "cancel_requested_at": 0,
                "stream_asked": {"modes": ["custom"]},
            }
        )

        async def is_told_of_the_run() -> bool:
            return told[-1] == [Owned("r", 2, "c", cancelled=True, asked={"modes": ["custom"]})]

        await until(is_told_of_the_run, "the run is told", DEADLINE_S)
    finally:
        await lease.close()
    left: Any = await db.workers.find_one({"_id": lease.incarnation})
    assert left["state"] == "gone"
    await client.drop_database(db.name)
    client.close()
