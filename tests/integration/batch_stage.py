"""A database with batches, the scheduler's part in them, and a worker that only pretends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.polling import until

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.outage import Availability
from perdure.chassis.payload import pack, unpack
from perdure.registry.batch_progress import counted
from perdure.registry.batches import thread_id_of
from perdure.registry.runs import new_id
from perdure.registry.waits import Waits
from perdure.scheduler.batch_events import Outbox
from perdure.scheduler.batches import Batches
from perdure.scheduler.settings import SchedulerSettings
from perdure.schemas.batch_documents import item_key

Document = dict[str, Any]


class Stage:
    """One database."""

    def __init__(self, db: mongo.Database, producer: Producer, **settings: Any) -> None:
        self.db = db
        self.producer = producer
        self.settings = SchedulerSettings(batch_backoff_s=0.0, batch_patience_s=3600.0, **settings)
        availability = Availability()
        self.runs = GroupCommit(db.runs, availability=availability)
        self.waits = Waits(db, self.runs, producer, availability, "test")
        self.batches = self.leader()

    def leader(self) -> Batches:
        """Another leader, that knows nothing yet."""
        return Batches(self.db, self.producer, self.waits, self.settings)

    async def close(self) -> None:
        await asyncio.gather(self.waits.aclose(), self.runs.close())

    async def worker(self, slots: int = 200) -> None:
        """A worker that is alive."""
        await self.db.workers.insert_one({"_id": new_id(), "state": "alive", "slots": slots, "graphs": ["agent"]})

    async def batch(self, total: int, **fields: Any) -> str:
        """A batch as the gateway leaves it."""
        batch: Document = {
            "_id": new_id(),
            "tenant": "default",
            "graph_id": "agent",
            "assistant_id": "agent",
            "metadata": {},
            "defaults": pack({}).inline,
            "concurrency": 10,
            "max_attempts": 1,
            "failure_threshold": None,
            "status": "pending",
            "pause_reason": None,
            "total": total,
            "counts": counted({"waiting": total}),
            "forgiven": 0,
            "reached": 0,
            "finished": 0,
            "samples": [],
            "outbox": [],
            "open": True,
            "created_at": now(),
            **fields,
        }
        items = [
            {
                "_id": item_key(batch["_id"], number),
                "batch": batch["_id"],
                "number": number,
                "status": "waiting",
                "payload": pack({"input": {"n": number}}).inline,
                "attempt": 0,
            }
            for number in range(1, total + 1)
        ]
        await self.db.batch_items.insert_many(items)
        await self.db.batches.insert_one(batch)
        return str(batch["_id"])

    async def document(self, batch_id: str) -> Document:
        found: Document | None = await self.db.batches.find_one({"_id": batch_id})
        assert found is not None
        return found

    async def counts(self, batch_id: str) -> dict[str, int]:
        """By the items, those that there are none of left out; what the batch's document says is the same."""
        found: dict[str, int] = {}
        async for item in self.db.batch_items.find({"batch": batch_id}, {"status": 1}):
            found[item["status"]] = found.get(item["status"], 0) + 1
        return found

    async def pending(self, batch_id: str) -> list[Document]:
        """Its runs that a worker could claim."""
        query = {"batch.id": batch_id, "status": "pending"}
        return await self.db.runs.find(query).sort("batch.number", 1).to_list(None)

    async def end(self, run: Mapping[str, Any], status: str, **fields: Any) -> None:
        """What agent-step writes when a run ends."""
        ended = {"status": status, "ended_at": now(), "settled": True, "batch_noted": False, **fields}
        await self.db.runs.update_one({"_id": run["_id"], "status": "pending"}, {"$set": ended})

    async def work(self, batch_id: str, status: Callable[[int], str] = lambda _: "success") -> int:
        """End every pending run, as the input says; how many."""
        runs = await self.pending(batch_id)
        for run in runs:
            number = unpack(run["payload"])["input"]["n"]
            ended = status(number)
            error = {"error": {"type": "E", "message": f"no {number}", "node": "n"}} if ended == "error" else {}
            await self.end(run, ended, **error)
        return len(runs)

    async def run_to_end(self, batch_id: str, status: Callable[[int], str] = lambda _: "success") -> Document:
        """Turn and work until the batch does not go on."""

        async def look() -> Document:
            await self.batches.turn()
            await self.work(batch_id, status)
            return await self.document(batch_id)

        going_on = ("pending", "running", "cancelling")
        return await until(look, "the batch does not go on", holds=lambda found: found["status"] not in going_on)

    async def told(self, batch_id: str) -> list[Document]:
        """What is in the outbox; it is published and taken off."""
        entries: list[Document] = (await self.document(batch_id))["outbox"]
        await Outbox(self.db, self.producer).publish()
        assert (await self.document(batch_id))["outbox"] == []
        return entries

    async def assert_once(self, batch_id: str) -> None:
        """Every item has one run for each attempt, on a thread of its own."""
        batch = await self.document(batch_id)
        items = await self.db.batch_items.find({"batch": batch_id}).to_list(None)
        runs = await self.db.runs.find({"batch.id": batch_id}).to_list(None)
        found = sorted((run["batch"]["number"], run["batch"]["attempt"]) for run in runs)
        wanted = [(item["number"], attempt) for item in items for attempt in range(1, item["attempt"] + 1)]
        assert found == sorted(wanted)
        assert {run["thread_id"] for run in runs} == {thread_id_of(batch, i["number"]) for i in items if i["attempt"]}
        threads = await self.db.threads.count_documents({"batch.id": batch_id})
        assert threads == sum(item["attempt"] > 0 for item in items)
