"""Signals: stored first, then offered to the waits of their name; one that comes before its wait is kept for it (ADR 6).

Contract: a signal ends at most one wait, a wait is ended by at most one signal, in the order of arrival on both sides. Who stores
a signal and whoever stores a wait call :meth:`Signals.offer`; what a crash leaves half done is finished by :meth:`Signals.sweep`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from perdure.chassis.group_commit import DuplicateKey, GroupCommit
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.chassis.payload import unpack
from perdure.chassis.telemetry import logger
from perdure.registry.runs import now
from perdure.registry.waits import Waits
from perdure.schemas.documents import SIGNALS, WAITS, SignalDocument, WaitDocument, WaitStatus
from perdure.schemas.waits import OutcomeKind, WaitOutcome

log = logger(__name__)

FREE, TAKEN = "free", "taken"


class Signals:
    """The signals of all threads. Belongs to one event loop."""

    def __init__(self, db: Database, waits: Waits, availability: Availability) -> None:
        self._signals = db[SIGNALS]
        self._open_waits = db[WAITS]
        self._waits = waits
        self._commit = GroupCommit(db[SIGNALS], availability=availability)
        self._availability = availability

    async def store(self, signal: SignalDocument) -> SignalDocument | None:
        """Store a new signal, free and not yet offered; the earlier signal with its id, if there is one."""
        try:
            await self._commit.write(inserts=[signal], nbytes=512 + len(signal["payload"]))
        except DuplicateKey:
            earlier: Any = await outlast(lambda: self._signals.find_one({"_id": signal["_id"]}), self._availability)
            return earlier  # type: ignore[no-any-return]
        return None

    async def offer(self, thread_id: str) -> int:
        """Let the free signals of a thread end its open waits; how many waits ended by it."""
        ended = 0
        while True:
            waits = await self._sorted(
                self._open_waits,
                {"thread_id": thread_id, "status": WaitStatus.OPEN.value, "events.0": {"$exists": True}},
                "opened_at",
            )
            free = await self._sorted(self._signals, {"thread_id": thread_id, "state": FREE}, "created_at")
            delivered, again = await self._match(waits, free)
            ended += delivered
            if not again:
                break
        seen = [signal["_id"] for signal in free if not signal["offered"]]
        if seen:
            query = {"_id": {"$in": seen}, "state": FREE}
            await outlast(lambda: self._signals.update_many(query, {"$set": {"offered": True}}), self._availability)
        return ended

    async def sweep(self, before: datetime, limit: int = 1_000) -> int:
        """Finish what was begun before ``before`` and left half done; how many signals were looked at."""
        query = {"offered": False, "created_at": {"$lt": before}}
        found = await outlast(
            lambda: self._signals.find(query, {"payload": 0}).limit(limit).to_list(None), self._availability
        )
        for signal in found:
            try:
                wait = await self._waits.find(signal["taken_by"]) if signal["state"] == TAKEN else None
                if wait is not None:
                    await self._deliver(wait, signal)
                await self.offer(signal["thread_id"])
            except Exception:  # what is wrong with this one must not hold up the others; the next sweep tries again
                log.exception("signal.not_offered", signal_id=signal["_id"], thread_id=signal["thread_id"])
        return len(found)

    async def aclose(self) -> None:
        """Wait for what was submitted."""
        await self._commit.close()

    async def _match(self, waits: list[Any], free: list[Any]) -> tuple[int, bool]:
        """Give each wait the first signal that it waits for; how many it ended, and whether to look again."""
        delivered, again = 0, False
        left = list(free)
        for wait in waits:
            for signal in [one for one in left if one["name"] in wait["events"]]:
                left.remove(signal)
                if not await self._take(signal, wait):
                    again = True  # somebody else took it: the next one may be ours
                    continue
                if await self._deliver(wait, signal):
                    delivered += 1
                else:
                    again = True  # the signal is free again, for another wait
                break
        return delivered, again

    async def _take(self, signal: Mapping[str, Any], wait: WaitDocument) -> bool:
        change = {"$set": {"state": TAKEN, "taken_by": wait["_id"], "offered": False}}
        query = {"_id": signal["_id"], "$or": [{"state": FREE}, {"state": TAKEN, "taken_by": wait["_id"]}]}
        result = await outlast(lambda: self._signals.update_one(query, change), self._availability)
        return result.matched_count > 0

    async def _deliver(self, wait: WaitDocument, signal: Mapping[str, Any]) -> bool:
        """End a wait with the signal that was taken for it; false when it had ended otherwise and the signal is free again."""
        stored: Any = await outlast(
            lambda: self._signals.find_one({"_id": signal["_id"]}, {"payload": 1}), self._availability
        )
        woken = await self._waits.wake(
            wait,
            WaitOutcome(
                kind=OutcomeKind.SIGNAL,
                wait_id=wait["_id"],
                at=now(),
                name=signal["name"],
                signal_id=signal["_id"],
                payload=unpack(stored["payload"]),
                sent_at=signal["created_at"],
            ),
        )
        ours: bool = woken.outcome.signal_id == signal["_id"]
        change = {"offered": True} if ours else {"state": FREE, "taken_by": None, "offered": False}
        query = {"_id": signal["_id"], "state": TAKEN, "taken_by": wait["_id"]}
        await outlast(lambda: self._signals.update_one(query, {"$set": change}), self._availability)
        return ours

    async def _sorted(self, collection: Any, query: dict[str, Any], by: str) -> list[dict[str, Any]]:
        found = await outlast(lambda: collection.find(query, {"payload": 0}).to_list(None), self._availability)
        return sorted(found, key=lambda one: (one[by], one["_id"]))
