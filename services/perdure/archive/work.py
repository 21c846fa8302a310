"""The right to work on one thread: a token in its document, a lease by the database's clock, and the thread's running slot.

Contract: whoever begins or takes over the work writes a new token first; every later step compares it, and steps that change the
thread's other documents do so in one transaction with that comparison (:meth:`Work.fenced`). So a process that was paused for an
hour changes nothing when it wakes. While the work lasts no run of the thread can be claimed, for it holds the one place that a
running run has (:meth:`Work.take_slot`, a unique index decides); runs that come meanwhile stay pending.

Outside: what is done with the right (``archiving``, ``restoring``, ``purging``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from pymongo.errors import DuplicateKeyError, PyMongoError

from perdure.archive.errors import WorkLostError
from perdure.archive.sources import Owner, slot_id
from perdure.chassis.clock import now
from perdure.chassis.mongo import Database, from_now, server_time
from perdure.chassis.telemetry import logger
from perdure.registry.runs import new_id
from perdure.schemas.documents import RUNS, THREADS, ArchiveState

log = logger(__name__)

LEASE_S: Final = 60.0

Document = dict[str, Any]
Change = Callable[[Any], Awaitable[None]]


class Work:
    """The work on one thread. Make it with :func:`begin` or :func:`take_over`."""

    def __init__(self, db: Database, thread: Mapping[str, Any], lease_s: float) -> None:
        self.thread = thread
        self.owner = Owner(thread["tenant"], thread["_id"])
        self.mark: Document = thread["archive"]
        self._db = db
        self._lease_s = lease_s
        self._lost = False

    @property
    def state(self) -> ArchiveState:
        """Where the thread is."""
        return ArchiveState(self.mark["state"])

    @property
    def key(self) -> str:
        """The key of the thread's object."""
        return str(self.mark["object"])

    def require(self) -> None:
        """Stop early when the work is another's by now.

        Raises:
            WorkLostError: it is.

        """
        if self._lost:
            raise WorkLostError(self.owner.thread_id)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Renew the lease for as long as the context lasts."""
        task = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def take_slot(self) -> bool:
        """Take the thread's running slot; false when a run of it is running."""
        slot = {
            "thread_id": self.owner.thread_id,
            "status": "running",
            "settled": True,
            "owner": "archive",
            "created_at": now(),
        }
        mine = {"_id": slot_id(self.owner.thread_id)}

        async def take(session: Any) -> None:
            await self._db[RUNS].update_one(mine, {"$setOnInsert": slot}, upsert=True, session=session)

        try:
            await self.fenced(take)
        except DuplicateKeyError:
            return False
        return True

    async def give_slot_back(self) -> None:
        """Give the running slot back: pending runs of the thread can be claimed."""

        async def remove(session: Any) -> None:
            await self._db[RUNS].delete_one({"_id": slot_id(self.owner.thread_id)}, session=session)

        await self.fenced(remove)

    async def advance(
        self, state: ArchiveState, *, only: Mapping[str, Any] | None = None, idle: bool = False, **changes: Any
    ) -> None:
        """Enter a state.

        Args:
            state: Which.
            only: What else must be so in the thread's document.
            idle: Nothing is left to do: the lease ends.
            changes: Fields of the mark; those of the thread itself with ``None`` for removal as ``thread={...}``.

        Raises:
            WorkLostError: the work is another's, or ``only`` does not hold.

        """
        own: Document = changes.pop("thread", {})
        put = {f"archive.{name}": value for name, value in changes.items()} | {"archive.state": state.value}
        put |= {name: value for name, value in own.items() if value is not None}
        gone = [name for name, value in own.items() if value is None]
        gone += ["archive.token", "archive.expires_at", "archive.trouble"] if idle else []
        update: Document = {"$set": put} | ({"$unset": dict.fromkeys(gone, "")} if gone else {})
        done = await self._db[THREADS].update_one(self._ours | dict(only or {}), update)
        if not done.matched_count:
            raise WorkLostError(self.owner.thread_id)
        self.mark = self.mark | changes | {"state": state.value}

    async def fenced(self, change: Change) -> None:
        """Change other documents in one transaction with the proof that the work is ours; ``change(session)`` may run again.

        Raises:
            WorkLostError: it is not; nothing was changed.

        """
        self.require()

        async def step(session: Any) -> None:
            lease = [{"$set": {"archive.expires_at": from_now(self._lease_s)}}]
            ours = await self._db[THREADS].update_one(self._ours, lease, session=session)
            if not ours.matched_count:
                raise WorkLostError(self.owner.thread_id)
            await change(session)

        async with await self._db.client.start_session() as session:
            await session.with_transaction(step)

    async def note_trouble(self, why: str) -> None:
        """Say in the mark what hinders the work, for whoever waits for it."""
        await self._db[THREADS].update_one(self._ours, {"$set": {"archive.trouble": why}})

    async def leave(self, seconds: float = 0) -> None:
        """Let another take the work over, at once or later."""
        await self._db[THREADS].update_one(self._ours, [{"$set": {"archive.expires_at": from_now(seconds)}}])

    async def end(self) -> None:
        """Take the mark off: the thread is as any other."""
        await self._db[THREADS].update_one(self._ours, {"$unset": {"archive": ""}})

    @property
    def _ours(self) -> Document:
        return {"_id": self.owner.thread_id, "archive.token": self.mark["token"]}

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                lease = [{"$set": {"archive.expires_at": from_now(self._lease_s)}}]
                renewed = await self._db[THREADS].update_one(self._ours, lease)
            except PyMongoError as error:
                log.warning("archive.lease_not_renewed", thread_id=self.owner.thread_id, error=str(error))
                continue
            if not renewed.matched_count:
                self._lost = True
                return


