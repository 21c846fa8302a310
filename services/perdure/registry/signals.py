"""Signals: stored first, then given to the waits of their name; one that comes before its wait is kept for it (ADR 6).

Contract: a signal ends at most one wait, a wait is ended by at most one signal, in the order of arrival on both sides. Who stores
a signal calls :meth:`Signals.deliver`, whoever stores a wait calls :meth:`Signals.offer`; what a crash leaves half done is
finished by :meth:`Signals.sweep`. Reads and writes of concurrent signals share round trips.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from perdure.chassis.assignments import Assignment
from perdure.chassis.clock import now
from perdure.chassis.group_commit import DuplicateKey, GroupCommit
from perdure.chassis.group_read import GroupRead
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.chassis.payload import unpack
from perdure.chassis.telemetry import logger
from perdure.registry.waits import Waits
from perdure.schemas.documents import SIGNALS, WAITS, SignalDocument, WaitDocument, WaitStatus
from perdure.schemas.waits import OutcomeKind, WaitOutcome

log = logger(__name__)

FREE, TAKEN = "free", "taken"


@dataclass(frozen=True, slots=True)
class Stored:
    """A signal that is durable.

    Attributes:
        signal: As it is stored.
        earlier: It was there before, with the same id.
        wait: The open wait that it was stored for.

    """

    signal: SignalDocument
    earlier: bool = False
    wait: WaitDocument | None = None


class Signals:
    """The signals of all threads. Belongs to one event loop."""

    def __init__(self, db: Database, waits: Waits, availability: Availability) -> None:
        self._signals = db[SIGNALS]
        self._waits = waits
        self._commit = GroupCommit(db[SIGNALS], availability=availability)
        self._availability = availability
        are_open = {"status": WaitStatus.OPEN.value, "events.0": {"$exists": True}}
        self._open_waits: GroupRead[str, list[Any]] = GroupRead(
            _of_threads(db[WAITS], are_open, "opened_at"), availability=availability
        )
        self._free: GroupRead[str, list[Any]] = GroupRead(
            _of_threads(self._signals, {"state": FREE}, "created_at"), availability=availability
        )

    async def store(self, signal: SignalDocument) -> Stored:
        """Store a new signal, taken by the wait that it ends if there is one already, and not yet offered."""
        waits, free = await self._here(signal["thread_id"])
        wait = _first(waits, free, signal)
        taken: SignalDocument = {**signal, "state": TAKEN, "taken_by": wait["_id"]} if wait else signal
        try:
            await self._commit.write(inserts=[taken], nbytes=512 + len(signal["payload"]))
        except DuplicateKey:
            earlier: Any = await outlast(lambda: self._signals.find_one({"_id": signal["_id"]}), self._availability)
            return Stored(earlier, earlier=True)
        return Stored(taken, wait=wait)

    async def deliver(self, stored: Stored) -> bool:
        """Let a stored signal, and others of its thread, end open waits; whether it ended the one that it was stored for."""
        if stored.wait is not None and await self._deliver(stored.wait, stored.signal):
            return True
        await self.offer(stored.signal["thread_id"])
        return False

    async def offer(self, thread_id: str) -> int:
        """Let the free signals of a thread end its open waits; how many waits ended by it."""
        ended = 0
        while True:
            waits, free = await self._here(thread_id)
            delivered, again = await self._match(waits, free)
            ended += delivered
            if not again:
                break
        offered = {"offered": True}
        seen = [Assignment(one["_id"], offered, equal={"state": FREE}) for one in free if not one["offered"]]
        await self._commit.write(assignments=seen)
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
                log.exception("signal.not_offered", signal_id=signal["_id"], thread_id=signal.get("thread_id"))
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
        id_, packed = signal["_id"], signal.get("payload")
        if packed is None:
            stored: Any = await outlast(
                lambda: self._signals.find_one({"_id": id_}, {"payload": 1}), self._availability
            )
            packed = stored["payload"]
        woken = await self._waits.wake(
            wait,
            WaitOutcome(
                kind=OutcomeKind.SIGNAL,
                wait_id=wait["_id"],
                at=now(),
                name=signal["name"],
                signal_id=id_,
                payload=unpack(packed),
                sent_at=signal["created_at"],
            ),
        )
        ours: bool = woken.outcome.signal_id == id_
        change = {"offered": True} if ours else {"state": FREE, "taken_by": None, "offered": False}
        taken = {"state": TAKEN, "taken_by": wait["_id"]}
        await self._commit.write(assignments=[Assignment(id_, change, equal=taken)])
        return ours

    async def _here(self, thread_id: str) -> tuple[list[Any], list[Any]]:
        """The open waits for signals and the free signals of a thread, in the order of arrival."""
        waits, free = await asyncio.gather(self._open_waits.get(thread_id), self._free.get(thread_id))
        return waits or [], free or []


def _first(
    waits: Sequence[WaitDocument], before: Sequence[Mapping[str, Any]], signal: SignalDocument
) -> WaitDocument | None:
    """The wait that a signal ends, unless one of those before it ends a wait: that one must be seen to first."""
    names = {one["name"] for one in before}
    if any(names.intersection(wait["events"]) for wait in waits):
        return None
    return next((wait for wait in waits if signal["name"] in wait["events"]), None)


def _of_threads(
    collection: Any, condition: Mapping[str, Any], by: str
) -> Callable[[Sequence[str]], Awaitable[Mapping[str, list[Any]]]]:
    """Reads documents, without payloads, by thread, in the order of ``by``."""

    async def fetch(threads: Sequence[str]) -> Mapping[str, list[Any]]:
        query = {"thread_id": {"$in": list(threads)}, **condition}
        found: dict[str, list[Any]] = {}
        for one in await collection.find(query, {"payload": 0}).to_list(None):
            found.setdefault(one["thread_id"], []).append(one)
        for several in found.values():
            several.sort(key=lambda one: (one[by], one["_id"]))
        return found

    return fetch
