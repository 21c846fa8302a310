"""Claims: how a worker becomes the owner of runs, and how it gives them back (ADR 1).

Contract: a claim is a compare-and-set from ``pending`` to ``running`` that raises the epoch; a unique partial index lets one run of
a thread be running. Of several pending runs of a thread the oldest is claimed, whichever the command named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import uuid_utils
from pymongo import UpdateOne

from perdure.chassis import payload
from perdure.chassis.group_commit import DuplicateKey, GroupCommit
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.schemas.documents import PAYLOADS, RUNS, THREADS, RunDocument, RunStatus, ThreadDocument


@dataclass(frozen=True, slots=True)
class Claimed:
    """A run that this worker owns, with its thread as it was left."""

    run: RunDocument
    thread: ThreadDocument | None
    payload: dict[str, Any]


class Claims:
    """Claims of one worker."""

    def __init__(
        self, db: Database, runs: GroupCommit, availability: Availability, incarnation: Callable[[], str]
    ) -> None:
        self._db = db
        self._runs = runs
        self._availability = availability
        self._incarnation = incarnation

    async def claim(self, thread_ids: Collection[str]) -> list[Claimed]:
        """Claim the oldest pending run of each thread that has no running one; what was won."""
        due = await self.oldest_pending(list(thread_ids))
        if not due:
            return []
        token = str(uuid_utils.uuid7())
        now = datetime.now(UTC)
        owned = {
            "status": "running",
            "owner": self._incarnation(),
            "claim": token,
            "started_at": now,
            "updated_at": now,
        }
        outcomes = await asyncio.gather(
            *(
                self._runs.write(
                    updates=[UpdateOne({"_id": run_id, "status": "pending"}, {"$set": owned, "$inc": {"epoch": 1}})]
                )
                for run_id in due.values()
            ),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if outcome is not None and not isinstance(outcome, DuplicateKey):  # the thread has a running run already
                raise outcome
        runs = await self._find(RUNS, {"_id": {"$in": list(due.values())}, "claim": token})
        known = [run["thread_id"] for run in runs if not _is_fresh(run)]
        threads = {t["_id"]: t for t in await self._find(THREADS, {"_id": {"$in": known}})} if known else {}
        return [Claimed(run, threads.get(run["thread_id"]), await self._payload(run)) for run in runs]

    async def oldest_pending(self, thread_ids: Sequence[str]) -> dict[str, str]:
        """The oldest pending run of each thread: run id by thread id."""
        pending = await self._find(
            RUNS, {"thread_id": {"$in": list(thread_ids)}, "status": "pending"}, {"thread_id": 1, "created_at": 1}
        )
        oldest: dict[str, Mapping[str, Any]] = {}
        for run in pending:
            best = oldest.get(run["thread_id"])
            if best is None or (run["created_at"], run["_id"]) < (best["created_at"], best["_id"]):
                oldest[run["thread_id"]] = run
        return {thread: run["_id"] for thread, run in oldest.items()}

    async def with_thread(self, claimed: Claimed) -> Claimed:
        """A claim whose thread was taken for new, with its thread as it was left."""
        found = await self._find(THREADS, {"_id": claimed.run["thread_id"]})
        return replace(claimed, thread=found[0] if found else None)

    async def release(self, run: RunDocument) -> None:
        """Give a run back: pending again, for whoever takes it next. Does nothing when it is not ours any more."""
        change = {"status": RunStatus.PENDING.value, "owner": None, "updated_at": datetime.now(UTC)}
        await self._runs.write(
            updates=[UpdateOne({"_id": run["_id"], "epoch": run["epoch"], "status": "running"}, {"$set": change})]
        )

    async def _payload(self, run: RunDocument) -> dict[str, Any]:
        data = run.get("payload", b"")
        if run.get("payload_chunks"):
            chunks = await self._find(
                PAYLOADS, {"_id": {"$in": [f"{run['_id']}:{n}" for n in range(run["payload_chunks"])]}}
            )
            ordered = sorted(chunks, key=lambda c: int(c["_id"].rpartition(":")[2]))
            data = b"".join(c["data"] for c in ordered)
        found: dict[str, Any] = payload.unpack(data)
        return found

    async def _find(self, collection: str, query: dict[str, Any], fields: dict[str, Any] | None = None) -> list[Any]:
        return await outlast(lambda: self._db[collection].find(query, fields).to_list(None), self._availability)


def _is_fresh(run: RunDocument) -> bool:
    """Whether nothing should be stored for the run's thread yet; its first sequence number tells whether it is so."""
    return bool(run.get("new_thread")) and run["epoch"] == 1