async def begin(
    db: Database, thread: Mapping[str, Any], state: ArchiveState, only: Mapping[str, Any], lease_s: float, **mark: Any
) -> Work | None:
    """Begin work on a thread that is as ``only`` says; ``None`` when it is not, or another works on it."""
    token = new_id()
    put: Document = {f"archive.{name}": value for name, value in mark.items()}
    put |= {"archive.state": state.value, "archive.token": token, "archive.expires_at": from_now(lease_s)}
    # Values as literals: in a pipeline a text that begins with $ would be a path.
    update = [{"$set": {name: one if name == "archive.expires_at" else {"$literal": one} for name, one in put.items()}}]
    query = {"_id": thread["_id"], "tenant": thread["tenant"], "archive.token": {"$exists": False}} | dict(only)
    done = await db[THREADS].update_one(query, update)
    return await _mine(db, thread["_id"], token, lease_s) if done.matched_count else None


async def take_over(db: Database, lease_s: float, limit: int, states: Mapping[str, Any]) -> list[Work]:
    """Take over what others left: work whose lease has expired, in these states (a condition on ``archive.state``)."""
    late = {"archive.expires_at": {"$lt": await server_time(db)}, "archive.state": states}
    found = await db[THREADS].find(late, {"archive.token": 1}).limit(limit).to_list(None)
    taken: list[Work] = []
    for thread in found:
        token = new_id()
        same = late | {"_id": thread["_id"], "archive.token": thread["archive"].get("token")}
        lease = [{"$set": {"archive.token": token, "archive.expires_at": from_now(lease_s)}}]
        if (await db[THREADS].update_one(same, lease)).matched_count:
            work = await _mine(db, thread["_id"], token, lease_s)
            if work is not None:
                taken.append(work)
    return taken


async def _mine(db: Database, thread_id: str, token: str, lease_s: float) -> Work | None:
    thread = await db[THREADS].find_one({"_id": thread_id, "archive.token": token})
    return None if thread is None else Work(db, thread, lease_s)
