"""The worker's lease: one document, renewed from a thread that no node can block (ADR 1).

Contract: :meth:`Lease.start` registers an incarnation; the heartbeat renews it every quarter of its time to live with the
database's clock. When the incarnation was declared dead, ``on_lost`` is called on the loop, once; the owner stops its tasks and
calls :meth:`renew_incarnation`. Every heartbeat that renewed the lease tells ``on_owned`` which runs the database says this
incarnation owns. No error ends the thread: it is logged, and the next heartbeat tries again.

A database that does not answer is no loss: nobody else can take the runs either, and every write is fenced.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import uuid_utils
from pymongo.errors import PyMongoError

from perdure.chassis.access import MongodbAccess
from perdure.chassis.mongo import connect_blocking, database_name, from_now
from perdure.chassis.telemetry import logger
from perdure.schemas.documents import RUNS, WORKERS

log = logger(__name__)

OWNED_FIELDS = {"epoch": 1, "claim": 1, "cancel_requested_at": 1, "stream_asked": 1}
JOIN_S = 5.0
"""How long an orderly end waits for a heartbeat that is under way."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A run that the database says a worker owns."""

    run_id: str
    epoch: int
    claim: str
    """Token of the claim by which it became the owner."""
    cancelled: bool
    """Whether somebody wants the run cancelled."""
    asked: Mapping[str, Any] | None = None
    """What readers asked for through another worker (``RunDocument.stream_asked``)."""

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> Self:
        """From the run's document, of which ``OWNED_FIELDS`` were read."""
        cancelled = "cancel_requested_at" in run
        return cls(run["_id"], run["epoch"], run.get("claim", ""), cancelled, run.get("stream_asked"))


class Lease:
    """The lease of this process's current incarnation."""

    def __init__(
        self,
        mongodb: MongodbAccess | str,
        ttl_s: float,
        graphs: Sequence[str],
        on_lost: Callable[[], None],
        on_owned: Callable[[list[Owned]], None],
        slots: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = connect_blocking(mongodb, maxPoolSize=2, serverSelectionTimeoutMS=2_000, socketTimeoutMS=5_000)
        self._db = self._client[database_name(mongodb)]
        self._ttl_s = ttl_s
        self._graphs = list(graphs)
        self._slots = slots
        self._on_lost = on_lost
        self._on_owned = on_owned
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)
        self.incarnation = ""

    async def start(self) -> None:
        """Register and begin to renew."""
        await self.renew_incarnation()
        self._thread.start()

    async def renew_incarnation(self) -> None:
        """Register under a new id."""
        self.incarnation = await asyncio.to_thread(self._register)

    async def close(self) -> None:
        """Leave in order: nobody has to wait for the lease to expire."""
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, JOIN_S)
        await asyncio.to_thread(self._leave)
        self._client.close()

    def _register(self) -> str:
        incarnation = str(uuid_utils.uuid7())
        self._db[WORKERS].update_one(
            {"_id": incarnation},
            [
                {
                    "$set": {
                        "host": socket.gethostname(),
                        "pid": os.getpid(),
                        "graphs": self._graphs,
                        "slots": self._slots,
                        "updates": True,
                        "state": "alive",
                        "started_at": "$$NOW",
                        "expires_at": from_now(self._ttl_s),
                    }
                }
            ],
            upsert=True,
        )
        return incarnation

    def _leave(self) -> None:
        try:
            self._db[WORKERS].update_one({"_id": self.incarnation}, {"$set": {"state": "gone"}})
        except PyMongoError as error:
            log.warning("lease.leave_failed", error=str(error))

    def _beat(self) -> None:
        reported = ""
        while not self._stop.wait(self._ttl_s / 4):
            incarnation = self.incarnation
            try:
                if self._renew(incarnation):
                    owned = self._owned(incarnation)
                    self._loop.call_soon_threadsafe(self._on_owned, owned)
                elif reported != incarnation and not self._stop.is_set():
                    reported = incarnation
                    self._loop.call_soon_threadsafe(self._on_lost)
            except PyMongoError as error:
                log.warning("lease.heartbeat_failed", error=str(error))
            except Exception:
                if self._stop.is_set() or self._loop.is_closed():
                    return
                log.exception("lease.heartbeat_failed")

    def _renew(self, incarnation: str) -> bool:
        """Renew the lease; false when this incarnation was declared dead."""
        alive = {"_id": incarnation, "state": "alive"}
        renewed = self._db[WORKERS].update_one(alive, [{"$set": {"expires_at": from_now(self._ttl_s)}}])
        return renewed.matched_count > 0

    def _owned(self, incarnation: str) -> list[Owned]:
        runs = self._db[RUNS].find({"settled": False, "owner": incarnation}, OWNED_FIELDS)
        return [*map(Owned.of, runs)]
